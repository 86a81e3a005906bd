"""Track scripts: run again and again, and well or ill after so many ends of one kind in a row.

As in keepalived the first end decides at once, whatever `rise` and `fall` say, and a run that is not over when its
next turn comes costs it that turn. A run that lasts too long has failed at its timeout, not once it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable

from pylvs.model.vrrp import VrrpScript
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Ended, Processes
from pylvs.vrrp.aide.messages import ScriptWell

SLACK_S = 0.25  # which it takes to start a run


class TrackScripts:
    """All of a configuration; `report` is told of the first end and of each change."""

    def __init__(self, processes: Processes, report: Callable[[ScriptWell], None]) -> None:
        self._processes, self._report = processes, report
        self._watches: dict[str, _Watch] = {}

    def configure(self, scripts: Iterable[VrrpScript]) -> None:
        """These from now on; one whose program is the same keeps what is known of it, and its timing."""
        wanted = {script.name: script for script in scripts}
        for name, watch in list(self._watches.items()):
            if name not in wanted or wanted[name].script != watch.script.script:
                watch.end()
                del self._watches[name]
        for name, script in wanted.items():
            known = self._watches.get(name)
            if known is not None:
                known.script = script
            else:
                self._watches[name] = _Watch(script, self._processes, self._report)

    async def finish(self) -> None:
        """The end of all of them."""
        for watch in self._watches.values():
            watch.end()
        await asyncio.gather(*(watch.task for watch in self._watches.values()), return_exceptions=True)
        self._watches.clear()


class Verdict:
    """What the ends of a script come to."""

    def __init__(self) -> None:
        self.well: bool | None = None  # not known before the first
        self._in_a_row = 0  # of the kind that is against `well`

    def take(self, success: bool, rise: int, fall: int) -> bool:
        """One more end; whether `well` has changed."""
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
    def __init__(self, script: VrrpScript, processes: Processes, report: Callable[[ScriptWell], None]) -> None:
        self.script = script
        self._processes, self._report = processes, report
        self._verdict = Verdict()
        self._log = get_logger()
        self.task = asyncio.get_running_loop().create_task(self._keep_running())

    def end(self) -> None:
        self.task.cancel()

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        turn = loop.time()
        while True:
            await self._run()
            interval_s = self.script.interval_s
            late_s = loop.time() - turn
            turn += interval_s * max(1, math.ceil(late_s / interval_s))
            await asyncio.sleep(turn - loop.time())

    async def _run(self) -> None:
        timeout_s = float(self.script.timeout_s or self.script.interval_s)
        run = asyncio.get_running_loop().create_task(self._processes.run(self.script.script, timeout_s))
        try:
            done, _ = await asyncio.wait({run}, timeout=timeout_s + SLACK_S)
            if done:
                self._take(run.result())
            else:
                self._take(Ended(None, timed_out=True, seconds=timeout_s))
                await asyncio.wait({run})  # two of it never run at the same time
        finally:
            if not run.done():
                run.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await run

    def _take(self, ended: Ended) -> None:
        success = ended.status == 0 and not ended.timed_out and not ended.trouble
        if self._verdict.take(success, self.script.rise, self.script.fall):
            tell = self._log.info if success else self._log.warning
            tell(f"track script {self.script.name} is {'well' if success else 'ill'}", end=str(ended))
            self._report(ScriptWell(self.script.name, success, str(ended)))
