"""The process of D-Bus: `python -m pylvs.dbus FD ADDRESS NAME ROOT`.

It has the bus's address, its own name there, and the path above its objects. `pylvs run` starts it, and is at the other
end of FD. Any user of this host may send to the bus, so the process has no privileges (`pylvs.system.sandbox`). It
keeps the file system, because a new connection needs the bus's socket. Without a bus it tries again each RETRY_S.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from pylvs.dbus.bus import Bus, Lost
from pylvs.dbus.interface import MAX_REASON, PROTOCOL, STATES
from pylvs.dbus.service import GENERAL_SIGNALS, Reply, Service
from pylvs.system import sandbox, syscalls
from pylvs.system.processes import channel

NAME = b"pylvs-dbus"  # shown by ps and top
RETRY_S = 2.0
_ALIVE_S = 0.5
_DESCRIPTORS, _MEMORY = 64, 256 << 20


class BusClient:
    """One connection to the bus after the other."""

    def __init__(self, end: socket.socket, address: str, name: str, root: str) -> None:
        self._end, self._address, self._name, self._root = end, address, name, root
        self._selector = selectors.DefaultSelector()
        self._bus: Bus | None = None
        self._service: Service | None = None
        self._connect_at = 0.0
        self._state: dict[str, Any] = {"alive": True}  # then {"bus": reason}: "" while there is a connection
        self._failed = ""  # what failed last; one message alone
        self._alive_at = 0.0
        self._numbers = count()
        self._replies: dict[int, Callable[[Reply], None]] = {}

    def run(self) -> None:
        """Serve until the daemon closes its end."""
        self._end.setblocking(False)
        self._selector.register(self._end, selectors.EVENT_READ)
        while True:
            self._tell_alive()
            if self._bus is None and time.monotonic() >= self._connect_at:
                self._connect()
            for key, _ in self._selector.select(max(self._alive_at - time.monotonic(), 0.0)):
                if key.fileobj is self._end:
                    self._receive()
                elif key.fileobj is self._bus:
                    self._try(self._serve)

    def _tell_alive(self) -> None:
        now = time.monotonic()
        if now >= self._alive_at:
            self._alive_at = now + _ALIVE_S
            self._tell(self._state | ({"failed": self._failed} if self._failed else {}))

    def _tell(self, message: channel.Message) -> bool:
        try:
            self._end.send(channel.encode(message))
        except BlockingIOError:  # the daemon is late
            return False
        return True

    def _tell_bus(self, reason: str) -> None:
        self._state = {"bus": reason}
        self._tell(self._state)

    def _connect(self) -> None:
        try:
            self._bus = Bus(self._address, self._name, self._tell_alive)
        except Lost as lost:
            self._lose(str(lost))
            return
        self._selector.register(self._bus, selectors.EVENT_READ)
        self._service = Service(self._root, self._bus.send, self._ask, self._fail)
        self._tell_bus("")
        self._try(self._service.begin)
        self._try(self._serve)  # what came before the name

    def _try(self, call: Callable[[], None]) -> None:
        """Call, and watch for what could not be sent at once. Without a connection do nothing."""
        if self._bus is None:
            return
        try:
            call()
        except Lost as lost:
            self._lose(str(lost))
        except Exception as error:  # of one message; the others are served
            self._fail(f"{type(error).__name__}: {error}: this is a bug")
        if self._bus is not None:
            writing = selectors.EVENT_WRITE if self._bus.unsent else 0
            self._selector.modify(self._bus, selectors.EVENT_READ | writing)

    def _fail(self, reason: str) -> None:
        self._failed = reason[:MAX_REASON]  # the daemon gets it with the next sign of life: a flood is one line

    def _lose(self, reason: str) -> None:
        """Close the connection; the objects, and the calls that wait, end with it."""
        if self._bus is not None:
            self._selector.unregister(self._bus)
            self._bus.close()
        self._bus = self._service = None
        self._replies.clear()
        self._connect_at = time.monotonic() + RETRY_S
        self._tell_bus(reason)

    def _serve(self) -> None:
        assert self._bus is not None
        assert self._service is not None
        bus, service = self._bus, self._service
        bus.flush()
        for message in bus.receive():
            self._try(partial(service.receive, message))
        if bus.skipped:
            self._fail(f"{bus.skipped} was skipped")

    def _ask(self, method: str, name: str, done: Callable[[Reply], None]) -> None:
        number = next(self._numbers)
        self._replies[number] = done
        if not self._tell({"id": number, "method": method, "name": name}):
            del self._replies[number]
            done({"error": "pylvs run is late"})

    def _receive(self) -> None:
        try:
            message, descriptors = channel.receive(self._end)
            for descriptor in descriptors:  # a reply that may be long
                message |= channel.decode(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
                os.close(descriptor)
        except BlockingIOError:
            return
        except (EOFError, OSError, channel.BadMessage):
            os._exit(0)
        if "id" in message:
            done = self._replies.pop(message["id"], None)
            if done is not None:
                self._try(partial(done, message))
        elif self._service is not None:
            service = self._service
            if message.get("state") in STATES:
                self._try(lambda: service.state_changed(message["path"], message["state"]))
            elif message.get("signal") in GENERAL_SIGNALS:
                self._try(lambda: service.signal(message["signal"]))
        if message.get("last"):
            self._tell({"ended": True})


def main(end: socket.socket, address: str, name: str, root: str) -> None:
    """Serve the daemon at the other end of this socket."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # for the daemon; this process ends with it
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    left = sandbox.confine(_DESCRIPTORS, _MEMORY, file_system=True, named=True)
    end.send(channel.encode(channel.greeting(left, PROTOCOL)))
    with contextlib.suppress(ConnectionError):
        BusClient(end, address, name, root).run()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:5])
