"""The daemon from start to stop: load, check, reconcile, reload.

    configuration -> engine (checks) -> desired table -> reconciler -> table thread -> Director
                        | events
                        +-> logs, scripts, mails, FIFOs, the API
                  -> virtual routers -> pylvs-vrrp, which outlives the daemon

One event loop runs all of it; the table thread reads and edits the tables. A daemon that is killed leaves the table as
it is, and the next one continues from there. `Supervisor._list` has the parts, in the order of their start.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from pylvs.config.language.tree import Finding
from pylvs.daemon import Options
from pylvs.daemon.api.files import FileChanges
from pylvs.daemon.api.server import ApiServer
from pylvs.daemon.api.web_task import WebTask
from pylvs.daemon.dbus_task import DbusTask
from pylvs.daemon.dumping import Dumper
from pylvs.daemon.handshakes import HandshakeWatch
from pylvs.daemon.host.announcing import Announcer
from pylvs.daemon.host.changes import HostChanges
from pylvs.daemon.host.leave import Leave
from pylvs.daemon.host.part import HostPart
from pylvs.daemon.host.services import HostServices
from pylvs.daemon.keepalived import dumps
from pylvs.daemon.keepalived.pid_files import PidFiles, PidPart
from pylvs.daemon.keepalived.reload_time import ReloadTimer
from pylvs.daemon.limits import CHANGE_END_S, STOP_S, TABLE_LEASE_S, ends_before, locked
from pylvs.daemon.liveness import PROBER, TABLE_THREAD, Liveness
from pylvs.daemon.loading import LOAD_TIMEOUT_S, Loaded, Refused, accept, errors
from pylvs.daemon.notifications import REMEMBERED, EventBus, log_findings
from pylvs.daemon.parts import Part
from pylvs.daemon.peer_director.part import Director
from pylvs.daemon.problems import Problem, ProblemTracker
from pylvs.daemon.services import Services
from pylvs.daemon.snmp_task import SnmpTask
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.drains import Drains
from pylvs.daemon.state.notes import Notes, UnitNote
from pylvs.daemon.state.overrides import StateWriter
from pylvs.daemon.table.growth import TableGrowth, grow
from pylvs.daemon.table.ownership import Ownership
from pylvs.daemon.table.reconciler import Reconciler, ReconcileResult
from pylvs.daemon.table.thread import TableThreadPart
from pylvs.daemon.tasks import BackgroundTasks, signal_handlers
from pylvs.daemon.via_vip import HostSettings
from pylvs.daemon.virtual_routers.first import FirstRouters
from pylvs.daemon.virtual_routers.part import RoutersPart
from pylvs.daemon.virtual_routers.supervision import ConfigureResult, VirtualRouters
from pylvs.daemon.virtual_routers.sync_daemons import SyncPart
from pylvs.dbus import interface
from pylvs.health.engine import Engine
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError, counted, text_of
from pylvs.model.rows import refused
from pylvs.model.service import Timeouts
from pylvs.model.wanted import Configuration
from pylvs.system.garbage import settle_garbage
from pylvs.system.logs import get_logger
from pylvs.system.processes.shortage import missing
from pylvs.system.table_thread import TableThread
from pylvs.system.threads import to_thread

PROBER_LEASE_S = 15.0  # without a process that makes checks; several restarts
PROBLEMS_POLL_S = 2.0
DUMP_S = 60.0  # for files for monitoring, for which a reload waits


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The result of a reload; `table` is None for a dry run."""

    findings: tuple[Finding, ...]
    differences: tuple[str, ...]
    table: ReconcileResult | None = None
    routers: ConfigureResult = field(default_factory=ConfigureResult)
    metrics_error: str = ""


