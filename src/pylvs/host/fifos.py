"""Named pipes that an operator's programs read: whether they read or not, nobody waits for them.

The pipe is open for reading as well, so that a line may be written while nobody reads, and stays for whoever comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections import deque

from pylvs.host.accounts import script_account
from pylvs.host.logs import get_logger
from pylvs.model.errors import PylvsError

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
