"""track_script: run periodically; well or ill after `rise` successes or `fall` failures in a row.

As in keepalived the first result counts regardless of `rise` and `fall`, and a run that lasts longer than the interval
skips the next one. A run that times out has failed at its timeout, not when its process has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable

from pylvs.model.vrrp import Track, VrrpScript
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Ended, Processes
from pylvs.vrrp.tracking import TrackedObject

SLACK_S = 0.25  # to start a run


class TrackScripts:
    """All track_scripts of a configuration; `report` receives the first result and each change."""

    def __init__(self, processes: Processes, report: Callable[[TrackedObject], None]) -> None:
        self._processes, self._report = processes, report
        self._watches: dict[str, _Watch] = {}

    def configure(self, scripts: Iterable[VrrpScript]) -> None:
        """Replace the scripts; one whose command is the same keeps its result and its timing."""
        wanted = {script.name: script for script in scripts}
        for name, watch in list(self._watches.items()):
            if name not in wanted or wanted[name].script != watch.script.script:
                watch.task.cancel()
                del self._watches[name]
        for name, script in wanted.items():
            if name not in self._watches:
                self._watches[name] = _Watch(script, self._processes, self._report)
            self._watches[name].script = script

    async def finish(self) -> None:
        """Stop all runs."""
        for watch in self._watches.values():
            watch.task.cancel()
        await asyncio.gather(*(watch.task for watch in self._watches.values()), return_exceptions=True)
        self._watches.clear()


class Hysteresis:
    """Turn results into a state by rise and fall."""

    def __init__(self) -> None:
        self.well: bool | None = None  # before the first result
        self._in_a_row = 0  # results that differ from `well`

    def add(self, success: bool, rise: int, fall: int) -> bool:
        """Add a result; return whether `well` changed."""
        if self.well is None:
            self.well = success
            return True
        if success == self.well:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row < (rise if success else fall):
            return False
        self.well, self._in_a_row = success, 0
        return True


class _Watch:
    def __init__(self, script: VrrpScript, processes: Processes, report: Callable[[TrackedObject], None]) -> None:
        self.script = script
        self._processes, self._report = processes, report
        self._hysteresis = Hysteresis()
        self._log = get_logger()
        self.task = asyncio.get_running_loop().create_task(self._run_periodically())

    async def _run_periodically(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            await self._run()
            interval_s = self.script.interval_s
            late_s = loop.time() - start
            start += interval_s * max(1, math.ceil(late_s / interval_s))
            await asyncio.sleep(start - loop.time())

    async def _run(self) -> None:
        timeout_s = float(self.script.timeout_s or self.script.interval_s)
        run = asyncio.get_running_loop().create_task(self._processes.run(self.script.script, timeout_s))
        try:
            done, _ = await asyncio.wait({run}, timeout=timeout_s + SLACK_S)
            if done:
                self._add(run.result())
            else:
                self._add(Ended(None, timed_out=True, seconds=timeout_s))
                await asyncio.wait({run})  # two runs never overlap
        finally:
            if not run.done():
                run.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await run

    def _add(self, ended: Ended) -> None:
        success = ended.status == 0 and not ended.timed_out and not ended.trouble
        if self._hysteresis.add(success, self.script.rise, self.script.fall):
            write = self._log.info if success else self._log.warning
            write(f"track script {self.script.name} is {'well' if success else 'ill'}", end=str(ended))
            self._report(TrackedObject("script", Track(self.script.name), success, detail=str(ended)))
