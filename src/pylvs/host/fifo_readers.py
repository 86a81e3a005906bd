"""Programs that read a notify FIFO: started with it, and again when they end before it does."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

from pylvs.host.logs import get_logger
from pylvs.host.processes import Processes
from pylvs.model.scripts import Script

FIRST_S, LONGEST_S = 1.0, 60.0  # before it is started again; the longer, the oftener it ended
FINISH_S = 3.0  # at the end, to read what is in the pipe


class Reader:
    """One of them; it gets the pipe's path as its last argument."""

    def __init__(self, script: Script, path: str, processes: Processes) -> None:
        self._script = replace(script, arguments=(*script.arguments, path))
        self._processes = processes
        self._last = False
        self._log = get_logger()
        self._task = asyncio.get_running_loop().create_task(self._keep_running())

    def last(self) -> None:
        """It is not started again."""
        self._last = True

    async def finish(self) -> None:
        """Nobody writes any more: let it read to the end, for a while."""
        self._last = True
        await asyncio.wait({self._task}, timeout=FINISH_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_running(self) -> None:
        delay_s = FIRST_S
        while True:
            ended = await self._processes.run(self._script, math.inf)
            if self._last:
                return
            self._log.warning("the reader of a notify FIFO has ended", script=str(self._script), end=str(ended))
            for line in ended.lines():
                self._log.info(f"the reader of a notify FIFO said: {line}")
            delay_s = FIRST_S if ended.seconds > LONGEST_S else delay_s
            await asyncio.sleep(delay_s)
            delay_s = min(LONGEST_S, 2 * delay_s)
