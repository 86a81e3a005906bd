"""The named pipes of a configuration, each with the program that reads it, if it has one."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from pylvs.host.fifo_readers import Reader
from pylvs.host.fifos import FifoWriter
from pylvs.host.logs import get_logger
from pylvs.host.processes import Processes
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import Fifo
from pylvs.model.wanted import GlobalSettings


class FifoSet:
    """Writes every line to all of them; from within a running event loop."""

    def __init__(self) -> None:
        self._readers = Processes()  # for programs that run for ever
        self._open: dict[Fifo, tuple[FifoWriter, Reader | None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._log = get_logger()

    def configure(self, fifos: Iterable[Fifo], settings: GlobalSettings, foreign: Collection[str] = ()) -> None:
        """These from now on; those that stay are not touched. At `foreign` paths, another process runs the reader."""
        self._readers.configure(settings.script_user, settings.script_group, settings.script_security)
        wanted = dict.fromkeys(fifos)
        for fifo in [each for each in self._open if each not in wanted]:
            self._open[fifo][0].remove()  # another may come to its place
            task = asyncio.get_running_loop().create_task(self._finish(*self._open.pop(fifo)))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for fifo in wanted:
            if fifo not in self._open:
                self._start(fifo, settings, fifo.path in foreign)

    def _start(self, fifo: Fifo, settings: GlobalSettings, foreign: bool) -> None:
        user, group = (fifo.user, fifo.group) if fifo.user else (settings.script_user, settings.script_group)
        try:
            writer = FifoWriter(fifo.path, user, group, keep=foreign)
        except PylvsError as error:
            self._log.error(f"notify FIFO {error}")
            return
        reads = fifo.reader is not None and not foreign
        reader = Reader(fifo.reader, fifo.path, self._readers) if fifo.reader is not None and reads else None
        self._open[fifo] = writer, reader

    def write(self, line: str) -> None:
        """A line, to all of them; nobody waits."""
        for writer, _ in self._open.values():
            writer.write(line)

    async def finish(self) -> None:
        """Give readers a little time for what is not read yet."""
        last, self._open = self._open, {}
        await asyncio.gather(*self._ending, *(self._finish(*each) for each in last.values()))
        await self.close()

    async def _finish(self, writer: FifoWriter, reader: Reader | None) -> None:
        if reader is not None:
            reader.last()
        await writer.finish()
        if reader is not None:
            await reader.finish()

    async def close(self) -> None:
        """At once."""
        for writer, _ in self._open.values():
            writer.close()
        self._open.clear()
        for task in self._ending:
            task.cancel()
        await self._readers.close()
