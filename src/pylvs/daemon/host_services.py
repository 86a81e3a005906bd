"""What the daemon needs of its host: files, BPF tables, checks over the network, scripts, processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable

from pylvs.config.diff import differences
from pylvs.daemon.loading import ConfigurationLoader, Loaded
from pylvs.daemon.notifications import Notifier
from pylvs.daemon.options import Options
from pylvs.daemon.process import ServiceManager
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.table.cache import LongLivedDirector
from pylvs.daemon.via_vip import VipChecks
from pylvs.dataplane.director import open_director
from pylvs.health.checkers import CheckContext, probe_of
from pylvs.health.events import Event
from pylvs.health.outcome import Probe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, Script, goes_via_vip
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService
from pylvs.netlink.links import local_addresses
from pylvs.system.logs import get_logger
from pylvs.system.processes import command
from pylvs.system.processes.scripts import Processes


class HostServices:
    """One host. Tests replace what would leave the process."""

    def __init__(self) -> None:
        self.manager = ServiceManager()
        self._processes = Processes()
        self._started = False  # the shutdown_script runs only if the startup_script did
        self._settings = GlobalSettings()
        self.vip_checks = VipChecks()
        self._notifier = Notifier()
        self._loader = ConfigurationLoader()

    def load(self, options: Options) -> Loaded:
        """Read the configuration. In a thread; errors are findings."""
        return self._loader.load(options)

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        """Describe what a reload changes. In a thread."""
        return map(str, differences(old, new))

    def director(self) -> LongLivedDirector:
        """Open the tables. In the table thread. Raises PylvsError."""
        return open_director()

    def addresses(self) -> Iterable[Address]:
        """Return this host's addresses. In the table thread."""
        return local_addresses()

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        """Return the probe of a check."""
        context = CheckContext(server.destination.weight, service.virtualhost, self._processes)
        if goes_via_vip(check):
            return self.vip_checks.probe_of(check, service, server, context)
        return probe_of(check, context)

    def configure(self, configuration: Configuration) -> None:
        """Use this configuration for scripts, checks and notifications from now on."""
        before, self._settings = self._settings, configuration.settings
        settings = configuration.settings
        if settings.checker_nice != before.checker_nice:  # without one the daemon keeps its niceness of the start
            try:
                os.setpriority(os.PRIO_PROCESS, 0, settings.checker_nice)
            except OSError as error:
                get_logger().error(f"checker_priority {settings.checker_nice}: {error.strerror}")
        self._processes.configure(settings.script_user, settings.script_group, settings.script_security)
        self.vip_checks.configure(configuration)
        self._notifier.configure(configuration, bool(configuration.vrrp.instances))

    def notify(self, event: Event) -> None:
        """Start the scripts, FIFO lines and mails that the configuration has for the event; do not wait for them."""
        self._notifier.notify(event)

    async def run_startup_script(self) -> None:
        """Run the startup_script before anything else, until it ends or its timeout expires."""
        self._started = True
        await self._run("startup_script", self._settings.startup_script, self._settings.startup_script_timeout_s)

    async def _run(self, keyword: str, script: Script | None, timeout_s: float) -> None:
        if script is None:
            return
        ended = await self._processes.run(script, timeout_s)
        logger = get_logger()
        log = logger.info if ended.status == 0 and not ended.timed_out else logger.warning
        log(f"{keyword} has run", script=str(script), end=str(ended))
        for line in ended.lines():
            logger.info(f"{keyword} said: {line}")

    def start_routers(self, state: StateDirectory, log_format: str) -> subprocess.Popen[bytes]:
        """Start pylvs-vrrp, which outlives the daemon. In a thread. Raises OSError."""
        return subprocess.Popen(
            command("pylvs.daemon.router_process", str(state.path), log_format),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it logs to stderr, which it shares with the daemon
            start_new_session=True,  # Ctrl-C in the terminal is for the daemon
        )

    async def close(self) -> None:
        """Finish notifications and end what runs, in bounded time."""
        await self._notifier.finish()
        if self._started:
            await self._run("shutdown_script", self._settings.shutdown_script, self._settings.shutdown_script_timeout_s)
        await self._processes.close()
