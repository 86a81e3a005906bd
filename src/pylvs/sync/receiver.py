"""The process that receives and parses messages, without privileges: `python -m pylvs.sync.receiver FD SYNCID ...`.

It sends the connections to its parent, which stores them, and once a second what it has counted. It reads MOST_USELESS
messages without a connection in a slice of time, and the kernel drops the rest. So a flood costs a bounded share of
a CPU.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from pylvs.sync import records, request, sockets, wire
from pylvs.system import sandbox, syscalls
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.processes.child import Parent

NAME = b"pylvs-sync-recv"
DROPPED = "dropped by the kernel"
SLICE_S = 0.1
MOST_USELESS = 500  # messages without a connection that are read in a slice
CALM_SLICES = 10  # without a flood, until the kernel's filter is removed
AT_ONCE = 32  # messages that are read from a socket before the next one has its turn
COUNTS_S = 1.0
_DESCRIPTORS, _MEMORY, _NICE = 128, 256 << 20, 5


class Flood:
    """Counts useless messages in slices of time. Pure; times are in seconds."""

    def __init__(self) -> None:
        self.over = False  # this slice had as many as are read
        self.filtered = False  # the kernel drops what it can recognize
        self._useless = 0
        self._calm = 0

    def count(self) -> bool:
        """Count one; return whether the rest of the slice is not read."""
        self._useless += 1
        if self._useless >= MOST_USELESS:
            self.over = self.filtered = True
        return self.over

    def next_slice(self, dropped: int) -> None:
        """Begin a slice; the kernel has dropped so many messages in the last one."""
        self._calm = 0 if self.over or dropped >= MOST_USELESS else self._calm + 1
        if self._calm >= CALM_SLICES:
            self.filtered = False
        self.over, self._useless = False, 0


class Receiver:
    """Reads the sockets of one daemon. `longest` is the length of its longest message."""

    def __init__(
        self,
        received: Sequence[socket.socket],
        syncid: int,
        longest: int,
        send: Callable[[dict[str, object]], None],
        waits: Callable[[], bool],
        backup: bytes,
    ) -> None:
        self._sockets = received
        self._syncid, self._longest = syncid, longest
        self._send, self._waits = send, waits
        self._backup = backup  # the first bytes of the tokens of this backup's requests
        self._counts: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._dropped = self._dropped_before = sum(map(sockets.dropped, received))
        self._flood = Flood()
        self._filtered = False
        self._reading = False

    async def run(self) -> None:
        """Receive until the task is cancelled."""
        slices = 0
        while True:
            self._read_on()
            await asyncio.sleep(SLICE_S)
            slices += 1
            self._end_slice()
            if slices * SLICE_S >= COUNTS_S:
                slices = 0
                self._report()

    def _end_slice(self) -> None:
        now = sum(map(sockets.dropped, self._sockets))
        self._counts[DROPPED] += now - self._dropped
        self._flood.next_slice(now - self._dropped)
        self._dropped = now
        if self._flood.filtered != self._filtered:
            self._filtered = self._flood.filtered
            for receiving in self._sockets:
                if self._filtered:
                    sockets.refuse_useless(receiving, self._syncid)
                else:
                    sockets.take_all(receiving)

    def _report(self) -> None:
        if self._counts != self._sent and not self._waits():
            self._send({"counts": dict(self._counts)})
            self._sent = self._counts.copy()

    def _read_on(self) -> None:
        """Read from now on, unless the parent is late: then messages wait in the sockets."""
        wanted = not self._flood.over and not self._waits()
        if wanted == self._reading:
            return
        self._reading = wanted
        loop = asyncio.get_running_loop()
        for receiving in self._sockets:
            if wanted:
                loop.add_reader(receiving.fileno(), self._read, receiving)
            else:
                loop.remove_reader(receiving.fileno())

    def _read(self, received: socket.socket) -> None:
        found, notices = [], []
        for _ in range(AT_ONCE):
            try:
                data = received.recv(self._longest)
            except OSError:  # nothing is left, or the device is down
                break
            connections = wire.parse(data, self._syncid, self._counts)
            found += connections
            notice = None if connections else request.decode(data, self._syncid)
            if notice is not None and request.is_for(notice, self._backup):
                notices.append(notice)
            if not connections and self._flood.count():
                break
        for at in range(0, len(found), records.AT_ONCE):
            self._send({"connections": records.encode(found[at : at + records.AT_ONCE])})
        for notice in notices:  # behind the connections that came before
            self._send({"notice": [notice.kind.value, notice.token.hex(), notice.sender.hex()]})
        if self._flood.over or self._waits():
            self._read_on()


async def serve(
    end: socket.socket,
    left: Sequence[str],
    received: Sequence[socket.socket],
    syncid: int,
    longest: int,
    backup: bytes,
) -> None:
    """Serve the parent at the other end until that closes."""
    over = asyncio.Event()
    parent = Parent(AsyncioLoop(), end, lambda *_: None, over.set, left)
    running = Receiver(received, syncid, longest, parent.send, lambda: parent.waits, backup)
    task = asyncio.ensure_future(running.run())
    ended = asyncio.ensure_future(over.wait())
    await asyncio.wait([task, ended], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()


def main(end: socket.socket, syncid: str, longest: str, backup: str, *descriptors: str) -> None:
    """Confine this process, then receive."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # for the parent; this process ends with it
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    received = [socket.socket(fileno=int(each)) for each in descriptors]
    os.nice(_NICE)  # a flood takes time from nothing that matters more
    left = sandbox.confine(_DESCRIPTORS, _MEMORY)
    with asyncio.Runner() as runner:
        runner.run(serve(end, left, received, int(syncid), int(longest), bytes.fromhex(backup)))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:])
    os._exit(0)
