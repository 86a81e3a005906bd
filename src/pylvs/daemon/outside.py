"""What the daemon meets outside of itself, on a real machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterable

from pylvs.config.diff import differences
from pylvs.daemon.loader import Loader
from pylvs.daemon.loading import Loaded
from pylvs.daemon.options import Options
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.systemd import Manager
from pylvs.daemon.table.known import Holder
from pylvs.daemon.telling.alerts import Alerts
from pylvs.daemon.telling.fifos import Fifos
from pylvs.daemon.telling.notify import Notifier
from pylvs.daemon.via_vip import ViaVip
from pylvs.dataplane.director import open_director
from pylvs.health.checkers.context import Context
from pylvs.health.checkers.registry import probe_of
from pylvs.health.events import Event
from pylvs.health.outcome import Probe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, goes_via_vip
from pylvs.model.scripts import Script
from pylvs.model.wanted import Configuration, WantedRow, WantedServer, WantedService
from pylvs.netlink.links import local_addresses
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Processes
from pylvs.system.self_exec import command


class Machine:
    """Files, BPF tables, the kernel's addresses, checks over the network, the service manager that started us."""

    def __init__(self) -> None:
        self.manager = Manager()
        self._processes = Processes()
        self._begun = False
        self._last: tuple[Script | None, float] = None, 0.0  # what runs at the end, and for how long
        self._via_vip = ViaVip()
        self._notifier = Notifier()
        self._alerts = Alerts()
        self._fifos = Fifos()
        self._routers = True  # virtual routers are run
        self._loader = Loader()
        self._nice = 0  # asked for so far; without it the daemon is as it was started

    def load(self, options: Options) -> Loaded:
        """The configuration in its file; what is wrong with it is a finding."""
        self._routers = options.vrrp
        return self._loader.load(options)

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        """In words."""
        return map(str, differences(old, new))

    def director(self) -> Holder:
        """The tables of this network namespace. Raises NotPermitted, Unsupported."""
        return open_director()

    def addresses(self) -> Iterable[Address]:
        """Those that devices of this network namespace hold."""
        return local_addresses()

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        """The checker's."""
        context = Context(server.destination.weight, service.virtualhost, self._processes)
        if goes_via_vip(check):
            return self._via_vip.probe_of(check, service, server, context)
        return probe_of(check, context)

    def configure(self, configuration: Configuration) -> None:
        """Whom scripts run as, what is checked through virtual addresses, how much all this matters."""
        settings = configuration.settings
        if settings.checker_nice != self._nice:
            self._nice = settings.checker_nice
            try:
                os.setpriority(os.PRIO_PROCESS, 0, self._nice)
            except OSError as error:
                get_logger().error(f"checker_priority {self._nice}: {error.strerror}")
        self._processes.configure(settings.script_user, settings.script_group, settings.script_security)
        if self._begun:
            self._last = settings.shutdown_script, settings.shutdown_script_timeout_s
        self._via_vip.configure(configuration)
        self._notifier.configure(configuration)
        self._alerts.configure(configuration)
        self._fifos.configure(configuration, self._routers and bool(configuration.vrrp.instances))

    def heard(self, event: Event) -> None:
        """Scripts are run, pipes are written to, and mail is sent."""
        self._notifier.heard(event)
        self._fifos.heard(event)
        self._alerts.heard(event)

    async def begin(self, configuration: Configuration) -> None:
        """The startup_script runs, to its end or its timeout."""
        settings = configuration.settings
        self._begun = True
        self._last = settings.shutdown_script, settings.shutdown_script_timeout_s
        await self._run("startup_script", settings.startup_script, settings.startup_script_timeout_s)

    async def _run(self, what: str, script: Script | None, timeout_s: float) -> None:
        if script is None:
            return
        ended = await self._processes.run(script, timeout_s)
        log = get_logger()
        tell = log.info if ended.status == 0 and not ended.timed_out else log.warning
        tell(f"{what} has run", script=str(script), end=str(ended))
        for line in ended.lines():
            log.info(f"{what} said: {line}")

    def rows(self) -> tuple[WantedRow, ...]:
        """The services of checks through virtual addresses."""
        return self._via_vip.rows

    def adapt(self, state: StateDirectory) -> None:
        """Let checks through virtual addresses pass on this machine."""
        self._via_vip.allow(state)

    def start_routers(self, state: StateDirectory, log_format: str) -> subprocess.Popen[bytes]:
        """Its log goes where this one's goes."""
        return subprocess.Popen(
            command("pylvs.daemon.router_process", str(state.path), log_format),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # what is typed at the terminal is for the daemon
        )

    def restore(self, state: StateDirectory) -> None:
        """As it was before."""
        self._via_vip.restore(state)

    async def close(self) -> None:
        """Tell what is not told yet, and end scripts that still run."""
        await asyncio.gather(self._notifier.finish(), self._alerts.finish(), self._fifos.finish())
        await self._run("shutdown_script", *self._last)
        await self._processes.close()
