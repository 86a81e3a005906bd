"""The services: their checks (the engine), their rows in the table, and what operators commanded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from pylvs.daemon.host.services import HostServices
from pylvs.daemon.limits import LAST_EDITS_TIMEOUT_S, TABLES_S
from pylvs.daemon.notifications import EventBus, log_event
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem, script_problems
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.drains import Drains
from pylvs.daemon.state.operator_rules import OperatorRules, load_rules
from pylvs.daemon.state.overrides import SLOW_S, OverrideSaver, StateWriter
from pylvs.daemon.state.saved import load_overrides
from pylvs.daemon.table.cache import DesiredTable, DestinationEdit, Edit, TableCache
from pylvs.daemon.table.ownership import Ownership, adoptable_rows
from pylvs.daemon.table.reconciler import Reconciler, ReconcileResult
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.health.engine import Engine
from pylvs.health.events import Event, ServerAdded
from pylvs.model.errors import PylvsError
from pylvs.model.rows import unattached
from pylvs.model.service import UNCHANGED
from pylvs.model.wanted import Configuration
from pylvs.system.logs import get_logger
from pylvs.system.table_thread import TableThread

RETRY_S = 1.0  # for the first table and the last edits
RENAMED_S = 1.0  # in a reload, for the disk to have overrides under the new names: edits of the table wait


class Services(Part):
    """`engine`, `reconciler`, `drains` and `rules` are there once it is open."""

    engine: Engine
    drains: Drains
    rules: OperatorRules
    reconciler: Reconciler
    _overrides: OverrideSaver

    def __init__(
        self,
        host: HostServices,
        state: StateDirectory,
        writer: StateWriter,
        thread: TableThread,
        events: EventBus,
        ownership: Ownership,
        changing: asyncio.Lock,
        keep_table: bool,
    ) -> None:
        """`changing` is locked during the start, a reload and the stop, which save the ownership themselves."""
        self.reloaded = ReconcileResult()  # of the last reload
        self.emptied = False  # at the stop, the services were deleted, and that is saved
        self._host = host
        self._state = state
        self._writer = writer
        self._thread = thread
        self._events = events
        self._ownership = ownership
        self._changing = changing
        self._keep_table = keep_table  # at the stop
        self._pause = contextlib.AsyncExitStack()  # of the reconciler, in a reload
        self._reconcile: Callable[[], Awaitable[ReconcileResult]]  # the only edits during the pause
        self._opened = self._begun = False
        self._flushing = False  # lvs_flush: the first table has no other services
        self._final_table: DesiredTable | None = None
        self._log = get_logger()

    def read(self) -> None:
        self._saved = load_overrides(self._state)
        self._saved_rules = load_rules(self._state)

    async def open(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Continue with the table, the overrides and the drains of the last daemon."""
        table = TableCache(await self._thread.run(self._host.director))
        self.reconciler = Reconciler(table, self._thread, self._desired)
        self.reconciler.on_restored = self._publish_restored
        self.engine = Engine(configuration, self._host.probe_of)
        known = self.engine.restore_overrides(self._saved.overrides, self._saved.services)
        self._overrides = OverrideSaver(self._state, self._writer, self.engine)
        self.rules = OperatorRules(self.engine, self._state, self._writer, self._events)
        self.rules.resume(self._saved_rules)
        rows_now = partial(self._thread.run, table.rows)
        self.drains = Drains(self.engine, rows_now, self._state, self._writer, self._events)
        self.drains.resume()
        if set(known) - self._saved.overrides.keys():  # servers under other names
            self._overrides.save()
        self.engine.adopt(adoptable_rows(await self._thread.run(table.rows), self._ownership.owned, configuration))
        self.engine.on_event(self._on_event)
        self.engine.on_event(self._overrides.on_event)
        self.engine.on_event(self._events.publish_health)
        self.engine.on_change(self.reconciler.wake)
        self._host.sessions.on_change = self.engine.sessions_changed
        self._flushing = configuration.settings.lvs_flush
        self._opened = True

    async def first_table(self, stopping: asyncio.Event, allow: Callable[[float], None]) -> bool:
        """Reconcile until the table is as desired, except for refused edits. Return False if the stop comes first."""
        allow(TABLES_S)
        while (await self.reconciler.reconcile()).error and not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), RETRY_S)
            allow(TABLES_S)  # other programs may keep the tables locked for any time
        self._flushing = False
        await self._save_ownership()
        return not stopping.is_set()

    async def begin(self, tasks: BackgroundTasks) -> None:
        self._begun = True
        self.engine.start()
        if self.engine.configuration.settings.rs_init_notifies:
            self._notify_initial()
        tasks.keep_running(self.reconciler.run, "reconciling the table")
        tasks.keep_running(self.drains.run, "draining")
        tasks.keep_running(self._save_pending_ownership, "saving the owned services")

    async def prepare(self, configuration: Configuration) -> None:
        """Let the engine follow. Until `apply` or `undo` nothing else edits the table."""
        self._reconcile = await self._pause.enter_async_context(self.reconciler.paused())
        self.engine.replace(configuration)

    async def undo(self, configuration: Configuration, stopping: bool) -> None:
        await self._pause.aclose()
        self.reconciler.wake()  # it may have deleted services of checks that the new file lacks

    async def apply(self, configuration: Configuration) -> None:
        async with self._pause:
            self.drains.follow()  # before the overrides: a daemon after a kill knows former names from these
            self._overrides.save()  # under the new names, before a kill amid the edits
            self.rules.follow()
            if self.engine.overrides():
                await self._writer.idle(RENAMED_S)
            self.reloaded = await self._reconcile()
        await self._save_ownership()

    async def stop(self, keep: bool) -> None:
        if keep:
            self.engine.stop()
            return
        if self._begun:
            self.engine.announce_stop()
        self.engine.stop()
        self.emptied = not self._keep_table and await self._delete()

    async def close(self) -> None:
        """End the checks: a running scheduler would start tasks in a loop that is being closed."""
        if self._opened:
            await self.engine.close()

    def problems(self) -> Iterator[Problem]:
        last = self.reconciler.last
        if last.error:
            yield Problem("table", "", last.error)
        for text in last.refused:
            yield Problem("edit_refused", "", text)
        for text in unattached(self.reconciler.table.director):
            yield Problem("device", "", text)
        yield from script_problems(self._host.notify_scripts())

    @property
    def save_error(self) -> str:
        """Why overrides, drains or client rules could not be saved, "" if they are."""
        return self._overrides.error or self.drains.error or self.rules.error

    async def saved(self) -> str:
        """Wait for the disk, at most SLOW_S; return `save_error`."""
        await self._writer.idle(SLOW_S)
        return self.save_error

    def _desired(self) -> DesiredTable:
        if self._final_table is not None:
            return self._final_table
        settings = self.engine.configuration.settings
        exclusive = settings.exclusive or self._flushing
        rows = (*self.rules.rows(self.engine.desired_rows()), *self._host.vip_checks.rows)
        return DesiredTable(rows, self._ownership.owned.keys(), exclusive, settings.lvs_timeouts or UNCHANGED)

    async def _save_ownership(self) -> None:
        if self._final_table is not None:  # a reload that the stop did not wait for
            return
        complete, desired = self.reconciler.last.complete, self._desired()
        missing = await self._thread.run(self.reconciler.table.missing, desired)
        await self._ownership.follow(self._ownership.wanted(self.engine.configuration), missing, complete)

    async def _save_pending_ownership(self) -> None:
        """Without it the next daemon would take servers that are absent because they are down for new ones."""
        while True:
            await self.reconciler.has_run.wait()
            self.reconciler.has_run.clear()
            if self._ownership.pending:
                async with self._changing:
                    await self._save_ownership()

    async def _delete(self) -> bool:
        """Delete the daemon's services, or with lvs_flush_on_stop all; return whether that is done and saved."""
        flush = self.engine.configuration.settings.lvs_flush_on_stop == "all"
        self._final_table = DesiredTable((), self._ownership.owned.keys(), exclusive=flush)
        deadline = time.monotonic() + LAST_EDITS_TIMEOUT_S
        while (await self.reconciler.reconcile()).error and time.monotonic() < deadline and not self._thread.hangs:
            await asyncio.sleep(RETRY_S)
        if not self.reconciler.last.complete:
            return False
        try:
            await self._ownership.after_edits({})
        except PylvsError as error:  # the next daemon finds the services gone
            self._log.error(str(error))
            return False
        return True

    def _on_event(self, event: Event) -> None:
        log_event(event)
        self._host.notify(event)

    def _notify_initial(self) -> None:
        """Notify of the servers that are up at the start, as if a reload had added them."""
        for service in self.engine.snapshot():
            for server in service.servers:
                if server.up:
                    reason, at = "pylvs has started", time.time()
                    added = ServerAdded(
                        at=at,
                        service=server.service,
                        reason=reason,
                        server=server.server,
                        weight=server.weight,
                        up=True,
                    )
                    self._host.notify(added)

    def _publish_restored(self, edit: Edit) -> None:
        names = (each.name for each in self.engine.configuration.services if edit.key in each.keys)
        server = {"server": str(edit.destination)} if isinstance(edit, DestinationEdit) else {}
        self._events.publish("restored", service=next(names, str(edit.key)), **server, reason=edit.foreign_change)
