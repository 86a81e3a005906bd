"""The daemon's end of a confined process: start it, restart it when it ends or is silent, exchange messages.

Such a process parses what other hosts send, without privileges (`pylvs.system.sandbox`). It sends `greeting` first, and
then something at least every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from pylvs.model.dataclass import dataclass
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes import COMPILED_MODULES, command
from pylvs.system.processes.channel import (
    MAX_PACKET,
    MAX_REASON,
    BadMessage,
    Message,
    decode,
    encode,
    greeting_problem,
    privileges_left,
)
from pylvs.system.threads import to_thread

ALIVE_S = 1.0  # a process sends a message at least so often
LEASE_TICKS = 5  # seconds of silence after which a process is killed
START_TICKS = 60  # until its greeting
RESTART_S, MAX_RESTART_S = 0.5, 10.0  # delay after an unexpected end, doubled each time
STEADY_S = 60.0  # a process that ran for so long restarts after RESTART_S again
OFTEN, OFTEN_S = 3, 300.0  # so many unexpected ends within this time are a problem, although it runs again
_MAX_UNSENT = 4096  # packets
_PACKETS_AT_ONCE = 8  # received in one run of the event loop
# Variables that a process gets.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", *COMPILED_MODULES, "LANG", "LC_ALL", "OPENSSL_CONF")


def environment(*more: str) -> dict[str, str]:
    """Return what a confined process gets of this one's environment, with `more` variables."""
    return {name: os.environ[name] for name in (*_ENVIRONMENT, *more) if name in os.environ}


