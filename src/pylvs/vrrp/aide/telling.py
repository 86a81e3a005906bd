"""Transitions as an operator's scripts, named pipes and mailbox are told of them, with keepalived's words.

What happens to one instance or group is told in order: the script of the state, then the one for every state. The
pipes get a line at once. Nothing here waits for any of them, but at the end, for a while.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import replace

from pylvs.model.scripts import Script
from pylvs.model.vrrp import Notify, VrrpConfiguration, VrrpSettings
from pylvs.model.wanted import GlobalSettings
from pylvs.notify.fifos import FifoSet
from pylvs.notify.mail import Alert, Outbox
from pylvs.notify.serial_scripts import InTurn
from pylvs.system.processes.scripts import Processes
from pylvs.vrrp.aide.messages import LowerHeard, Moved, PriorityMoved

AT_ONCE = 50
LOWER_S = 1.0  # of a flood of lower priorities, an instance tells once in so long
INSTANCE, GROUP = "INSTANCE", "GROUP"
_TITLES = {INSTANCE: "VRRP Instance", GROUP: "VRRP Group"}
Subject = tuple[str, str]


class Telling:
    """Tells of what it hears, as the last configuration wants it."""

    def __init__(self) -> None:
        self._processes = Processes(at_once=AT_ONCE)
        self._fifos = FifoSet()
        self._turns: InTurn[Subject] = InTurn(self._processes)
        self._outbox = Outbox()
        self._settings, self._routers = GlobalSettings(), VrrpSettings()
        self._now: Mapping[Subject, Notify] = {}
        self._before: Mapping[Subject, Notify] = {}
        self._lower: dict[str, float] = {}  # when it was told last

    def configure(self, settings: GlobalSettings, routers: VrrpConfiguration) -> None:
        """From now on; the configuration before still says what is told of those that it alone has."""
        self._settings, self._routers = settings, routers.settings
        self._processes.configure(settings.script_user, settings.script_group, settings.script_security)
        self._outbox.configure(settings.mail)
        self._before, self._now = self._now, notify_of(routers)
        self._fifos.configure(routers.settings.fifos, settings)

    # --- what is heard ---

    def moved(self, heard: Moved) -> None:
        """An instance or a group is in another state, or is said to be in the same at a reload."""
        notify = self._notify(heard.kind, heard.name)
        if heard.at_reload:
            if self._routers.states_on_reload:
                self._line(heard.kind, heard.name, heard.state, heard.priority)
            return
        state = heard.state
        if state == "DELETED" and not (notify.say_deleted or notify.deleted):
            state = "FAULT"
        where = {"kind": heard.kind.lower(), "name": heard.name}
        subject = heard.kind, heard.name
        for what, script in scripts_of(heard, notify, state):
            self._turns.put(subject, what, script, where)
        self._line(heard.kind, heard.name, state, heard.priority)
        if notify.smtp_alert and not (state == "FAULT" and self._routers.no_fault_mails):
            alert = alert_of(heard, state, self._settings.router_id or socket.gethostname())
            if alert is not None:
                self._outbox.put(alert)

    def priority_moved(self, heard: PriorityMoved) -> None:
        """An instance has another priority."""
        if self._notify(INSTANCE, heard.name).priority_changes:
            self._line(INSTANCE, heard.name, f"{heard.state}_PRIORITY", heard.priority)

    def lower_heard(self, heard: LowerHeard) -> None:
        """There is another master, of lower priority; the priority that is told is this one's."""
        now = time.monotonic()
        if now - self._lower.get(heard.name, -LOWER_S) < LOWER_S:
            return
        self._lower[heard.name] = now
        script = self._notify(INSTANCE, heard.name).lower_priority_heard
        if script is not None:
            where = {"kind": "instance", "name": heard.name}
            self._turns.put((INSTANCE, heard.name), "notify_master_rx_lower_pri", script, where)
        self._line(INSTANCE, heard.name, "MASTER_RX_LOWER_PRI", heard.priority)

    def _notify(self, kind: str, name: str) -> Notify:
        subject = kind, name
        return self._now.get(subject) or self._before.get(subject) or Notify()

    def _line(self, kind: str, name: str, word: str, priority: int) -> None:
        self._fifos.write(f'{kind} "{name}" {word} {priority}')

    # --- the end ---

    async def finish(self) -> None:
        """Let everything be told for a while; then end what still runs."""
        await asyncio.gather(self._turns.finish(), self._outbox.finish(), self._fifos.finish())
        await self._processes.close()

    async def close(self) -> None:
        """End what runs, at once."""
        await asyncio.gather(self._processes.close(), self._fifos.close())


def notify_of(routers: VrrpConfiguration) -> Mapping[Subject, Notify]:
    """Who is to be told of whom."""
    instances = {(INSTANCE, each.name): each.notify for each in routers.instances}
    return instances | {(GROUP, each.name): each.notify for each in routers.groups}


def scripts_of(heard: Moved, notify: Notify, state: str) -> list[tuple[str, Script]]:
    """What is run, in this order; what a reload removed runs no notify_fault, even where it is called FAULT."""
    found: list[tuple[str, Script]] = []
    special = {
        "MASTER": ("notify_master", notify.master),
        "BACKUP": ("notify_backup", notify.backup),
        "FAULT": ("notify_fault", notify.fault),
        "STOP": ("notify_stop", notify.stop),
        "DELETED": ("notify_deleted", notify.deleted),
    }
    what, script = special.get(heard.state, ("", None))
    if script is not None:
        found.append((what, script))
    if notify.every is not None:
        more = (heard.kind, heard.name, state, str(heard.priority))
        found.append(("notify", replace(notify.every, arguments=(*notify.every.arguments, *more))))
    return found


def alert_of(heard: Moved, state: str, router_id: str) -> Alert | None:
    """The mail about a state; of the end there is none."""
    if state == "STOP":
        return None
    subject, now = f"[{router_id}] {_TITLES[heard.kind]} {heard.name} - ", time.time()
    if state == "DELETED":
        return Alert(f"{subject}Deleted", "VRRP Deleted at reload", now)
    subject += f"Entering {state} state"
    if heard.kind == GROUP:
        return Alert(subject, f"All VRRP group instances are now in {state} state", now)
    holds = "now" if state == "MASTER" else "no longer"
    return Alert(subject, f"VRRP Instance is {holds} owning VRRP VIPs", now)
