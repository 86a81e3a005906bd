"""The track_scripts, which the helper process runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from pylvs.model.vrrp import Track, VrrpScript
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Ended, Processes
from pylvs.vrrp.helper.source import PROGRESS_S, Source
from pylvs.vrrp.tracking import Key, TrackedObject

RETRY_S = 1.0  # after a run that this machine could not make; at most the interval


class TrackScripts:
    """All track_scripts of a configuration; `report` receives the first result and each change.

    A script runs periodically and is up or down after `rise` successes or `fall` failures in a row. As in keepalived
    the first result counts regardless of `rise` and `fall`, and a run that lasts longer than the interval skips the
    next one. A run that times out has failed at its timeout, not when its process has ended. A run that this machine
    could not make is no failure of the script, and neither is one without a report of its end. The result stays, but is
    late.
    """

    def __init__(self, processes: Processes, report: Callable[[TrackedObject], None]) -> None:
        self._processes, self._report = processes, report
        self._watches: dict[str, ScriptWatch] = {}

    def configure(self, scripts: Iterable[VrrpScript]) -> None:
        """Replace the scripts; one whose command is the same keeps its result and its timing."""
        wanted = {script.name: script for script in scripts}
        for name, watch in list(self._watches.items()):
            if name not in wanted or wanted[name].script != watch.script.script:
                watch.source.cancel()
                del self._watches[name]
        for name, script in wanted.items():
            if name not in self._watches:
                self._watches[name] = ScriptWatch(script, self._processes, self._report)
            self._watches[name].script = script

    def late(self) -> Iterator[Key]:
        """Yield the scripts without a current result."""
        return (("script", name) for name, watch in self._watches.items() if watch.late)

    async def finish(self) -> None:
        """Stop all runs."""
        await asyncio.gather(*(watch.source.finish() for watch in self._watches.values()))
        self._watches.clear()


class Hysteresis:
    """Turn results into a state by rise and fall.

    The first result counts at once; with `down_at_start` only if it is a failure.
    """

    def __init__(self, down_at_start: bool = False) -> None:
        self.up: bool | None = None  # before the first result
        self._down_at_start = down_at_start
        self._in_a_row = 0  # results that differ from `up`

    def add(self, success: bool, rise: int, fall: int) -> bool:
        """Add a result; return whether `up` changed."""
        if self.up is None and not (success and self._down_at_start):
            self.up, self._in_a_row = success, 0
            return True
        if success == self.up:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row < (rise if success else fall):
            return False
        self.up, self._in_a_row = success, 0
        return True


class ScriptWatch:
    def __init__(self, script: VrrpScript, processes: Processes, report: Callable[[TrackedObject], None]) -> None:
        self.script = script
        self._processes, self._report = processes, report
        self._hysteresis = Hysteresis(script.down_at_start)
        self._reported: TrackedObject | None = None
        self._unable = False  # this machine could not make the last run
        self._log = get_logger()
        self.source = Source(f"track script {script.name}", self._run_periodically, self._timeout_s + PROGRESS_S)

    @property
    def late(self) -> bool:
        """Whether its result is not current."""
        return self._unable or self.source.late

    @property
    def _timeout_s(self) -> float:
        return float(self.script.timeout_s or self.script.interval_s)

    async def _run_periodically(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            await self._run()
            interval_s = min(self.script.interval_s, RETRY_S) if self._unable else self.script.interval_s
            late_s = loop.time() - start
            start += interval_s * max(1, math.ceil(late_s / interval_s))
            await asyncio.sleep(start - loop.time())

    async def _run(self) -> None:
        failed = partial(self._add, Ended(None, timed_out=True, seconds=self._timeout_s))
        ended = await self._processes.run(self.script.script, self._timeout_s, on_timeout=failed)
        if not ended.timed_out:
            self._add(ended)

    def _add(self, ended: Ended) -> None:
        name = self.script.name
        if ended.unable:
            if not self._unable:
                self._log.warning(f"track script {name} could not be run: its result stays", end=str(ended))
            self._unable = True
            return
        was_late, self._unable = self.late, False
        self.source.advance(self.script.interval_s + self._timeout_s + PROGRESS_S)
        success = ended.status == 0 and not ended.timed_out and not ended.problem
        if self._hysteresis.add(success, self.script.rise, self.script.fall):
            write = self._log.info if success else self._log.warning
            write(f"track script {name} is {'up' if success else 'down'}", end=str(ended))
            for line in ended.lines():
                self._log.info(f"output of track script {name}: {line}")
            self._reported = TrackedObject("script", Track(name), success, detail=str(ended))
            self._report(self._reported)
        elif was_late and self._reported is not None:
            self._report(self._reported)
