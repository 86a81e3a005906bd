"""Keeps the table as it is wanted: at every change of the wish, and every few seconds whoever changed the table."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence

from pylvs.daemon.table.editor import Editor
from pylvs.daemon.table.edits import AddService, Edit
from pylvs.daemon.table.known import Outdated, Plan, Table, Wish
from pylvs.daemon.table.reconcile import Failure
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, PylvsError
from pylvs.system.logs import get_logger

LOOK_EVERY_S = 2.0  # at the table, for what others did to it
BREATH_S = 0.02  # between two rounds, in which more changes come together
SLICE_S = 0.05  # of edits under one lock, while which ipvsadm waits
MOST_SLICE_S = 2.0  # where what comes with a lock takes long, so that most of the time goes into edits
ATTEMPTS = 20  # of a plan that others make void again and again
MOST_LINES = 20  # of a log, for the restorations of one moment


@dataclass(frozen=True, slots=True)
class Settled:
    """What one round came to."""

    edits: int = 0
    restored: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()  # edits that the data plane did not take
    trouble: str = ""  # why the table could not be read or edited at all
    waits: bool = False  # for others who edit it: what was there before is still forwarded

    @property
    def complete(self) -> bool:
        """Whether the table is now as it was wanted when the round began."""
        return not self.trouble and not self.refused


class Keeper:
    """The rounds of plan and edits."""

    def __init__(self, table: Table, editor: Editor, wish: Callable[[], Wish]) -> None:
        self.table = table
        self.editor = editor
        self.counts: Counter[str] = Counter()  # of edits, by why: wanted, restored, refused
        self.last = Settled()
        self._wish = wish
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()
        self._told: tuple[str, ...] = ()  # of what goes wrong, so that it is said once
        self._log = get_logger()

    def wake(self) -> None:
        """The wish may have changed."""
        self._woken.set()

    async def run(self) -> None:
        """Rounds without an end."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), LOOK_EVERY_S)
            await self.settle()
            await asyncio.sleep(BREATH_S)

    async def settle(self) -> Settled:
        """One round, now. Raises nothing: what goes wrong is told, logged once, and tried again in the next one."""
        async with self._lock:
            self._woken.clear()
            try:
                self.last = await self._round()
            except (PylvsError, OSError) as error:
                self.last = Settled(trouble=str(error), waits=isinstance(error, Busy | Outdated))
            self._tell_troubles()
            return self.last

    async def _round(self) -> Settled:
        for _ in range(ATTEMPTS):
            wish = self._wish()
            plan = await self.editor.do(self.table.plan, wish)
            if plan.lost:
                count = sum(isinstance(edit, AddService) for edit in plan.edits)
                self._log.warning("the tables were taken away (pylvs down?); making them again", services=count)
            else:
                self._tell_restored(plan)
            with contextlib.suppress(Outdated):
                return await self._carry_out(plan, wish)
        raise Outdated("the tables are being edited by others all the time")

    async def _carry_out(self, plan: Plan, wish: Wish) -> Settled:
        if plan.timeouts:
            await self.editor.do(self.table.set_timeouts, plan.timeouts)
        failures: list[Failure] = []
        rest: Sequence[Edit] = plan.edits
        budget_s = SLICE_S
        while rest:
            begin = time.monotonic()
            count, refused = await self.editor.do(self.table.apply, rest, budget_s)
            failures += refused
            rest = rest[count:]
            if rest:
                overhead_s = time.monotonic() - begin - budget_s
                budget_s = min(max(SLICE_S, 2 * overhead_s), MOST_SLICE_S)
                await asyncio.sleep(BREATH_S / 10)
        if plan.news:
            await self.editor.do(self.table.came_true, wish)
        if plan.lost:
            self._log.info("the tables are there again", edits=len(plan.edits) - len(failures))
        self.counts["restored"] += len(plan.restored)
        self.counts["refused"] += len(failures)
        self.counts["wanted"] += len(plan.edits) - len(plan.restored) - len(failures)
        restored = tuple(str(edit) for edit in plan.edits if edit in plan.restored)
        return Settled(len(plan.edits) - len(failures), restored, tuple(map(str, failures)))

    def _tell_restored(self, plan: Plan) -> None:
        restored = [edit for edit in plan.edits if edit in plan.restored]
        for edit in restored[:MOST_LINES]:
            self._log.warning(f"restored: {edit.undoes}")
        if len(restored) > MOST_LINES:
            self._log.warning(f"restored: {len(restored) - MOST_LINES} more")

    def _tell_troubles(self) -> None:
        troubles = (self.last.trouble,) if self.last.trouble else self.last.refused
        for text in troubles[:MOST_LINES]:
            if text not in self._told:
                self._log.error(text, retry_in_s=LOOK_EVERY_S)
        if self._told and not troubles:
            self._log.info("the table is as it should be again")
        self._told = troubles