class Descriptor(Protocol):
    """A socket or a file."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Packet:
    data: bytes
    descriptors: list[Descriptor]


class ConfinedProcess:
    """One process. All methods are called in the event loop.

    `what` names it in the log and in `problem`, which is why it does not run now ("" while it does, or before `start`).
    `on_message` gets each message after the greeting; it raises BadMessage, which ends the process. `most_waiting` is
    for a process that requests descriptors: it must not hold more of them here by not reading. `restarts` counts
    unexpected ends, `launches` each process that was started here.
    """

    def __init__(
        self,
        what: str,
        module: str,
        protocol: int,
        on_message: Callable[[dict[str, Any]], None],
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
        most_waiting: float = math.inf,
    ) -> None:
        self.problem = ""
        self.restarts = 0
        self.launches = 0
        self.pid = 0
        self._what, self._module, self._protocol = what, module, protocol
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._most_waiting = most_waiting
        self._arguments: tuple[str, ...] = ()
        self._descriptors: tuple[int, ...] = ()
        self._child: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._unsent: deque[_Packet] = deque()
        self._waiting_descriptors = 0  # in these packets
        self._up = False
        self._silent_ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._started_at = 0.0
        self._restart_s = 0.0
        self._losses: deque[float] = deque(maxlen=OFTEN)  # the times of the last unexpected ends
        self._last_problem = ""
        self._waiters: list[asyncio.Future[None]] = []
        self._reaping: set[asyncio.Task[None]] = set()
        self._log = get_logger()

    @property
    def up(self) -> bool:
        """Whether it has sent its greeting and is not silent."""
        return self._up

    @property
    def unsteady(self) -> str:
        """What happened last, if it was restarted OFTEN times within OFTEN_S; else ""."""
        if len(self._losses) < OFTEN or asyncio.get_running_loop().time() - self._losses[0] > OFTEN_S:
            return ""
        return f"{self._last_problem}; restarted more than {OFTEN - 1} times within {OFTEN_S / 60:g} min"

    @property
    def sending(self) -> bool:
        """Whether messages wait until it reads."""
        return bool(self._unsent)

    @property
    def started(self) -> bool:
        """Whether it runs, or will be restarted."""
        return self._timer is not None

    def start(self, *arguments: str, descriptors: Iterable[int] = ()) -> None:
        """Start it with these arguments, and with these descriptors under the same numbers; also at restarts."""
        self._arguments, self._descriptors = arguments, tuple(descriptors)
        self._launch()

    def replace(self, *arguments: str, descriptors: Iterable[int] = ()) -> None:
        """Start it again with other arguments, if it was started."""
        self._arguments, self._descriptors = arguments, tuple(descriptors)
        if self._timer is None:
            return
        self._timer.cancel()
        self._disconnect()
        self.problem = f"{self._what} starts with other settings"
        self._on_down()
        self._launch()

    async def wait_up(self, seconds: float) -> bool:
        """Wait until it is up; return False if it is not within this time."""
        if self._up:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.append(future)
        timer = loop.call_later(seconds, _settle, future)
        try:
            await future
        finally:
            timer.cancel()
            if future in self._waiters:
                self._waiters.remove(future)
        return self._up

    def send(self, message: Message, descriptors: Sequence[Descriptor] = ()) -> None:
        """Send a message, with descriptors that are closed here then. Without the process both are dropped."""
        packet = _Packet(encode(message), list(descriptors))
        if not self._up or self._end is None:
            _close(packet)
            return
        self._unsent.append(packet)
        self._waiting_descriptors += len(packet.descriptors)
        if len(self._unsent) == 1:
            self._flush()
        elif len(self._unsent) > _MAX_UNSENT or self._waiting_descriptors > self._most_waiting:
            self._lost("does not read")

    async def close(self) -> None:
        """End it, and wait for that."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._disconnect()
        self._wake()
        if self._reaping:
            await asyncio.wait(self._reaping)

    def _launch(self) -> None:
        loop = asyncio.get_running_loop()
        self._started_at, self._silent_ticks = loop.time(), 0
        ours = None
        try:
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its:
                self._child = subprocess.Popen(
                    command(self._module, str(its.fileno()), *self._arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[its.fileno(), *self._descriptors],
                    env=environment(),
                    start_new_session=True,
                )
        except OSError as error:
            if ours is not None:
                ours.close()
            self._lost(f"cannot be started: {error.strerror}")
            return
        self.pid = self._child.pid
        self.launches += 1
        ours.setblocking(False)
        self._end = ours
        loop.add_reader(ours, self._receive)
        self._timer = loop.call_later(ALIVE_S, self._tick)

    def _tick(self) -> None:
        """Count the seconds without a message. A late tick counts once: then messages may be unread here."""
        self._silent_ticks += 1
        if self._silent_ticks >= (LEASE_TICKS if self._up else START_TICKS):
            self._lost(f"has been silent for {self._silent_ticks} s")
        else:
            self._timer = asyncio.get_running_loop().call_later(ALIVE_S, self._tick)

    def _receive(self) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            if self._end is None:
                return
            try:
                data = self._end.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost("has ended")
                return
            self._silent_ticks = 0
            try:
                message = decode(data)
                if self._up:
                    self._on_message(message)
                else:
                    self._greeted(message)
            except BadMessage as error:
                self._lost(f"sent an invalid message ({error})")
                return

    def _greeted(self, message: dict[str, Any]) -> None:
        if problem := greeting_problem(message, self._protocol):
            self._lost(problem)
            return
        for each in privileges_left(message):
            self._log.warning(f"{self._what} keeps a privilege", privilege=each)
        self._up = True
        if self.problem:
            self._log.info(f"{self._what} runs again", process=self.pid)
        self.problem = ""
        self._on_up()
        self._wake()

    def _flush(self) -> None:
        """Send what waits, as far as possible."""
        end = self._end
        if end is None:
            return
        loop = asyncio.get_running_loop()
        while self._unsent:
            packet = self._unsent[0]
            try:
                if packet.descriptors:
                    socket.send_fds(end, [packet.data], [each.fileno() for each in packet.descriptors])
                else:
                    end.send(packet.data)
            except BlockingIOError:
                loop.add_writer(end, self._flush)
                return
            except OSError as error:
                self._lost(f"cannot be reached: {error.strerror}")
                return
            self._waiting_descriptors -= len(packet.descriptors)
            _close(self._unsent.popleft())
        loop.remove_writer(end)

    def _lost(self, reason: str) -> None:
        """Kill the process, and start it again after a pause."""
        loop = asyncio.get_running_loop()
        output = self._disconnect()
        self.problem = self._last_problem = f"{self._what} {reason}"
        self._losses.append(loop.time())
        more = {"output": output} if output else {}
        steady = loop.time() - self._started_at >= STEADY_S
        self._restart_s = RESTART_S if steady or not self._restart_s else min(2 * self._restart_s, MAX_RESTART_S)
        self._log.error(self.problem, restart_in_s=self._restart_s, **more)
        self.restarts += 1
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(self._restart_s, self._launch)
        self._on_down()

    def _disconnect(self) -> str:
        """Kill the process; return the end of what it wrote to stderr."""
        self._up = False
        end, self._end = self._end, None
        child, self._child = self._child, None
        for packet in self._unsent:
            _close(packet)
        self._unsent.clear()
        self._waiting_descriptors = 0
        if end is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(end)
            loop.remove_writer(end)
            end.close()
        if child is None:
            return ""
        output = _output(child)
        child.kill()
        task = asyncio.get_running_loop().create_task(_reap(child))
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)
        return output

    def _wake(self) -> None:
        for future in self._waiters:
            _settle(future)
        self._waiters.clear()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _close(packet: _Packet) -> None:
    for each in packet.descriptors:
        each.close()


def _output(child: subprocess.Popen[bytes]) -> str:
    """Return the end of what a process wrote to stderr so far, as one line."""
    if child.stderr is None:
        return ""
    os.set_blocking(child.stderr.fileno(), False)
    with contextlib.suppress(OSError):
        return one_line((child.stderr.read(1 << 16) or b"").decode(errors="replace"))[-MAX_REASON:]
    return ""


async def _reap(child: subprocess.Popen[bytes]) -> None:
    await to_thread(child.wait)
    if child.stderr is not None:
        child.stderr.close()
