"""Named pipes that an operator's programs read; pylvs never waits for a reader.

The writer opens the pipe for reading as well. So it can write lines without a reader, and a later reader gets them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import stat
import termios
from collections import deque
from collections.abc import Collection, Iterable
from concurrent.futures import Executor

from pylvs.model.checks import Script
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import Fifo
from pylvs.model.wanted import GlobalSettings
from pylvs.system.logs import get_logger
from pylvs.system.processes.accounts import script_account
from pylvs.system.processes.scripts import Processes, ScriptRunner
from pylvs.system.threads import DaemonThread

MOST_WAITING = 10_000  # lines that do not fit into the pipe; the oldest are dropped
FINISH_S = 2.0  # at the end, for a slow reader
FIRST_S, LONGEST_S = 1.0, 60.0  # before a reader program is restarted; doubled after each short run
READER_FINISH_S = 3.0  # at the end, to read the lines in the pipe
OWNER_S = 60.0  # to look up the owner of a pipe, before its reader program starts without it
_MODE = 0o600
_TICK_S = 0.01


class FifoWriter:
    """Writes one pipe, created if missing; for use within a running event loop.

    The user database may ask another machine, so `thread` looks up the owner of a pipe that was created. Until the
    answer comes, only this process's user can read the pipe.
    """

    def __init__(self, path: str, thread: Executor, user: str = "", group: str = "", keep: bool = False) -> None:
        """With `keep` the pipe is not removed at the end. Raises PylvsError."""
        self.path = path
        self.settled = asyncio.Event()  # the pipe has its owner, or the lookup failed or took OWNER_S
        self._owning: asyncio.Task[None] | None = None
        try:
            self._descriptor, made = _open(path)
        except OSError as error:
            raise PylvsError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        self._made = made and not keep
        self._waiting: deque[bytes] = deque()
        self._watched = False
        self._lost = 0
        self._log = get_logger()
        if made:
            self._owning = asyncio.get_running_loop().create_task(self._give(thread, user, group))
        else:
            self.settled.set()

    async def _give(self, thread: Executor, user: str, group: str) -> None:
        """Give the pipe to its owner, also after OWNER_S."""
        try:
            lookup = asyncio.get_running_loop().run_in_executor(thread, script_account, user, group)
            try:
                done, _ = await asyncio.wait({lookup}, timeout=OWNER_S)
                if not done:
                    self._log.error(f"notify FIFO {self.path}: its owner is not set: the user database does not answer")
                    self.settled.set()
                owner = await lookup
            finally:
                lookup.cancel()  # when this task is: its result must not reach a closed loop
            os.fchown(self._descriptor, owner.uid, owner.gid)
        except (OSError, PylvsError) as error:
            text = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
            self._log.error(f"notify FIFO {self.path}: its owner is not set: {text}")
        self.settled.set()

    def write(self, line: str) -> None:
        """Write a line, now or once the pipe has space."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._lost += 1
            if self._lost == 1:
                self._log.warning("a notify FIFO has no reader: its oldest lines are lost", path=self.path)
        self._waiting.append(line.encode(errors="surrogateescape") + b"\n")
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                os.write(self._descriptor, self._waiting[0])  # below PIPE_BUF: whole or not at all
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

    async def finish(self, emptied: bool = False) -> None:
        """Give a reader FINISH_S for the lines that wait, then close the pipe.

        The lines in the pipe stay while a reader has it open. With `emptied` the reader has FINISH_S for them, too:
        it may not have opened the pipe yet.
        """
        deadline = asyncio.get_running_loop().time() + FINISH_S
        while (self._waiting or (emptied and self._filled())) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_TICK_S)
        if self._waiting:
            self._log.warning("lines of a notify FIFO are lost: no process read them", count=len(self._waiting))
        self.close()

    def _filled(self) -> bool:
        """Whether the pipe has bytes that no process has read."""
        return fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4)) != bytes(4)

    def close(self) -> None:
        """Close the pipe at once, and remove it if this object created it."""
        self._watch(False)
        if self._owning is not None:
            self._owning.cancel()  # its descriptor number may be another file's soon
        os.close(self._descriptor)
        self.remove()

    def remove(self) -> None:
        """Unlink the pipe if this object created it; readers that have it open still read."""
        if self._made:
            self._made = False
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def _open(path: str) -> tuple[int, bool]:
    """Return the descriptor, and whether the pipe was created. Raises PylvsError and OSError."""
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
            os.fchmod(descriptor, _MODE)  # mkfifo(2) applies the umask
    except (OSError, PylvsError):
        os.close(descriptor)
        raise
    return descriptor, made


