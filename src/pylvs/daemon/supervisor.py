"""The daemon from start to stop: load, check, reconcile, reload.

    configuration -> engine (checks) -> desired table -> reconciler -> table thread -> Director
                        | events
                        +-> logs, scripts, mails, FIFOs, the API
                  -> virtual routers -> pylvs-vrrp, which outlives the daemon

One event loop runs all of it; the table thread reads and edits the tables. A daemon that is killed leaves the table as
it is, and the next one continues from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from pylvs.config.language.tree import Finding
from pylvs.daemon import Options, units
from pylvs.daemon.api.files import FileChanges
from pylvs.daemon.api.server import ApiServer
from pylvs.daemon.dbus_process import DbusProcess
from pylvs.daemon.dumping import Dumper
from pylvs.daemon.host.changes import HostChanges
from pylvs.daemon.host.services import HostServices
from pylvs.daemon.keepalived import dumps
from pylvs.daemon.keepalived.pid_files import PidFiles
from pylvs.daemon.keepalived.reload_time import ReloadTimer
from pylvs.daemon.leftovers import (
    ADDRESSES_FILE,
    Namespaces,
    end_former,
    save_addresses,
)
from pylvs.daemon.limits import (
    CHANGE_END_S,
    CLOSE_S,
    LAST_EDITS_TIMEOUT_S,
    SCRIPTS_S,
    STOP_S,
    TABLE_LEASE_S,
    TABLES_S,
    ends_before,
    locked,
)
from pylvs.daemon.liveness import PROBER, TABLE_THREAD, Liveness
from pylvs.daemon.loading import LOAD_TIMEOUT_S, Loaded, Refused, accept, errors, without_memory
from pylvs.daemon.notifications import REMEMBERED, EventBus, log_event, log_findings
from pylvs.daemon.problems import Problem, ProblemTracker, script_problems
from pylvs.daemon.snmp_process import SnmpProcess
from pylvs.daemon.state.directory import (
    NAMESPACES_FILE,
    SERVICES_FILE,
    OwnedServices,
    StateDirectory,
    load_overrides,
)
from pylvs.daemon.state.drains import Drains
from pylvs.daemon.state.overrides import SLOW_S, NotSaved, SavedOverrides, StateWriter, identities
from pylvs.daemon.table.cache import DesiredTable, DestinationEdit, Edit, TableCache
from pylvs.daemon.table.growth import TableGrowth, grow
from pylvs.daemon.table.ownership import Ownership, adoptable_rows, owned_services
from pylvs.daemon.table.reconciler import Reconciler, ReconcileResult
from pylvs.daemon.tasks import BackgroundTasks, signal_handlers
from pylvs.daemon.virtual_routers.first import FirstRouters
from pylvs.daemon.virtual_routers.forwarding import monitor_forwarding
from pylvs.daemon.virtual_routers.supervision import ConfigureResult, VirtualRouters
from pylvs.dbus import interface
from pylvs.health.engine import Engine
from pylvs.health.events import Event, ServerAdded
from pylvs.health.prober.link import ProberCounts
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError
from pylvs.model.rows import refused, unattached
from pylvs.model.service import UNCHANGED
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import Configuration
from pylvs.system.garbage import settle_garbage
from pylvs.system.logs import counted, get_logger
from pylvs.system.namespaces import network_cookie
from pylvs.system.processes.scripts import ScriptCounts
from pylvs.system.table_thread import TableThread
from pylvs.system.threads import to_thread

ROUTERS_FIRST_S = 1.0  # to start virtual routers before everything else
RETRY_S = 1.0  # for the first table and the last edits
PROBER_LEASE_S = 15.0  # without a process that makes checks; several restarts
PROBLEMS_POLL_S = 2.0
RENAMED_S = 1.0  # in a reload, for the disk to have overrides under the new names: edits of the table wait
DUMP_S = 60.0  # for files for monitoring, for which a reload waits
DISK_END_S = 10.0  # at the stop, for the last writes of state, and then of events
SAVE_RETRY_S = 30.0  # of overrides, drains and events that could not be saved


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

    engine: Engine
    drains: Drains
    reconciler: Reconciler
    loaded: Loaded
    host_changes: HostChanges
    _namespaces: Namespaces
    _ownership: Ownership
    _overrides: SavedOverrides
    _routers_configured: asyncio.Future[ConfigureResult]

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
        start = partial(host.start_routers, self.state, options.log_format)
        self.routers = VirtualRouters(self.state, self.events, start, host.sessions, first)
        self.liveness = Liveness(self.events)
        self.liveness.watch(TABLE_THREAD, lambda: self.table_thread.progress, TABLE_LEASE_S)
        self.liveness.watch(PROBER, lambda: host.prober.counts().problem or None, PROBER_LEASE_S)
        self._snmp = SnmpProcess(self.state, options.log_format)
        self.file_changes = FileChanges()
        self.reloads: Counter[str] = Counter()  # by result: done, refused
        self._host = host
        self._reload_timer = ReloadTimer(lambda: self.engine.configuration.settings, self._reload_by_signal)
        self._dumper = Dumper(self.state, self._dumped, self.routers.status)
        self._pid_files = pid_files
        self._tasks: tuple[BackgroundTasks, ...] = ()
        self._flushing = False  # lvs_flush: the first table has no other services
        self._final_table: DesiredTable | None = None
        self._reload_pending = False  # by a signal
        self._problems = ProblemTracker(self.events.publish)
        self._keep = False  # at the stop, leave services and virtual routers
        self._stopping = asyncio.Event()
        self.listing = asyncio.Lock()  # of a piece of the connection table, for the API
        self._reloading = asyncio.Lock()  # held until the first table is complete
        self._log = get_logger()

    async def run(self) -> None:
        """Run until a signal or `stop` ends it. Raises PylvsError if it cannot start."""
        async with BackgroundTasks() as timing, BackgroundTasks() as tasks:
            self._tasks = timing, tasks
            timing.keep_running(self._host.manager.extend_limits, "requesting time")
            timing.keep_running(self._watch_the_stop, "watching the stop")
            actions: dict[int, Callable[[], object]] = {
                signal.SIGTERM: self.stop,
                signal.SIGINT: self.stop,
                signal.SIGHUP: lambda: tasks.start(self._reload_by_signal()),
                signal.SIGUSR1: lambda: tasks.start(self._dump(self._dumper.write_all)),
                signal.SIGUSR2: lambda: tasks.start(self._dump(self._dumper.write_statistics)),
                dumps.SIGNALS["STATS_CLEAR"]: lambda: tasks.start(
                    self._dump(partial(self._dumper.write_statistics, clear=True))
                ),
                dumps.SIGNALS["JSON"]: lambda: tasks.start(self._dump(self._dumper.write_json)),
            }
            with signal_handlers(actions):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, actions)  # `start` defers them until here
                await self._run(tasks)

    def stop(self, keep: bool = False) -> None:
        """Let `run` stop in good order; with `keep`, leave services and virtual routers for the next daemon."""
        if not self._stopping.is_set():
            self._keep = keep
            self._host.manager.allow(STOP_S)
        self._stopping.set()

    def _allow(self, seconds: float) -> None:
        """Let the phase of the start that begins now take so long."""
        if not self._stopping.is_set():
            self._host.manager.allow(seconds)

    async def _watch_the_stop(self) -> None:
        """Let the stop wait for slow edits of the table, but not for a thread that hangs."""
        await self._stopping.wait()
        await self.table_thread.give_up_if_silent(TABLE_LEASE_S)
        await asyncio.Event().wait()  # a return would be taken for a failure

    async def _run(self, tasks: BackgroundTasks) -> None:
        self.state.acquire()  # `start` has it already; twice is harmless
        await self._reloading.acquire()
        try:
            try:
                await self._prepare_until_stop(tasks)
            except BaseException:
                await self.routers.undo()
                raise
            try:
                await self._serve(tasks)
            except BaseException:
                if not self.started_at:
                    await self.routers.undo()
                raise
            finally:  # also when cancelled: a running scheduler would start tasks in a loop that is being closed
                await self.engine.close()
        finally:
            self.routers.close()
            await self._close_host()
            if not await self.table_thread.end(TABLE_LEASE_S):
                self._log.error("the thread that edits the tables hangs; the process ends without it")
            await self.history.finish(DISK_END_S)
            if not await self._writer.end(DISK_END_S):
                self._log.error(f"{self.state.path}: the disk does not answer; the process ends without it")
            if self._pid_files:
                self._pid_files.release()

    async def _close_host(self) -> None:
        limit_s = CLOSE_S + self._host.shutdown_s
        self._host.manager.allow(limit_s + TABLE_LEASE_S + 2 * DISK_END_S)
        try:
            async with asyncio.timeout(limit_s):
                await self._host.close()
        except TimeoutError:
            self._log.error("scripts or other processes of the daemon hang; it ends without them")

    async def _prepare_until_stop(self, tasks: BackgroundTasks) -> None:
        """Load and prepare. After `stop` virtual routers end at once, the rest in CHANGE_END_S. Raises PylvsError."""
        preparing = asyncio.ensure_future(self._prepare(tasks))
        try:
            if not await ends_before(self._stopping, preparing):
                await self.routers.stop()
                await asyncio.wait([preparing], timeout=CHANGE_END_S)
                if not preparing.done():
                    text = "the start hangs; pylvs run ends without it"
                    self._log.error(text)  # now: a thread that hangs delays the end of the process, too
                    raise PylvsError(text)
                preparing.result()
        finally:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)

    async def _load(self) -> Loaded:
        self._allow(LOAD_TIMEOUT_S)
        loaded = await to_thread(self._host.load, self.options)
        # A fatal finding ends the start, and is its error: on the same stream it would be there twice.
        twice = self.options.log_format == "text"
        log_findings(finding for finding in loaded.findings if not (finding.fatal and twice))
        self.events.restore(self.history.saved(REMEMBERED))
        self.events.listener = self.history.put
        if self._pid_files:
            self._use_pid_files(self._pid_files)
        return loaded

    def _use_pid_files(self, files: PidFiles) -> None:
        if files.refused:
            self._log.info(f"no PID file is written: {files.refused}")
        files.write_checkers(os.getpid())
        self.routers.on_process.append(files.write_vrrp)

    async def _serve(self, tasks: BackgroundTasks) -> None:
        """Check servers, keep the table and serve the API until `stop`."""
        self._api = ApiServer(self)
        self._dbus = self._make_dbus(tasks)
        tasks.keep_running(self.history.run, "saving events")
        tasks.keep_running(self._track_problems, "tracking problems")
        self._snmp.configure(self.engine.configuration)
        tasks.keep_running(self._snmp.run, "serving SNMP")
        tasks.keep_running(self.routers.follow_sessions, "following BFD sessions")
        tasks.keep_running(self.liveness.run, "watching for silence")
        monitor = partial(
            monitor_forwarding,
            self._forwarding_error,
            self.routers.report_forwarding,
            lambda: "; ".join(self.liveness.silent().values()),
        )
        tasks.keep_running(monitor, "monitoring forwarding")
        async with self._api.serving(), self._dbus.serving(self.engine.configuration):
            starting = asyncio.ensure_future(self._complete_start(tasks))
            try:
                await ends_before(self._stopping, starting)
                await self._stopping.wait()
                await self._stop()
            finally:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
            tasks.cancel()

    async def _complete_start(self, tasks: BackgroundTasks) -> None:
        try:
            complete, _ = await asyncio.gather(self._first_table(), self._routers_configured)
        except Exception:
            self._reloading.release()
            raise
        if complete and not self._stopping.is_set():
            self._begin(tasks)
        self._reloading.release()

    def _make_dbus(self, tasks: BackgroundTasks) -> DbusProcess:
        """Return what serves D-Bus, with the methods as keepalived has them."""

        async def reload() -> None:  # its caller does not wait for the end
            tasks.start(self._reload_by_signal())

        write = self._dumper
        dbus = DbusProcess(
            self.routers,
            {
                interface.PRINT_DATA: lambda: self._dump(write.write_routers),
                interface.PRINT_STATS: lambda: self._dump(write.write_statistics),
                interface.PRINT_STATS_CLEAR: lambda: self._dump(partial(write.write_statistics, clear=True)),
                interface.RELOAD: reload,
            },
        )
        self.routers.on_state = dbus.state_changed
        self.routers.on_process.append(dbus.routers_started)
        return dbus

    async def _prepare(self, tasks: BackgroundTasks) -> None:
        """Start the virtual routers, then read everything that the daemon needs before it changes a table."""
        loaded = await self._load()
        self._ownership = Ownership(self.state, self._writer)
        owned = self._ownership.owned
        overrides, former = load_overrides(self.state)
        configuration = accept(loaded, self.options, allow_empty=not owned)
        self._host.configure(configuration)
        self._allow(configuration.settings.startup_script_timeout_s + SCRIPTS_S)
        await self._host.run_startup_script()
        self._allow(TABLES_S)
        if units.former(self.state.path) is not None:  # virtual routers there may have the same addresses
            await to_thread(end_former, self.state, await self.table_thread.run(network_cookie))
            self._ownership = Ownership(self.state, self._writer)
            owned = self._ownership.owned
            overrides, former = load_overrides(self.state)
        else:
            units.note(self.state.path)
        await self._start_routers(configuration, tasks)
        table = TableCache(await self.table_thread.run(self._host.director))
        self.reconciler = Reconciler(table, self.table_thread, self._desired)
        self.reconciler.on_restored = self._publish_restored
        self.engine = Engine(configuration, self._host.probe_of)
        self.host_changes = HostChanges(self._host, self.state, self.table_thread, table, self.engine)
        names = {name for name, _ in overrides}
        known = self.engine.restore_overrides(overrides, identities(configuration, owned, names) | former)
        self._overrides = SavedOverrides(self.state, self._writer, self.engine)
        rows_now = partial(self.table_thread.run, table.rows)
        self.drains = Drains(self.engine, rows_now, self.state, self._writer, self.events)
        self.drains.resume()
        if set(known) - overrides.keys():  # servers under other names
            self._overrides.save()
        rows = await self.table_thread.run(table.rows)
        self.engine.adopt(adoptable_rows(rows, owned, configuration))
        self.engine.on_event(self._on_event)
        self.engine.on_event(self._overrides.on_event)
        self.engine.on_event(self.events.publish_health)
        self.engine.on_change(self.reconciler.wake)
        self._host.sessions.on_change = self.engine.sessions_changed
        self.loaded, self.loaded_at = loaded, time.time()
        self._flushing = configuration.settings.lvs_flush
        await self._save_before_edits(configuration)
        await self.table_thread.run(self._host.vip_checks.adapt_host, self.state)

    def _publish_restored(self, edit: Edit) -> None:
        names = (each.name for each in self.engine.configuration.services if edit.key in each.keys)
        server = {"server": str(edit.destination)} if isinstance(edit, DestinationEdit) else {}
        self.events.publish("restored", service=next(names, str(edit.key)), **server, reason=edit.foreign_change)

    async def _save_before_edits(self, configuration: Configuration) -> None:
        """Save what `pylvs stop` needs if this daemon is killed.

        A start waits for a slow disk, and continues if the disk refuses that. Raises PylvsError.
        """
        self._namespaces = Namespaces.of(self.options, network_cookie(), await self.table_thread.run(network_cookie))
        with contextlib.suppress(NotSaved):
            await self._writer.write(NAMESPACES_FILE, partial(self._namespaces.save, self.state), TABLES_S)
        await self._ownership.before_edits(self._owned_services(configuration), TABLES_S)
        await self._save_addresses(configuration.vrrp, TABLES_S)

    async def _save_addresses(self, routers: VrrpConfiguration, patience_s: float | None = None) -> None:
        with contextlib.suppress(NotSaved):
            await self._writer.write(ADDRESSES_FILE, partial(save_addresses, self.state, routers), patience_s)

    async def _start_routers(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Start the virtual routers before anything that takes long: tables, checks, names.

        Where their process does not start at once, the daemon continues without it.
        """
        tasks.keep_running(self.routers.run, "running virtual routers")
        tasks.keep_running(self.routers.heartbeat, "reporting to virtual routers")
        self._routers_configured = asyncio.ensure_future(self.routers.configure(configuration))
        await asyncio.wait([self._routers_configured], timeout=ROUTERS_FIRST_S)

    async def _first_table(self) -> bool:
        """Reconcile until the table is as desired, except for refused edits. Return False if `stop` comes first."""
        self._allow(TABLES_S)
        while (await self.reconciler.reconcile()).error and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), RETRY_S)
            self._allow(TABLES_S)  # other programs may keep the tables locked for any time
        self._flushing = False
        await self._save_ownership()
        return not self._stopping.is_set()

    def _begin(self, tasks: BackgroundTasks) -> None:
        self.started_at = time.time()
        self._allow(0)
        settle_garbage()
        self.engine.start()
        if self.engine.configuration.settings.rs_init_notifies:
            self._notify_initial()
        tasks.keep_running(self.reconciler.run, "reconciling the table")
        tasks.keep_running(self.drains.run, "draining")
        growth = TableGrowth(
            self.reconciler.table.director.larger_capacity,
            partial(grow, self.options.tables_namespace),
            self.table_thread,
            self.events,
        )
        tasks.keep_running(growth.run, "watching the size of the connection table")
        tasks.keep_running(self._save_pending_ownership, "saving the owned services")
        tasks.keep_running(self._save_again, "saving the state")
        tasks.keep_running(self._host.return_memory, "returning memory")
        tasks.keep_running(self.host_changes.run, "following addresses and devices")
        tasks.keep_running(self._reload_timer.run, "watching the reload_time_file")
        self._reload_timer.configure()
        if self._host.manager.watchdog_s:
            tasks.keep_running(self._feed_watchdog, "feeding the watchdog")
        self._host.manager.ready(self.status())
        self._log.info("ready", status=self.status())
        tasks.start(self._api.prepare())

    def _notify_initial(self) -> None:
        """Notify of the servers that are up at the start, as if a reload had added them."""
        for service in self.engine.snapshot():
            for each in service.servers:
                if each.up:
                    reason, at = "pylvs has started", time.time()
                    added = ServerAdded(
                        at=at, service=each.service, reason=reason, server=each.server, weight=each.weight, up=True
                    )
                    self._host.notify(added)

    async def _stop(self) -> None:
        self._host.manager.stopping()
        self._log.info("stopping; services and virtual routers stay" if self._keep else "stopping")
        if not self._keep:
            await self.routers.stop()  # while services are still in the table: another director takes over now
        async with locked(self._reloading, CHANGE_END_S) as free:
            if not free:
                self._log.error("the start or a reload hangs; the stop does not wait for it")
            if self._keep:
                self.engine.stop()
                return
            await self._dbus.stop()
            if self.started_at:
                self.engine.announce_stop()
            self.engine.stop()
            deleted = not self.options.keep_table and await self._delete_services()
            try:
                await self.table_thread.run(self._host.vip_checks.restore, self.state)
            except PylvsError as error:
                self._log.error(str(error))
            else:
                if deleted:  # else `pylvs stop` needs it
                    self._writer.put(NAMESPACES_FILE, lambda: partial(self.state.write, NAMESPACES_FILE, None))
            self._put_addresses(VrrpConfiguration())

    async def _delete_services(self) -> bool:
        """Delete the daemon's services, or with lvs_flush_on_stop all; return whether that is done and saved."""
        flush = self.engine.configuration.settings.lvs_flush_on_stop == "all"
        self._final_table = DesiredTable((), self._ownership.owned.keys(), exclusive=flush)
        deadline = time.monotonic() + LAST_EDITS_TIMEOUT_S
        while (await self.reconciler.reconcile()).error and time.monotonic() < deadline and not self.table_thread.hangs:
            await asyncio.sleep(RETRY_S)
        if not self.reconciler.last.complete:
            return False
        try:
            await self._ownership.after_edits({})
        except PylvsError as error:  # the next daemon finds the services gone
            self._log.error(str(error))
            return False
        return True

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
            loaded = await self._read()
            configuration = accept(loaded, self.options, allow_empty, self.loaded, force)
            old = self.engine.configuration
            differences = tuple(await to_thread(self._host.differences, old, configuration))
        except (PylvsError, OSError) as error:
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
        self._host.manager.reloading()
        try:
            table, routers = await self._change(loaded, configuration)
        except (PylvsError, OSError) as error:
            self._publish_refused(error)
            raise
        finally:
            self._host.manager.ready(self.status())
        self.reloads["done"] += 1
        self._log.info("reloaded", edits=table.edits, status=self.status())
        self.events.publish("reloaded", edits=table.edits, differences=list(differences))
        return Reloaded(loaded.findings, differences, table, routers, self._api.metrics_error)

    async def _read(self) -> Loaded:
        with contextlib.suppress(MemoryError, SystemError):  # Python 3.11 raises SystemError too where memory ends
            try:
                return await to_thread(self._host.load, self.options)
            except OSError as error:  # findings name files; this is a shortage of this process
                raise Refused(f"{self.options.file}: cannot be read: {error.strerror or error}") from None
        # The exception, with what its frames held, is gone here: the answer needs memory.
        raise without_memory(self.options.file)

    def _publish_refused(self, error: Exception) -> None:
        self.reloads["refused"] += 1
        self._log.error(f"not reloaded: {error}")
        self.events.publish("reload_refused", reason=str(error))

    async def _change(self, loaded: Loaded, configuration: Configuration) -> tuple[ReconcileResult, ConfigureResult]:
        async with contextlib.AsyncExitStack() as pause:
            routers, reconcile = await self._put_in_force(configuration, pause)
            self.loaded, self.loaded_at = loaded, time.time()
            self.drains.follow()  # before the overrides: a daemon after a kill knows former names from these
            self._overrides.save()  # under the new names, before a kill amid the edits
            if self.engine.overrides():
                await self._writer.idle(RENAMED_S)
            table = await reconcile()
        await self._save_ownership()
        await self._api.follow(configuration.settings)
        await self.host_changes.find_path_problems()
        self._snmp.configure(configuration)
        await self._dbus.follow(configuration)
        self._reload_timer.configure()
        settle_garbage()
        return table, routers

    async def _put_in_force(
        self, configuration: Configuration, pause: contextlib.AsyncExitStack
    ) -> tuple[ConfigureResult, Callable[[], Awaitable[ReconcileResult]]]:
        """Let everything but the table follow, or undo it. Until the end of `pause` only the result edits the table."""
        old = self.engine.configuration
        try:
            self._host.configure(configuration)
            await self._ownership.before_edits(self._owned_services(configuration))
            await self._save_addresses(configuration.vrrp)
            await self.table_thread.run(self._host.vip_checks.adapt_host, self.state)
            routers = await self.routers.configure(configuration)
            reconcile = await pause.enter_async_context(self.reconciler.paused())
            self.engine.replace(configuration)
        except BaseException:
            with contextlib.suppress(OSError):
                self._host.configure(old)
            self.reconciler.wake()  # it may have deleted services of checks that the new file lacks
            self._put_addresses(old.vrrp)
            with contextlib.suppress(PylvsError):
                await self.routers.configure(old)
            if not self._stopping.is_set():  # the stop reverts the settings, perhaps before this
                with contextlib.suppress(PylvsError):
                    await self.table_thread.run(self._host.vip_checks.adapt_host, self.state)
            raise
        return routers, reconcile

    async def _reload_by_signal(self) -> None:
        if self._reload_pending:  # that reload has not read the file yet
            return
        self._reload_pending = True
        async with self._reloading:
            self._reload_pending = False
            with contextlib.suppress(PylvsError, OSError):  # `_reload` has logged it
                await self._reload(dry_run=False, allow_empty=False, force=False)

    def prober_counts(self) -> ProberCounts:
        """Return the state of the process that makes checks."""
        return self._host.prober.counts()

    def notify_scripts(self) -> dict[str, Any]:
        """Return which notify scripts of services run, wait, or had to be ended."""
        return self._host.notify_scripts()

    def script_counts(self) -> ScriptCounts:
        """Return how many scripts of checks run and wait."""
        return self._host.script_counts()

    def overview(self) -> dict[str, Any]:
        """Return what runs on which device, and why, as `pylvs show` does. In the table thread. Raises PylvsError."""
        return self._host.overview()

    def status(self) -> str:
        """Return one line for the log and the service manager."""
        services, servers, down = self.engine.tally()
        routers = len(self.engine.configuration.vrrp.instances)
        more = f", {counted(routers, 'virtual router')}" if routers else ""
        return f"{counted(services, 'service')}, {counted(servers, 'real server')}, {down} of them down{more}"

    def _desired(self) -> DesiredTable:
        if self._final_table is not None:
            return self._final_table
        settings = self.engine.configuration.settings
        exclusive = settings.exclusive or self._flushing
        rows = (*self.engine.desired_rows(), *self._host.vip_checks.rows)
        return DesiredTable(rows, self._ownership.owned.keys(), exclusive, settings.lvs_timeouts or UNCHANGED)

    def _forwarding_error(self) -> str | None:
        """Return why services may not be forwarded, "" if they are; None before the first table."""
        last = self.reconciler.last
        host_error = self.host_changes.error or "; ".join(refused(self.reconciler.table.director))
        error = host_error if last.busy else last.error or host_error
        return error if error or self.started_at else None

    def _owned_services(self, configuration: Configuration) -> OwnedServices:
        rows = self._host.vip_checks.rows
        checks = {row.service.key: frozenset(each.key for each in row.destinations) for row in rows}
        return checks | dict(owned_services(configuration))

    async def _save_ownership(self) -> None:
        if self._final_table is not None:  # a reload that the stop did not wait for
            return
        complete, desired = self.reconciler.last.complete, self._desired()
        missing = await self.table_thread.run(self.reconciler.table.missing, desired)
        await self._ownership.follow(self._owned_services(self.engine.configuration), missing, complete)

    async def _save_pending_ownership(self) -> None:
        """Without it the next daemon would take servers that are absent because they are down for new ones."""
        while True:
            await self.reconciler.has_run.wait()
            self.reconciler.has_run.clear()
            if self._ownership.pending:
                async with self._reloading:
                    await self._save_ownership()

    def _on_event(self, event: Event) -> None:
        log_event(event)
        self._host.notify(event)

    @property
    def save_error(self) -> str:
        """Why overrides or drains could not be saved, "" if they are."""
        return self._overrides.error or self.drains.error

    @property
    def saving(self) -> bool:
        """Whether overrides or drains wait for the disk."""
        return self._writer.busy

    async def saved(self) -> str:
        """Wait for the disk, at most SLOW_S; return `save_error`."""
        await self._writer.idle(SLOW_S)
        return self.save_error

    def problems(self) -> list[Problem]:
        """Return the problems of the daemon and its host; services and virtual routers have their own."""
        last, director = self.reconciler.last, self.reconciler.table.director
        found = [] if self.started_at else [Problem("starting", "", "the first table is not complete yet")]
        found += [Problem("table", "", text) for text in (last.error, self.host_changes.error) if text]
        found += [Problem("silent", name, text) for name, text in self.liveness.silent().items()]
        failures = (each for tasks in self._tasks for each in tasks.failures().items())
        found += [Problem("failed", what, f"failed and is restarted: {text}") for what, text in failures]
        found += [Problem("failed", "", text) for text in [self._host.vip_checks.error] if text]
        found += [Problem("prober", "", text) for text in [self.prober_counts().unsteady] if text]
        found += [Problem("edit_refused", "", text) for text in last.refused]
        found += script_problems(self.notify_scripts())
        found += [Problem("device", "", text) for text in unattached(director)]
        found += [Problem("configuration", str(each.location), each.text) for each in errors(self.loaded)]
        found += self.host_changes.path_problems
        if self._api.error:
            found.append(Problem("api", "", self._api.error))
        if self._api.metrics_error:
            found.append(Problem("metrics_address", "", self._api.metrics_error))
        if self._api.group_error:
            found.append(Problem("api", "", self._api.group_error))
        if self._dbus.problem:
            found.append(Problem("dbus", "", self._dbus.problem))
        if self._snmp.problem:
            found.append(Problem("snmp", "", self._snmp.problem))
        if self._writer.problem:
            found.append(Problem("state", "", self._writer.problem))
        if self.history.error:
            found.append(Problem("history", "", self.history.error))
        return found

    async def _track_problems(self) -> None:
        """Publish problems that begin and end, and save again what could not be saved."""
        while True:
            self._problems.update([each for each in self.problems() if each.kind != "starting"])
            await asyncio.sleep(PROBLEMS_POLL_S)

    async def _save_again(self) -> None:
        while True:
            await asyncio.sleep(SAVE_RETRY_S)
            if self._overrides.error:
                self._overrides.save()
            if self.drains.error:
                self.drains.save()
            # A reload writes those of the new configuration, which these must not replace.
            if self._writer.error(ADDRESSES_FILE) and not self._reloading.locked():
                self._put_addresses(self.engine.configuration.vrrp)
            if self._writer.error(NAMESPACES_FILE):
                self._writer.put(NAMESPACES_FILE, lambda: partial(self._namespaces.save, self.state))
            if self._writer.error(SERVICES_FILE) and not self._reloading.locked():
                async with self._reloading:
                    await self._save_ownership()
            self.history.write_again()

    def _put_addresses(self, routers: VrrpConfiguration) -> None:
        self._writer.put(ADDRESSES_FILE, lambda: partial(save_addresses, self.state, routers))

    async def _feed_watchdog(self) -> None:
        while True:
            self._host.manager.alive()
            await asyncio.sleep(self._host.manager.watchdog_s / 2)

    async def _dump(self, write: Callable[[Configuration], Awaitable[None]]) -> None:
        """Write files for monitoring and for developers, not while a reload changes what they describe."""
        async with self._reloading:
            try:
                async with asyncio.timeout(DUMP_S):
                    await write(self.engine.configuration)
            except TimeoutError:
                raise PylvsError(f"the files for monitoring are not written within {DUMP_S:g} s") from None

    async def _dumped(self) -> Mapping[str, Any]:
        rows = await self.table_thread.run(self.reconciler.table.rows)
        return {"services": self.engine.snapshot(), "table": rows}