class Supervisor:
    """One daemon. `engine`, `reconciler`, `drains` and `loaded` are there before the API serves its first request."""

    loaded: Loaded

    def __init__(
        self,
        options: Options,
        host: HostServices,
        state: StateDirectory | None = None,
        first: FirstRouters | None = None,
        pid_files: PidFiles | None = None,
    ) -> None:
        self.options = options
        instance = options.placement.instance if options.placement else ""
        self.state = state or StateDirectory(options.state_dir, instance)
        self.history = host.history(self.state)
        self._writer = StateWriter(self.state)
        self.table_thread = TableThread("pylvs-editor")
        self.events = EventBus()
        self.began_at = time.time()
        self.started_at = 0.0  # Unix time of the first complete table; 0 before
        self.loaded_at = 0.0  # of the configuration in force
        self.file_changes = FileChanges()
        self.reloads: Counter[str] = Counter()  # by result: done, refused
        self.host = host
        self._timing, self._tasks = BackgroundTasks(), BackgroundTasks()
        self._reload_pending = False  # by a signal
        self._problems = ProblemTracker(self.events.publish)
        self._keep = False  # at the stop, leave services and virtual routers
        self._stopping = asyncio.Event()
        self.listing = asyncio.Lock()  # of a piece of the connection table, for the API
        self._reloading = asyncio.Lock()  # held until the first table is complete
        self._log = get_logger()
        self.parts = self._list(first, pid_files)

    def _list(self, first: FirstRouters | None, pid_files: PidFiles | None) -> list[Part]:
        """Make the parts, and return them in the order of their calls (`pylvs.daemon.parts`).

        Besides: virtual routers give up their addresses before any part stops, and when a start fails.
        """
        options, state, thread, host, writer = self.options, self.state, self.table_thread, self.host, self._writer
        start = partial(host.start_routers, state, options.log_format)
        self.routers = VirtualRouters(state, self.events, start, host.sessions, first)
        self._routers = RoutersPart(
            self.routers, self._forwarding_error, lambda: "; ".join(self.liveness.silent().values())
        )
        self._sync = SyncPart(host.sync_daemons, self.routers.status)
        self._ownership = Ownership(state, writer, lambda: host.vip_checks.rows)
        self.services = Services(
            host, state, writer, thread, self.events, self._ownership, self._reloading, options.keep_table
        )
        self.announcer = Announcer(
            self.services,
            self.events,
            self._forwarding_error,
            lambda: "; ".join(self.liveness.silent().values()),
            host.announced,
            Leave(state, writer),
            self._sync.attempted,
        )
        settings = HostSettings(host.vip_checks, state, thread)
        self._notes = Notes(options, state, writer, thread, lambda: self.services.emptied and settings.reverted)
        self._dumper = Dumper(state, self._dumped, self.routers.status)
        self._api = ApiServer(self, state, host.edge)
        self.host_changes = HostChanges(host, state, thread, self.services)
        self.liveness = Liveness(self.events)
        self.liveness.watch(TABLE_THREAD, lambda: thread.progress, TABLE_LEASE_S)
        self.liveness.watch(PROBER, lambda: host.prober.counts().problem or None, PROBER_LEASE_S)
        self._reload_timer = ReloadTimer(lambda: self.engine.configuration.settings, self._reload_by_signal)
        self._snmp, self._dbus = SnmpTask(host.edge, self), self._make_dbus()
        self.peer = Director(
            lambda: self.engine, self._report_copied, self._table_timeouts, filter(None, [options.tables_namespace])
        )
        return [
            # ended last: others write with these, or use the thread
            *([PidPart(pid_files, self.routers.on_process)] if pid_files else []),
            writer,
            self.history,
            TableThreadPart(thread),
            # the startup_script comes first, the shutdown_script behind all checks
            HostPart(host, self._allow),
            UnitNote(state, thread, [self._ownership, self.services]),
            # saved before the first edit; a disk that blocks refuses a reload before virtual routers change
            self._ownership,
            self._notes,
            settings,
            self._routers,
            # the point of no return of a reload
            self.services,
            self._sync,  # while this director leaves, its connections are sent
            self.announcer,  # withdraws before the services are deleted
            self._api,
            WebTask(self._api.execute, self.events, state, lambda: self.loaded.files),
            self.host_changes,
            HandshakeWatch(self.services, thread),
            self._snmp,
            self._dbus,
            self.peer,
            self.liveness,
            TableGrowth(self._larger_capacity, partial(grow, options.tables_namespace), thread, self.events),
            self._reload_timer,
            host.manager,
        ]

    @property
    def engine(self) -> Engine:
        return self.services.engine

    @property
    def reconciler(self) -> Reconciler:
        return self.services.reconciler

    @property
    def drains(self) -> Drains:
        return self.services.drains

    async def run(self) -> None:
        """Run until a signal or `stop` ends it. Raises PylvsError if it cannot start."""
        async with self._timing, self._tasks:
            self._timing.keep_running(self.host.manager.extend_limits, "requesting time")
            self._timing.keep_running(self._watch_the_stop, "watching the stop")
            write = self._dumper
            actions: dict[int, Callable[[], object]] = {
                signal.SIGTERM: self.stop,
                signal.SIGINT: self.stop,
                signal.SIGHUP: lambda: self._tasks.start(self._reload_by_signal()),
                signal.SIGUSR1: lambda: self._tasks.start(self._dump(write.write_all)),
                signal.SIGUSR2: lambda: self._tasks.start(self._dump(write.write_statistics)),
                dumps.SIGNALS["STATS_CLEAR"]: lambda: self._tasks.start(
                    self._dump(partial(write.write_statistics, clear=True))
                ),
                dumps.SIGNALS["JSON"]: lambda: self._tasks.start(self._dump(write.write_json)),
            }
            with signal_handlers(actions):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, actions)  # `start` defers them until here
                await self._run()

    def stop(self, keep: bool = False) -> None:
        """Let `run` stop in good order; with `keep`, leave services and virtual routers for the next daemon."""
        if self._stopping.is_set():
            self.announcer.hurry()
        else:
            self._keep = keep
            leaves = self.started_at and self.announcer.announcements()
            self.host.manager.allow(STOP_S + (self.loaded.configuration.settings.announce_leave_s if leaves else 0))
        self._stopping.set()

    def _allow(self, seconds: float) -> None:
        """Let the phase of the start that begins now take so long."""
        if not self._stopping.is_set():
            self.host.manager.allow(seconds)

    async def _watch_the_stop(self) -> None:
        """Let the stop wait for slow edits of the table, but not for a thread that hangs."""
        await self._stopping.wait()
        await self.table_thread.give_up_if_silent(TABLE_LEASE_S)
        await asyncio.Event().wait()  # a return would be taken for a failure

    async def _run(self) -> None:
        self.state.acquire()  # `start` has it already; twice is harmless
        await self._reloading.acquire()
        async with contextlib.AsyncExitStack() as end:
            for part in self.parts:
                end.push_async_callback(part.close)
            try:
                await self._start_until_stop()
                await self._serve()
            except BaseException:
                if not self.started_at:  # a start that failed leaves no address
                    await self.routers.undo()
                raise

    async def _start_until_stop(self) -> None:
        """Start all parts. After `stop` virtual routers end at once, the rest in CHANGE_END_S. Raises PylvsError."""
        starting = asyncio.ensure_future(self._start())
        try:
            if not await ends_before(self._stopping, starting):
                await self.routers.stop()
                await asyncio.wait([starting], timeout=CHANGE_END_S)
                if not starting.done():
                    text = "the start hangs; pylvs run ends without it"
                    self._log.error(text)  # now: a thread that hangs delays the end of the process, too
                    raise PylvsError(text)
                starting.result()
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    async def _start(self) -> None:
        """Read the file and what the last daemon left; open and start all parts; change no table."""
        loaded = await self._load()
        for part in self.parts:
            part.read()
        configuration = accept(loaded, self.options, allow_empty=not self._ownership.owned)
        for part in self.parts:
            await part.open(configuration, self._tasks)
        self.loaded, self.loaded_at = loaded, time.time()
        for part in self.parts:
            await part.start(configuration, self._tasks)

    async def _load(self) -> Loaded:
        self._allow(LOAD_TIMEOUT_S)
        loaded = await to_thread(self.host.load, self.options)
        # A fatal finding ends the start, and is its error: on the same stream it would be there twice.
        twice = self.options.log_format == "text"
        log_findings(finding for finding in loaded.findings if not (finding.fatal and twice))
        self.events.restore(self.history.saved(REMEMBERED))
        self.events.listener = self.history.put
        return loaded

    async def _serve(self) -> None:
        """Complete the table, check servers, and keep the table until `stop`."""
        self._tasks.keep_running(self._track_problems, "tracking problems")
        self._sync.launch(self._tasks)
        starting = asyncio.ensure_future(self._complete_start())
        try:
            await ends_before(self._stopping, starting)
            await self._stopping.wait()
            await self._stop()
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        self._tasks.cancel()

    async def _complete_start(self) -> None:
        try:
            complete, _ = await asyncio.gather(
                self.services.first_table(self._stopping, self._allow), self._routers.configured
            )
        except Exception:
            self._reloading.release()
            raise
        if complete and not self._stopping.is_set():
            await self._begin()
        self._reloading.release()

    async def _begin(self) -> None:
        self.started_at = time.time()
        self._allow(0)
        settle_garbage()
        for part in self.parts:
            await part.begin(self._tasks)
        await self._sync.attempted()
        self.host.manager.ready(self.status())
        self._log.info("ready", status=self.status())

    async def _stop(self) -> None:
        self.host.manager.stopping()
        self._log.info("stopping; services and virtual routers stay" if self._keep else "stopping")
        if not self._keep:
            await self.routers.stop()  # while services are still in the table: another director takes over now
        async with locked(self._reloading, CHANGE_END_S) as free:
            if not free:
                self._log.error("the start or a reload hangs; the stop does not wait for it")
            for part in reversed(self.parts):
                await part.stop(self._keep)

    async def reload(self, dry_run: bool = False, allow_empty: bool = False, force: bool = False) -> Reloaded:
        """Read the file again and run all of it. Raises Refused; then nothing has changed.

        Concurrent reloads run one after another.
        """
        async with self._reloading:
            return await self._reload(dry_run, allow_empty, force)

    async def _reload(self, dry_run: bool, allow_empty: bool, force: bool) -> Reloaded:
        if self._stopping.is_set():
            raise Refused("pylvs run is stopping")
        try:
            loaded = await to_thread(self.host.load, self.options)
            configuration = accept(loaded, self.options, allow_empty, self.loaded, force)
            old = self.engine.configuration
            differences = tuple(await to_thread(self.host.differences, old, configuration))
        except (PylvsError, OSError, MemoryError) as error:
            if not dry_run:
                if isinstance(error, Refused):
                    log_findings(error.findings)
                self._publish_refused(error)
            raise
        if self._stopping.is_set():
            raise Refused("pylvs run is stopping")
        if dry_run:
            return Reloaded(loaded.findings, differences)
        log_findings(loaded.findings)
        self.host.manager.reloading()
        try:
            table, routers = await self._change(loaded, configuration)
        except (PylvsError, OSError, MemoryError) as error:
            self._publish_refused(error)
            raise
        finally:
            self.host.manager.ready(self.status())
        self.reloads["done"] += 1
        self._log.info("reloaded", edits=table.edits, status=self.status())
        self.events.publish("reloaded", edits=table.edits, differences=list(differences))
        return Reloaded(loaded.findings, differences, table, routers, self._api.metrics_error)

    def _publish_refused(self, error: Exception) -> None:
        self.reloads["refused"] += 1
        reason = missing(error) or text_of(error)
        self._log.error(f"not reloaded: {reason}")
        self.events.publish("reload_refused", reason=reason)

    async def _change(self, loaded: Loaded, configuration: Configuration) -> tuple[ReconcileResult, ConfigureResult]:
        """Let all parts follow, or none. Raises PylvsError, OSError."""
        old = self.engine.configuration
        try:
            for part in self.parts:
                await part.prepare(configuration)
        except BaseException:
            for part in self.parts:
                await part.undo(old, self._stopping.is_set())
            raise
        self.loaded, self.loaded_at = loaded, time.time()
        for part in self.parts:
            await part.apply(configuration)
        settle_garbage()
        return self.services.reloaded, self._routers.result

    async def _reload_by_signal(self) -> None:
        if self._reload_pending:  # that reload has not read the file yet
            return
        self._reload_pending = True
        async with self._reloading:
            self._reload_pending = False
            with contextlib.suppress(PylvsError, OSError, MemoryError):  # `_reload` has logged it
                await self._reload(dry_run=False, allow_empty=False, force=False)

    def status(self) -> str:
        """Return one line for the log and the service manager."""
        services, servers, down = self.engine.tally()
        routers = len(self.engine.configuration.vrrp.instances)
        more = f", {counted(routers, 'virtual router')}" if routers else ""
        return f"{counted(services, 'service')}, {counted(servers, 'real server')}, {down} of them down{more}"

    def _forwarding_error(self) -> str | None:
        """Return why services may not be forwarded, "" if they are; None before the first table."""
        last = self.reconciler.last
        host_error = self.host_changes.error or "; ".join(refused(self.reconciler.table.director))
        error = host_error if last.busy else last.error or host_error
        return error if error or self.started_at else None

    @property
    def saving(self) -> bool:
        """Whether overrides or drains wait for the disk."""
        return self._writer.busy

    def problems(self) -> list[Problem]:
        """Return the problems of the daemon and its host; services and virtual routers have their own."""
        found = [] if self.started_at else [Problem("starting", "", "the first table is not complete yet")]
        failures = {**self._timing.failures(), **self._tasks.failures()}
        found += [Problem("failed", what, f"failed and is restarted: {text}") for what, text in failures.items()]
        found += [Problem("configuration", str(each.location), each.text) for each in errors(self.loaded)]
        return [*found, *(each for part in self.parts for each in part.problems())]

    async def _track_problems(self) -> None:
        """Publish problems that begin and end."""
        while True:
            self._problems.update([each for each in self.problems() if each.kind != "starting"])
            await asyncio.sleep(PROBLEMS_POLL_S)

    async def _dump(self, write: Callable[[Configuration], Awaitable[None]]) -> None:
        """Write files for monitoring and for developers, not while a reload changes what they describe."""
        async with self._reloading:
            try:
                async with asyncio.timeout(DUMP_S):
                    await write(self.engine.configuration)
            except TimeoutError:
                raise PylvsError(f"the files for monitoring are not written within {DUMP_S:g} s") from None

    async def reply(self, path: str, given: Mapping[str, Any]) -> bytes:
        """Return the content of the API's reply to a request. Raises what its operation raises."""
        return await self._api.reply(path, given)

    def _router_changed(self, message: Mapping[str, Any]) -> None:
        self._dbus.state_changed(message)
        self._snmp.router_changed(message)
        self._sync.router_changed(message)

    def _make_dbus(self) -> DbusTask:
        """Return what serves D-Bus, with the methods as keepalived has them."""

        async def reload() -> None:  # its caller does not wait for the end
            self._tasks.start(self._reload_by_signal())

        write = self._dumper
        dbus = DbusTask(
            self.host.edge,
            self.routers,
            {
                interface.PRINT_DATA: lambda: self._dump(write.write_routers),
                interface.PRINT_STATS: lambda: self._dump(write.write_statistics),
                interface.PRINT_STATS_CLEAR: lambda: self._dump(partial(write.write_statistics, clear=True)),
                interface.RELOAD: reload,
            },
        )
        self.routers.on_state = self._router_changed
        self.routers.on_process.append(dbus.routers_started)
        return dbus

    async def _report_copied(self, current_at: float | None, text: str) -> None:
        """Report to virtual routers, if there are any, what is here of the other director's connections."""
        with contextlib.suppress(PylvsError):  # without their process there is nothing to wait for
            await self.routers.request("copied", current_at=current_at, text=text)

    async def _table_timeouts(self) -> Timeouts | None:
        """Return the timeouts of connections, None if the table cannot be read now."""
        if TABLE_THREAD in self.liveness.silent():
            return None
        try:
            return await self.table_thread.run(self.reconciler.table.director.timeouts)
        except (PylvsError, OSError):  # the reconciler reports it
            return None

    def _larger_capacity(self) -> int:
        return self.reconciler.table.director.larger_capacity()

    async def _dumped(self) -> Mapping[str, Any]:
        rows = await self.table_thread.run(self.reconciler.table.rows)
        return {"services": self.engine.snapshot(), "table": rows}
