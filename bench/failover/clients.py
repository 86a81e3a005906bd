"""Clients of one address: established connections, and new ones at a steady rate. Standard library alone.

`python clients.py SOURCE ADDRESS PORT ESTABLISHED RATE` prints "ready" once the established connections were answered.
Then it opens RATE connections a second. A line of input ends that: each established connection has to be answered once
more, and a line of JSON follows.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections import deque

LIMIT_S = 0.2  # a connection that takes longer, as after a repeated SYN, was not served when it began
ANSWER_S = 10.0  # for established connections
_OPENING = 250  # connections that are opened at the same time
_OPENED_S = 120.0
_BATCH = 512
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: a closed connection leaves no port in TIME_WAIT
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
_NICE = -10  # other processes must not delay the measurement


class Clients:
    """All connections of this process."""

    def __init__(self, source: str, address: str, port: int) -> None:
        self._source, self._to = source, (address, port)
        self._ready = select.epoll()
        self.established: dict[int, socket.socket] = {}
        self._new: dict[int, tuple[float, socket.socket]] = {}
        self._order: deque[int] = deque()  # of new ones, the oldest first
        self.served: list[float] = []  # when the new connections began that were accepted in time
        self.begun = 0

    def _connecting(self, events: int) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        made.bind((self._source, 0))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        if made.connect_ex(self._to) != errno.EINPROGRESS:
            made.close()
            raise ConnectionError
        self._ready.register(made, events)
        return made

    def establish(self, count: int) -> None:
        """Open connections, and wait until each was answered. Raises TimeoutError."""
        end, waiting = time.monotonic() + _OPENED_S, dict[int, socket.socket]()
        while len(self.established) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"answered connections: {len(self.established)} of {count}")
            while len(waiting) < min(_OPENING, count - len(self.established)):
                made = self._connecting(select.EPOLLOUT)
                waiting[made.fileno()] = made
            for number, events in self._ready.poll(1.0, _BATCH):
                if number not in waiting:  # the director forgot it, because the other took over for a moment
                    if number in self.established:
                        self.established.pop(number).close()
                    continue
                opened = waiting[number]
                if events & (select.EPOLLERR | select.EPOLLHUP):
                    waiting.pop(number).close()
                elif events & select.EPOLLOUT:
                    with contextlib.suppress(OSError):  # the next event shows it
                        opened.send(b"?")
                    self._ready.modify(opened, select.EPOLLIN)
                elif _answered(opened):
                    self._ready.modify(opened, 0)
                    self.established[number] = waiting.pop(number)
                else:
                    waiting.pop(number).close()

    def open_steadily(self, rate: int) -> None:
        """Open connections at this rate until there is input."""
        due, interval = time.monotonic(), 1 / rate
        self._ready.register(0, select.EPOLLIN)
        while True:
            now = time.monotonic()
            if now >= due:
                due = max(due + interval, now - LIMIT_S)  # after a longer pause, not all missed ones at once
                self._begin()
            for number, events in self._ready.poll(max(0.0, due - time.monotonic()), _BATCH):
                if number == 0:
                    self._ready.unregister(0)
                    return
                if number in self._new:
                    self._end(number, accepted=not events & (select.EPOLLERR | select.EPOLLHUP))
                else:  # an established one was reset; it counts when it is asked
                    self._ready.modify(number, 0)
                    self._ready.unregister(number)
            self._give_up(time.time() - LIMIT_S)

    def _begin(self) -> None:
        began = time.time()
        self.begun += 1
        try:
            made = self._connecting(select.EPOLLOUT)
        except OSError:  # unreachable, as a lost link may be
            return
        self._new[made.fileno()] = began, made
        self._order.append(made.fileno())

    def _end(self, number: int, *, accepted: bool) -> None:
        began, made = self._new.pop(number)
        made.close()
        if accepted and time.time() - began <= LIMIT_S:
            self.served.append(began)

    def _give_up(self, before: float) -> None:
        """Close the connections that began earlier and were not accepted."""
        while self._order and ((number := self._order[0]) not in self._new or self._new[number][0] < before):
            self._order.popleft()
            if number in self._new and self._new[number][0] < before:
                self._end(number, accepted=False)

    def ask(self) -> dict[str, int]:
        """Let each established connection be answered once more; return how many were reset, or not answered."""
        left = dict(self.established)
        reset = 0
        for number, client in list(left.items()):
            try:
                client.send(b"!")
                self._watch(client)
            except OSError:
                reset += 1
                left.pop(number).close()
        end = time.monotonic() + ANSWER_S
        while left and (now := time.monotonic()) < end:
            for number, _ in self._ready.poll(end - now, _BATCH):
                if number not in left:
                    continue
                try:
                    reset += not left[number].recv(64)
                except OSError:
                    reset += 1
                left.pop(number).close()
        return {"reset": reset, "silent": len(left)}

    def _watch(self, client: socket.socket) -> None:
        try:
            self._ready.modify(client, select.EPOLLIN)
        except FileNotFoundError:
            self._ready.register(client, select.EPOLLIN)


def _answered(client: socket.socket) -> bool:
    """Return whether an answer has come, and not the end."""
    try:
        return bool(client.recv(64))
    except OSError:
        return False


def main(source: str, address: str, port: int, established: int, rate: int) -> None:
    """Do what the module's docstring says."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    clients = Clients(source, address, port)
    clients.establish(established)
    print("ready", flush=True)
    clients.open_steadily(rate)
    ended = time.time() - LIMIT_S  # the latest ones had no time to be accepted
    fates = clients.ask()
    print(json.dumps({**fates, "begun": clients.begun, "ended": ended, "served": clients.served}), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    except TimeoutError as late:
        sys.exit(str(late))