class Reader:
    """Runs the program that reads a notify FIFO, and restarts it; its last argument is the pipe's path."""

    def __init__(self, script: Script, path: str, processes: Processes, settled: asyncio.Event) -> None:
        """Start the program once the owner of the pipe is `settled`: before, its user may not open the pipe."""
        self._script = replace(script, arguments=(*script.arguments, path))
        self._settled = settled
        self._processes = processes
        self._last = False
        self._log = get_logger()
        self._task = asyncio.get_running_loop().create_task(self._keep_running())

    def last(self) -> None:
        """Do not restart the program when it ends."""
        self._last = True

    async def finish(self) -> None:
        """Give the program READER_FINISH_S to read to the end of the closed pipe, then end it."""
        self._last = True
        if self._settled.is_set():  # else it has not started
            await asyncio.wait({self._task}, timeout=READER_FINISH_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_running(self) -> None:
        await self._settled.wait()
        delay_s = FIRST_S
        while True:
            ended = await self._processes.run(self._script, math.inf)
            if self._last:
                return
            self._log.warning("the reader of a notify FIFO has ended", script=str(self._script), end=str(ended))
            for line in ended.lines():
                self._log.info(f"output of the reader of a notify FIFO: {line}")
            delay_s = FIRST_S if ended.seconds > LONGEST_S else delay_s
            await asyncio.sleep(delay_s)
            delay_s = min(LONGEST_S, 2 * delay_s)


class FifoSet:
    """Writes every line to all pipes of a configuration; for use within a running event loop."""

    def __init__(self, runner: ScriptRunner | None = None) -> None:
        self._readers = Processes(runner=runner)  # for reader programs, which have no timeout
        self._owners = DaemonThread("pylvs-fifo-owners")
        self._open: dict[Fifo, tuple[FifoWriter, Reader | None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._log = get_logger()

    def configure(self, fifos: Iterable[Fifo], settings: GlobalSettings, foreign: Collection[str] = ()) -> None:
        """Replace the pipes; unchanged ones stay open. At `foreign` paths, another process runs the reader."""
        self._readers.configure(settings.script_user, settings.script_group, settings.script_security, settings.umask)
        wanted = dict.fromkeys(fifos)
        for fifo in [each for each in self._open if each not in wanted]:
            self._open[fifo][0].remove()  # a new pipe may get the same path
            task = asyncio.get_running_loop().create_task(self._finish(*self._open.pop(fifo)))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for fifo in wanted:
            if fifo not in self._open:
                self._start(fifo, settings, fifo.path in foreign)

    def _start(self, fifo: Fifo, settings: GlobalSettings, foreign: bool) -> None:
        user, group = (fifo.user, fifo.group) if fifo.user else (settings.script_user, settings.script_group)
        try:
            writer = FifoWriter(fifo.path, self._owners, user, group, keep=foreign)
        except PylvsError as error:
            self._log.error(f"notify FIFO {error}")
            return
        reader = None
        if fifo.reader is not None and not foreign:
            reader = Reader(fifo.reader, fifo.path, self._readers, writer.settled)
        self._open[fifo] = writer, reader

    def write(self, line: str) -> None:
        """Write a line to all pipes, without waiting."""
        for writer, _ in self._open.values():
            writer.write(line)

    async def finish(self) -> None:
        """Give readers a little time for the rest, then close all pipes."""
        last, self._open = self._open, {}
        await asyncio.gather(*self._ending, *(self._finish(*each) for each in last.values()))
        await self.close()

    async def _finish(self, writer: FifoWriter, reader: Reader | None) -> None:
        if reader is not None:
            reader.last()
        await writer.finish(emptied=reader is not None)
        if reader is not None:
            await reader.finish()

    async def close(self) -> None:
        """Close all pipes and end their readers at once."""
        for writer, _ in self._open.values():
            writer.close()
        self._open.clear()
        for task in self._ending:
            task.cancel()
        self._owners.shutdown()
        await self._readers.close()
