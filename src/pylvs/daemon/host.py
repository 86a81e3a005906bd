"""What the daemon needs of its host: tasks, signals, the service manager, files, BPF tables, networking, scripts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from typing import Any

from pylvs.config.diff import differences
from pylvs.config.language.parser import Parsed
from pylvs.daemon import Options
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
from pylvs.dataplane.devices.watch import GATHER_S, RETRY_S, SHARE, drain, listen
from pylvs.dataplane.director import open_director
from pylvs.health.events import Event
from pylvs.health.prober.link import ProberLink
from pylvs.health.probes import CheckContext, Probe, probe_of
from pylvs.health.sessions import SessionTable
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, HttpCheck, Script, TlsClient, goes_via_vip, targets_of
from pylvs.model.errors import PylvsError, text_of
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService
from pylvs.netlink.links import Routes, local_addresses
from pylvs.system import syscalls
from pylvs.system.garbage import MemoryReturn
from pylvs.system.logs import get_logger, use_level
from pylvs.system.namespaces import inside_network
from pylvs.system.processes import command
from pylvs.system.processes.scripts import KILLED_S, Processes, ScriptCounts

MAX_NAME = 15  # bytes of a process's name
RESTART_PAUSE_S = 1.0  # of a background task
STEADY_S = 60.0  # a background task that has run for so long since its last failure works again
FAILED_PAUSE_S = 1.0  # before addresses and devices are followed again
GROWTH_S = 1800.0  # for the growth of the largest table, which takes three minutes on a very busy machine
EXTEND_S = 30.0  # beyond the service manager's limits, at most at once
SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class BackgroundTasks:
    """Tasks that log their exceptions, and that are cancelled when the block ends."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[str, float]] = {}  # of endless tasks: the last error, and when it was
        self._tasks: set[asyncio.Task[object]] = set()
        self._ending: set[asyncio.Task[object]] = set()  # of these: `cancelling` would count an asyncio.timeout, too

    async def __aenter__(self) -> BackgroundTasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine once."""
        self._add(self._once(work, ""))

    def keep_running(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Run an endless task, and restart it after an exception."""
        self._add(self._always(work, what))

    def failures(self) -> dict[str, str]:
        """Return the last error of each endless task that has failed a short time ago."""
        now = asyncio.get_running_loop().time()
        return {what: error for what, (error, at) in self._failures.items() if now - at < STEADY_S}

    def cancel(self) -> None:
        """Request that all tasks end; each does so at its next await. A second call does not disturb their cleanup."""
        for task in self._tasks - self._ending:
            task.cancel()
        self._ending |= self._tasks

    def _add(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._ending.discard)

    async def _once(self, work: Awaitable[None], prefix: str) -> str:
        """Return the error, after it is logged; "" without one."""
        try:
            await work
        except (PylvsError, OSError) as error:
            text = text_of(error)
            get_logger().error(f"{prefix}{text}")
            return text
        except Exception as error:
            get_logger().exception(f"{prefix}this is a bug")
            return f"this is a bug: {error!r}"
        return ""

    async def _always(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        while True:
            if error := await self._once(work(), f"{what} failed and is restarted: "):
                self._failures[what] = error, asyncio.get_running_loop().time()
            await asyncio.sleep(RESTART_PAUSE_S)


@contextlib.contextmanager
def signal_handlers(actions: Mapping[int, Callable[[], object]]) -> Iterator[None]:
    """Within the block, call an action in the event loop for each of these signals. In the main thread only."""
    loop = asyncio.get_running_loop()
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


class ServiceManager:
    """The service manager that started the daemon, by sd_notify(3). Without one nothing is sent."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get(SOCKET, "")
        self.watchdog_s = _watchdog_s(given)  # 0: no watchdog
        self._until = 0.0  # when a phase of the start or the stop must be over, by the clock of the event loop

    def ready(self, status: str) -> None:
        """Report that the start or a reload is done."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins; `ready` follows. Type=notify-reload asks for the time."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the daemon stops."""
        self._send("STOPPING=1")

    def allow(self, seconds: float) -> None:
        """Let the phase of the start or the stop that begins now take so long, beyond its limit; 0: it is over."""
        self._until = asyncio.get_running_loop().time() + seconds

    async def extend_limits(self) -> None:
        """Until cancelled, request more time for the present phase. One that hangs gets no more."""
        while True:
            left = self._until - asyncio.get_running_loop().time()
            if left > 0:
                self._send(f"EXTEND_TIMEOUT_USEC={round(min(left, EXTEND_S) * 1e6)}")
            await asyncio.sleep(EXTEND_S / 3)

    def alive(self) -> None:
        """Reset the watchdog; due at least every `watchdog_s`."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(text.encode(), address)


def _watchdog_s(given: Mapping[str, str]) -> float:
    """Return the watchdog's interval; 0 where there is none, or where it watches another process."""
    try:
        if int(given.get(WATCHDOG_PID, os.getpid())) != os.getpid():
            return 0.0
        return int(given.get(WATCHDOG, "0")) / 1e6
    except ValueError:
        return 0.0


async def monitor_host(
    update: Callable[[], Awaitable[float]], opened: Callable[[], Iterable[socket.socket]] = lambda: [listen()]
) -> None:
    """Follow this host until cancelled: rtnetlink(7) reports changes of devices, addresses and routes.

    `opened` returns the sockets; by default one of the calling thread's network namespace.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    with contextlib.ExitStack() as stack:
        for kernel in opened():
            stack.enter_context(kernel)
            loop.add_reader(kernel, _drained, kernel, changed)
            stack.callback(loop.remove_reader, kernel)
        await call_at_changes(update, changed)


def _drained(kernel: socket.socket, changed: asyncio.Event) -> None:
    if drain(kernel):
        changed.set()


async def call_at_changes(update: Callable[[], Awaitable[float]], changed: asyncio.Event) -> None:
    """Call `update` at the start, and whenever `changed` is set.

    It returns the seconds until it is called without a change. After a failure it is called again soon. Of the same
    failures in a row, the first is logged.
    """
    next_s, logged = 0.0, ""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(next_s):  # in Python 3.11 wait_for may lose a cancellation
                await changed.wait()
        await asyncio.sleep(GATHER_S)
        changed.clear()
        begin = time.monotonic()
        try:
            next_s, logged = await update(), ""
        except Exception as error:
            text = text_of(error)
            if text != logged:
                get_logger().error("could not follow addresses and devices", reason=text)
            next_s, logged = FAILED_PAUSE_S, text
        # At most so long: the update may have waited for the table thread, while others held the lock.
        await asyncio.sleep(min(SHARE * (time.monotonic() - begin), RETRY_S))


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


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        process.kill()
        async with asyncio.timeout(KILLED_S):
            await process.wait()


class HostServices:
    """One host. Tests replace what would leave the process."""

    def __init__(self, tables_namespace: str = "", parsed: Parsed | None = None) -> None:
        """`parsed` is a file that can be read once."""
        self.manager = ServiceManager()
        self._tables_namespace = tables_namespace  # its file; "": that of this process
        self._processes = Processes()
        self.prober = ProberLink()
        self._started = False  # the shutdown_script runs only if the startup_script did
        self._settings = GlobalSettings()
        self.vip_checks = VipChecks()
        self.sessions = SessionTable()
        self._notifier = Notifier()
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
        self._configure_process(before, settings)
        if settings.checker_nice != before.checker_nice:  # without one the daemon keeps its niceness of the start
            try:
                os.setpriority(os.PRIO_PROCESS, 0, settings.checker_nice)
            except OSError as error:
                get_logger().error(f"checker_priority {settings.checker_nice}: {error.strerror}")
            self.prober.set_nice(settings.checker_nice)
        self.prober.set_tls(tls_clients(configuration))

    def _configure_process(self, before: GlobalSettings, settings: GlobalSettings) -> None:
        """Apply what changed of the settings of the process."""
        if settings.process_name != before.process_name:
            syscalls.prctl(syscalls.PR_SET_NAME, (settings.process_name or "pylvs").encode()[:MAX_NAME])
        if settings.umask is not None:
            os.umask(settings.umask)
        cpus = settings.checker_cpu_affinity
        if cpus != before.checker_cpu_affinity:
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):
                    try:
                        os.sched_setaffinity(int(thread), cpus or range(os.cpu_count() or 1))
                    except OSError as error:
                        get_logger().error(f"checker_cpu_affinity {' '.join(map(str, cpus))}: {error.strerror}")
                        break
        if settings.checker_no_swap and not before.checker_no_swap:
            with contextlib.suppress(OSError, ValueError):  # the present limit may be enough
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            try:
                syscalls.mlockall(syscalls.MCL_CURRENT | syscalls.MCL_FUTURE)
            except OSError as error:
                get_logger().error(f"checker_no_swap: memory is not locked: {error.strerror}")

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
        from pylvs.dataplane.devices.overview import overview

        return overview()

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

    async def grow_table(self) -> None:
        """Enlarge the connection table in another process: the copy of millions of connections takes its memory.

        It may be killed at any step. Raises PylvsError.
        """
        growing = await asyncio.create_subprocess_exec(
            *command("pylvs.dataplane.growth", *filter(None, [self._tables_namespace])),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(GROWTH_S):
                _, errors = await growing.communicate()
        except BaseException as error:
            await _kill(growing)
            if isinstance(error, TimeoutError):
                raise PylvsError(f"it has not grown within {GROWTH_S:g} s; the process was killed") from None
            raise
        if growing.returncode:
            raise PylvsError(errors.decode(errors="replace").strip() or f"exit status {growing.returncode}")

    async def close(self) -> None:
        """Finish notifications and end what runs, in bounded time."""
        await self.prober.close()
        await self._notifier.finish()
        if self._started:
            script, timeout_s = self._settings.shutdown_script, self._settings.shutdown_script_timeout_s
            await self._run("shutdown_script", script, timeout_s, again=True)
        await self._processes.close()
