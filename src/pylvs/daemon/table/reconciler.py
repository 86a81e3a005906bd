"""Reconcile the table with the desired state: at every change of that state, and every few seconds.

The second catches the edits of other programs. The daemon deletes only services that it owns.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from pylvs.daemon.table.cache import DesiredTable, Edit, EditPlan, TableCache, TableChanged
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, PylvsError, text_of
from pylvs.system.logs import get_logger
from pylvs.system.table_thread import TableThread

POLL_S = 2.0  # for edits by other programs
PAUSE_S = 0.02  # between two runs; it gathers further changes
BATCH_S = 0.05  # of edits under one lock, for which ipvsadm waits
MAX_BATCH_S = 2.0  # if taking the lock is slow: most of the time must go into edits
ATTEMPTS = 20  # of a plan that other programs' edits make void
MAX_LOG_LINES = 20  # and events, for the restored edits of one run


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """The result of one run."""

    edits: int = 0
    refused: tuple[str, ...] = ()  # edits that the data plane refused
    error: str = ""  # why the table could not be read or edited at all
    busy: bool = False  # other programs hold the tables: the old entries still forward

    @property
    def complete(self) -> bool:
        """Whether the table is as desired when the run began."""
        return not self.error and not self.refused


class Reconciler:
    """Plans and applies edits, run after run."""

    def __init__(self, table: TableCache, thread: TableThread, desired: Callable[[], DesiredTable]) -> None:
        self.table = table
        self.thread = thread
        self.edit_counts: Counter[str] = Counter()  # by kind: desired, restored, refused
        self.last = ReconcileResult()
        self.has_run = asyncio.Event()  # there is a new `last`
        self.on_restored: Callable[[Edit], None] = lambda _: None  # an edit reverts a change by another program
        self._desired = desired
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()
        self._logged: tuple[str, ...] = ()  # errors of the last run, to log each once
        self._log = get_logger()

    def wake(self) -> None:
        """Run soon: the desired state may have changed."""
        self._woken.set()

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[Callable[[], Awaitable[ReconcileResult]]]:
        """Run only by what this yields until the block ends. A run that has begun ends before."""
        async with self._lock:
            yield self._run_once

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):  # in Python 3.11 wait_for may lose a cancellation
                    await self._woken.wait()
            await self.reconcile()
            await asyncio.sleep(PAUSE_S)

    async def reconcile(self) -> ReconcileResult:
        """Run once, now. Errors are returned and logged once; the next run tries again."""
        async with self._lock:
            return await self._run_once()

    async def _run_once(self) -> ReconcileResult:
        self._woken.clear()
        try:
            self.last = await self._reconcile()
        except (PylvsError, OSError) as error:
            self.last = ReconcileResult(error=text_of(error), busy=isinstance(error, Busy))
        except Exception as error:
            self.last = ReconcileResult(error=f"this is a bug: {error!r}")
            raise
        self._log_errors()
        self.has_run.set()
        return self.last

    async def _reconcile(self) -> ReconcileResult:
        for _ in range(ATTEMPTS):
            desired = self._desired()
            plan = await self.thread.run(self.table.plan, desired)
            if plan.tables_gone:
                count = sum(edit.adds_service for edit in plan.edits)
                self._log.warning("the tables were removed (pylvs down?); creating them again", services=count)
            else:
                self._log_restored(plan)
            with contextlib.suppress(TableChanged):
                return await self._apply(plan, desired)
        raise TableChanged("other programs edit the tables continuously")

    async def _apply(self, plan: EditPlan, desired: DesiredTable) -> ReconcileResult:
        if plan.timeouts:
            await self.thread.run(self.table.set_timeouts, plan.timeouts)
        failures: list[str] = []
        rest: Sequence[Edit] = plan.edits
        budget_s = BATCH_S
        while rest:
            begin = time.monotonic()
            count, refused = await self.thread.run(self.table.apply, rest, budget_s)
            failures += refused
            rest = rest[count:]
            if rest:
                overhead_s = time.monotonic() - begin - budget_s
                budget_s = min(max(BATCH_S, 2 * overhead_s), MAX_BATCH_S)
                await asyncio.sleep(PAUSE_S / 10)
        if plan.changed:
            await self.thread.run(self.table.plan_applied, desired)
        if plan.tables_gone:
            self._log.info("created the tables again", edits=len(plan.edits) - len(failures))
        self.edit_counts["restored"] += len(plan.restored)
        self.edit_counts["refused"] += len(failures)
        self.edit_counts["desired"] += len(plan.edits) - len(plan.restored) - len(failures)
        return ReconcileResult(len(plan.edits) - len(failures), tuple(failures))

    def _log_restored(self, plan: EditPlan) -> None:
        for edit in plan.restored[:MAX_LOG_LINES]:
            self._log.warning(f"restored: {edit.foreign_change}")
            self.on_restored(edit)
        if len(plan.restored) > MAX_LOG_LINES:
            self._log.warning(f"restored: {len(plan.restored) - MAX_LOG_LINES} more")

    def _log_errors(self) -> None:
        errors = (self.last.error,) if self.last.error else self.last.refused
        for text in errors[:MAX_LOG_LINES]:
            if text not in self._logged:
                self._log.error(text, retry_in_s=POLL_S)
        if self._logged and not errors:
            self._log.info("the table has the desired state again")
        self._logged = errors
