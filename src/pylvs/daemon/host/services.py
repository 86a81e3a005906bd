"""What leaves the process: files, BPF tables, networking, scripts. Tests replace it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from pylvs.config.diff import differences
from pylvs.config.language.parser import Parsed
from pylvs.daemon import Options
from pylvs.daemon.host.announced import HostAddresses, KernelAddresses
from pylvs.daemon.host.process import configure_process
from pylvs.daemon.host.service_manager import ServiceManager
from pylvs.daemon.keepalived.pid_files import directory
from pylvs.daemon.keepalived.placement import enter_tables
from pylvs.daemon.loading import ConfigurationLoader, Loaded
from pylvs.daemon.notifications import Notifier
from pylvs.daemon.paths import path_problems
from pylvs.daemon.problems import Problem
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.history import History
from pylvs.daemon.table.cache import LongLivedDirector
from pylvs.daemon.via_vip import VipChecks
from pylvs.daemon.virtual_routers.sync_daemons import Daemons, SyncControl
from pylvs.dataplane.director import open_director
from pylvs.dataplane.watch import listen
from pylvs.health.events import Event
from pylvs.health.prober.link import ProberLink
from pylvs.health.probes import CheckContext, Probe, probe_of
from pylvs.health.sessions import SessionTable
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, HttpCheck, Script, TlsClient, goes_via_vip, targets_of
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService
from pylvs.netlink.links import Routes, local_addresses
from pylvs.system.garbage import MemoryReturn
from pylvs.system.logs import get_logger, use_level
from pylvs.system.namespaces import inside_network
from pylvs.system.processes import command
from pylvs.system.processes.edge import Edge
from pylvs.system.processes.scripts import Processes, ScriptCounts, ScriptRunner


@contextlib.contextmanager
def reload_file(settings: GlobalSettings) -> Iterator[None]:
    """Within the block, the reload_file exists and is empty: programs that write the configuration wait."""
    if not settings.reload_file:
        yield
        return
    path = directory(settings.placement) / settings.reload_file
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o644))
    except OSError as error:
        get_logger().error(f"reload_file {path}: {error.strerror}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def tls_clients(configuration: Configuration) -> Iterator[tuple[TlsClient, bool]]:
    """Yield the TLS settings of checks that need files, each with whether it verifies servers."""
    for service in configuration.services:
        for server in service.servers:
            for check in server.checks:
                if isinstance(check, HttpCheck) and (check.verify_server or check.client != TlsClient()):
                    yield check.client, check.verify_server


class HostServices:
    """One host. Tests replace what would leave the process."""

    def __init__(self, tables_namespace: str = "", parsed: Parsed | None = None) -> None:
        """`parsed` is a file that can be read once."""
        self.manager = ServiceManager()
        self._tables_namespace = tables_namespace  # its file; "": that of this process
        self._runner = ScriptRunner()
        self._processes = Processes(runner=self._runner)
        self.prober = ProberLink()
        self.edge = Edge()
        self._started = False  # the shutdown_script runs only if the startup_script did
        self._settings = GlobalSettings()
        self.vip_checks = VipChecks()
        self.sync_daemons: Daemons = SyncControl(tables_namespace)
        self.sessions = SessionTable()
        self.announced: HostAddresses = KernelAddresses()
        self._notifier = Notifier(edge=self.edge, runner=self._runner)
        self._loader = ConfigurationLoader(parsed=parsed)

    def history(self, state: StateDirectory) -> History:
        """Return the events on disk."""
        return History(state)

    def load(self, options: Options) -> Loaded:
        """Read the configuration. In a thread; errors are findings. The reload_file exists during that."""
        with reload_file(self._settings):
            return self._loader.load(options)

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        """Describe what a reload changes. In a thread."""
        return map(str, differences(old, new))

    def director(self) -> LongLivedDirector:
        """Open the tables. In the table thread. Raises PylvsError."""
        if self._tables_namespace:
            enter_tables(self._tables_namespace)
        director = open_director()
        director.migrate()
        return director

    def addresses(self) -> Iterable[Address]:
        """Return this host's addresses. In the table thread."""
        if not self._tables_namespace:
            return local_addresses()
        with inside_network(f"/proc/{os.getpid()}/ns/net"):
            return local_addresses()

    def listen(self) -> list[socket.socket]:
        """Return sockets that receive each change of this host: of the daemon's and of the tables' namespace."""
        sockets = [listen()]
        if self._tables_namespace:
            with inside_network(self._tables_namespace):
                sockets.append(listen())
        return sockets

    def path_problems(self, configuration: Configuration, addresses: Collection[Address]) -> list[Problem]:
        """Compare the host's addresses and routes with the configuration. In the table thread. Raises PylvsError."""
        with Routes() as routes:
            return path_problems(configuration, addresses, routes)

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        """Return the probe of a check."""
        context = CheckContext(server.destination.weight, service.virtualhost, self._processes, self.sessions)
        if not targets_of(check):  # a program, a file or a session of this host, with the rights that it needs
            return probe_of(check, context)
        if goes_via_vip(check):
            return self.vip_checks.probe_of(check, service, server, context, self.prober.probe_of)
        return self.prober.probe_of(check, context)

    def notify_scripts(self) -> dict[str, Any]:
        """Return which notify scripts of services run, wait, or had to be ended."""
        return self._notifier.scripts()

    def script_counts(self) -> ScriptCounts:
        """Return how many scripts of checks run and wait."""
        return self._processes.counts

    def configure(self, configuration: Configuration) -> None:
        """Use this configuration for scripts, checks and notifications from now on."""
        before, self._settings = self._settings, configuration.settings
        settings = configuration.settings
        use_level(settings.log_level)
        # First what cannot fail: the rest may raise OSError.
        self._processes.configure(settings.script_user, settings.script_group, settings.script_security, settings.umask)
        self.vip_checks.configure(configuration)
        self._notifier.configure(configuration, configuration.vrrp.needs_process)
        configure_process(before, settings)
        self.prober.set_nice(settings.checker_nice)
        self.prober.set_tls(tls_clients(configuration))

    def notify(self, event: Event) -> None:
        """Start the scripts, FIFO lines and mails that the configuration has for the event; do not wait for them."""
        self._notifier.notify(event)

    @property
    def shutdown_s(self) -> float:
        """How long the shutdown_script may take."""
        return self._settings.shutdown_script_timeout_s if self._settings.shutdown_script else 0.0

    async def run_startup_script(self) -> None:
        """Run the startup_script before anything else, until it ends or its timeout expires."""
        self._started = True
        await self._run("startup_script", self._settings.startup_script, self._settings.startup_script_timeout_s)

    async def _run(self, keyword: str, script: Script | None, timeout_s: float, again: bool = False) -> None:
        """Run a script; with `again`, once more if this machine could not: another process of scripts may not hang."""
        if script is None:
            return
        ended = await self._processes.run(script, timeout_s)
        logger = get_logger()
        if ended.unable and again:
            logger.warning(f"{keyword} is run again", script=str(script), end=str(ended))
            ended = await self._processes.run(script, timeout_s)
        log = logger.info if ended.status == 0 and not ended.timed_out else logger.warning
        log(f"{keyword} has run", script=str(script), end=str(ended))
        for line in ended.lines():
            logger.info(f"{keyword} printed: {line}")

    async def return_memory(self) -> None:
        """Until cancelled, return memory to the kernel that bursts have left free."""
        await MemoryReturn().run()

    def overview(self) -> dict[str, Any]:
        """Return what `pylvs show` prints. Raises PylvsError."""
        return self._reports()["overview"]()

    @staticmethod
    def _reports() -> dict[str, Callable[[], dict[str, Any]]]:
        from pylvs.dataplane import ends, overview  # late: only commands of a member need them

        return {"overview": overview.overview, "ends": ends.report}

    def ends(self) -> dict[str, Any]:
        """Return what `pylvs drops` prints."""
        return self._reports()["ends"]()

    def start_routers(self, state: StateDirectory, log_format: str) -> subprocess.Popen[bytes]:
        """Start pylvs-vrrp, which outlives the daemon. In a thread. Raises OSError."""
        return subprocess.Popen(
            command(
                "pylvs.daemon.virtual_routers.process", str(state.path), log_format, *filter(None, [state.instance])
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it logs to stderr, which it shares with the daemon
            start_new_session=True,  # Ctrl-C in the terminal is for the daemon
        )

    async def close(self) -> None:
        """Finish notifications and end what runs, in bounded time."""
        await self.prober.close()
        await self._notifier.finish()
        await self.edge.close()
        if self._started:
            script, timeout_s = self._settings.shutdown_script, self._settings.shutdown_script_timeout_s
            await self._run("shutdown_script", script, timeout_s, again=True)
        await self._processes.close()
        await self._runner.close()
