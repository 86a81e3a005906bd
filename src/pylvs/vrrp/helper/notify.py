"""Notify about transitions by scripts, FIFOs and mail, as keepalived does.

The scripts of one instance or group begin in order: that of the state, then that of every state. FIFOs get a line
immediately. A state is mailed unless the last mail had it. Only `finish` waits for any of them, for a limited time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from pylvs.model.checks import Script
from pylvs.model.dataclass import replace
from pylvs.model.vrrp import Notify, VrrpConfiguration, VrrpSettings
from pylvs.model.wanted import GlobalSettings
from pylvs.notify.fifos import FifoSet
from pylvs.notify.mail import THIS_HOST, Alert, Outbox
from pylvs.system.processes.notify_scripts import NotifyScripts
from pylvs.system.processes.scripts import Processes, ScriptRunner
from pylvs.vrrp.helper.link import LowerPriorityReceived, PriorityChanged, StateChanged
from pylvs.vrrp.loop import RateLimiter

LOWER_PRIORITY_INTERVAL_S = 1.0  # between notifications of one instance about lower priorities
INSTANCE, GROUP = "INSTANCE", "GROUP"
LOWER_PRIORITY = "LOWER PRIORITY"  # no state: no script of a state waits for its scripts
_TITLES = {INSTANCE: "VRRP Instance", GROUP: "VRRP Group"}
Subject = tuple[str, str]


class Notifier:
    """Notify as the last configuration asks for."""

    def __init__(self, runner: ScriptRunner | None = None) -> None:
        self._processes = Processes(runner=runner)
        self._fifos = FifoSet(runner)
        self._scripts: NotifyScripts[Subject] = NotifyScripts(self._processes)
        self._outbox = Outbox()
        self._settings, self._routers = GlobalSettings(), VrrpSettings()
        self._notify_now: Mapping[Subject, Notify] = {}
        self._notify_before: Mapping[Subject, Notify] = {}
        self._mailed: dict[Subject, str] = {}  # the last state, since the last reload
        self._lower_priority = RateLimiter(LOWER_PRIORITY_INTERVAL_S)  # by instance

    def configure(self, settings: GlobalSettings, routers: VrrpConfiguration) -> None:
        """Apply a configuration; the former one still applies to instances that were removed."""
        self._settings, self._routers = settings, routers.settings
        self._processes.configure(settings.script_user, settings.script_group, settings.script_security, settings.umask)
        self._scripts.configure(settings.notify_timeout_s)
        self._outbox.configure(settings.mail)
        self._notify_before, self._notify_now = self._notify_now, notify_of(routers)
        self._fifos.configure(routers.settings.fifos, settings)
        self._mailed.clear()

    def state_changed(self, message: StateChanged) -> None:
        notify = self._notify(message.kind, message.name)
        if message.at_reload:
            if self._routers.states_on_reload:
                self._write_fifo(message.kind, message.name, message.state, message.priority)
            return
        state = message.state
        if state == "DELETED" and not notify.reports_deleted:
            state = "FAULT"
        fields = {"kind": message.kind.lower(), "name": message.name}
        subject = message.kind, message.name
        for keyword, script in scripts_of(message, notify, state):
            self._scripts.put(subject, keyword, script, fields)
        self._write_fifo(message.kind, message.name, state, message.priority)
        wanted = notify.smtp_alert and not (state == "FAULT" and self._routers.no_fault_mails)
        if wanted and self._mailed.get(subject) != state:
            self._mailed[subject] = state
            alert = alert_of(message, state, self._settings.router_id or THIS_HOST)
            if alert is not None:
                self._outbox.put(alert)

    def priority_changed(self, message: PriorityChanged) -> None:
        if self._notify(INSTANCE, message.name).priority_changes:
            self._write_fifo(INSTANCE, message.name, f"{message.state}_PRIORITY", message.priority)

    def lower_priority_received(self, message: LowerPriorityReceived) -> None:
        if self._lower_priority.allow(message.name, time.monotonic()) is None:
            return
        script = self._notify(INSTANCE, message.name).lower_priority_received
        if script is not None:
            fields = {"kind": "instance", "name": message.name}
            self._scripts.put((LOWER_PRIORITY, message.name), "notify_master_rx_lower_pri", script, fields)
        self._write_fifo(INSTANCE, message.name, "MASTER_RX_LOWER_PRI", message.priority)

    def scripts(self) -> dict[str, Any]:
        """Return which notify scripts run, wait, or had to be ended."""
        return self._scripts.report()

    def _notify(self, kind: str, name: str) -> Notify:
        subject = kind, name
        return self._notify_now.get(subject) or self._notify_before.get(subject) or Notify()

    def _write_fifo(self, kind: str, name: str, state: str, priority: int) -> None:
        self._fifos.write(f'{kind} "{name}" {state} {priority}')

    async def finish(self) -> None:
        """Finish pending notifications, for a limited time, then kill the scripts that still run."""
        await asyncio.gather(self._scripts.finish(), self._outbox.finish(), self._fifos.finish())
        await self._processes.close()

    async def close(self) -> None:
        """Kill all scripts."""
        await asyncio.gather(self._processes.close(), self._fifos.close())


def notify_of(routers: VrrpConfiguration) -> Mapping[Subject, Notify]:
    """Return the notifications of each instance and group."""
    instances = {(INSTANCE, each.name): each.notify for each in routers.instances}
    return instances | {(GROUP, each.name): each.notify for each in routers.groups}


def scripts_of(message: StateChanged, notify: Notify, state: str) -> list[tuple[str, Script]]:
    """Return what to run, in this order.

    An instance that a reload removed does not run notify_fault, even where its state is reported as FAULT.
    """
    special = {
        "MASTER": notify.master,
        "BACKUP": notify.backup,
        "FAULT": notify.fault,
        "STOP": notify.stop,
        "DELETED": notify.deleted,
    }
    script = special[message.state]
    found = [(f"notify_{message.state.lower()}", script)] if script is not None else []
    if notify.every is not None:
        more = (message.kind, message.name, state, str(message.priority))
        found.append(("notify", replace(notify.every, arguments=(*notify.every.arguments, *more))))
    return found


def alert_of(message: StateChanged, state: str, router_id: str) -> Alert | None:
    """Return the mail about a state; there is none about STOP."""
    if state == "STOP":
        return None
    subject, now = f"[{router_id}] {_TITLES[message.kind]} {message.name} - ", time.time()
    if state == "DELETED":
        return Alert(f"{subject}Deleted", "VRRP Deleted at reload", now)
    subject += f"Entering {state} state"
    if message.kind == GROUP:
        return Alert(subject, f"All VRRP group instances are now in {state} state", now)
    holds = "now" if state == "MASTER" else "no longer"
    return Alert(subject, f"VRRP Instance is {holds} owning VRRP VIPs", now)
