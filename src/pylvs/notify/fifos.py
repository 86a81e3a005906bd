"""Named pipes that an operator's programs read: whether they read or not, nobody waits for them.

The pipe is open for reading as well, so that a line may be written while nobody reads, and stays for whoever comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import stat
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import replace

from pylvs.model.checks import Script
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import Fifo
from pylvs.model.wanted import GlobalSettings
from pylvs.system.logs import get_logger
from pylvs.system.processes.accounts import script_account
from pylvs.system.processes.scripts import Processes

MOST_WAITING = 10_000  # lines that do not fit into the pipe; what is older gives way
FINISH_S = 2.0  # at the end, for a reader that is slow
_MODE = 0o600
_TICK_S = 0.01


class FifoWriter:
    """One pipe, made if it is not there; from within a running event loop."""

    def __init__(self, path: str, user: str = "", group: str = "", keep: bool = False) -> None:
        """With `keep` it is not removed at the end. Raises PylvsError."""
        self.path = path
        try:
            self._descriptor, self._made = _open(path, user, group)
        except OSError as error:
            raise PylvsError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        self._made = self._made and not keep
        self._waiting: deque[bytes] = deque()
        self._watched = False
        self._lost = 0
        self._log = get_logger()

    def write(self, line: str) -> None:
        """A line, now or once there is room."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._lost += 1
            if self._lost == 1:
                self._log.warning("nobody reads a notify FIFO: its oldest lines are lost", path=self.path)
        self._waiting.append(line.encode(errors="surrogateescape") + b"\n")
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                os.write(self._descriptor, self._waiting[0])  # whole or not at all, being shorter than PIPE_BUF
            except BlockingIOError:
                break
            self._waiting.popleft()
        self._watch(bool(self._waiting))
        if self._lost and not self._waiting:
            self._log.warning("a notify FIFO is read again", path=self.path, lost_lines=self._lost)
            self._lost = 0

    def _watch(self, wanted: bool) -> None:
        if wanted != self._watched:
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_writer(self._descriptor, self._flush)
            else:
                loop.remove_writer(self._descriptor)
            self._watched = wanted

    async def finish(self) -> None:
        """Give a reader a little time for what is left, then close: it then finds the end.

        What is in the pipe stays there for as long as somebody has it open.
        """
        deadline = asyncio.get_running_loop().time() + FINISH_S
        while self._waiting and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_TICK_S)
        if self._waiting:
            self._log.warning("lines of a notify FIFO are lost: nobody read them", count=len(self._waiting))
        self.close()

    def close(self) -> None:
        """At once; removes the pipe that this made."""
        self._watch(False)
        os.close(self._descriptor)
        self.remove()

    def remove(self) -> None:
        """Let nobody find it any more; who has it open may still read. Only if this made it."""
        if self._made:
            self._made = False
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def _open(path: str, user: str, group: str) -> tuple[int, bool]:
    """The pipe, and whether it was not there before. Raises PylvsError and OSError."""
    owner = script_account(user, group)
    made = True
    try:
        os.mkfifo(path, _MODE)
    except FileExistsError:
        made = False
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise PylvsError(f"{path}: not a named pipe; remove it, or name another")
        if made:
            os.fchmod(descriptor, _MODE)  # whatever the umask
            os.fchown(descriptor, owner.uid, owner.gid)
    except (OSError, PylvsError):
        os.close(descriptor)
        raise
    return descriptor, made


# --- fifo readers ----------------------------------------------------------------------------------------------------
# Programs that read a notify FIFO: started with it, and again when they end before it does.


FIRST_S, LONGEST_S = 1.0, 60.0  # before it is started again; the longer, the oftener it ended
READER_FINISH_S = 3.0  # at the end, to read what is in the pipe


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
        await asyncio.wait({self._task}, timeout=READER_FINISH_S)
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


# --- fifo set --------------------------------------------------------------------------------------------------------
# The named pipes of a configuration, each with the program that reads it, if it has one.


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
