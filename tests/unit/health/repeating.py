"""A probe that repeats itself in the event loop of a test, as the prober process does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context

from pylvs.health.probes import Outcome, Probe


class Repeating:
    """`pylvs.health.probes.RepeatingProbe`: a probe is repeated while its outcome stays good."""

    def __init__(
        self,
        probe: Probe,
        on_repetition: Callable[[], object] = lambda: None,
        context: Context | None = None,
    ) -> None:
        """The task runs in `context`."""
        self._probe = probe
        self._on_repetition = on_repetition
        self._context = context

    async def __call__(self) -> Outcome:
        return await self._probe()

    def repeat(
        self,
        every_s: float,
        on_same: Callable[[int, float, str], None],
        on_end: Callable[[Outcome | None, float], None],
    ) -> Callable[[], object]:
        """See RepeatingProbe."""
        repeated = self._repeat(every_s, on_same, on_end)
        loop = asyncio.get_running_loop()
        return loop.create_task(repeated, name="repeated probe", context=self._context).cancel

    async def _repeat(
        self,
        every_s: float,
        on_same: Callable[[int, float, str], None],
        on_end: Callable[[Outcome | None, float], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(every_s)
            begin = loop.time()
            outcome = await self._outcome()
            self._on_repetition()
            if not outcome.ok or outcome.inconclusive or outcome.weight is not None:
                on_end(outcome, loop.time() - begin)
                return
            on_same(1, loop.time() - begin, outcome.reason)

    async def _outcome(self) -> Outcome:
        """Return what the prober process would send: a failure of the checker is inconclusive."""
        task = asyncio.current_task()
        try:
            return await self._probe()
        except asyncio.CancelledError:
            if task is None or task.cancelling():
                raise
            return Outcome(False, "cancelled", inconclusive=True)
        except Exception as error:
            return Outcome(False, f"the checker failed: {error}", inconclusive=True)
