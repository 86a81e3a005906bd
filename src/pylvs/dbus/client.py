"""The task "dbus": it serves virtual routers on D-Bus, on one connection after the other.

Any user of this host may send to the bus. Without a bus it tries again each RETRY_S.

| to the task | "address", "name", "root": of the bus, of the task there, and above its objects |
| | "signal": name; "path", "state"; "last": true before the end |
| | "id", "error" or the reply: "routers", "error" |
| from it | "bus": reason, "" while there is a connection; "failed": reason; "id", "method", "name"; "ended": true |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

from pylvs.dbus.bus import Bus, Lost
from pylvs.dbus.interface import MAX_REASON, STATES
from pylvs.dbus.service import GENERAL_SIGNALS, Reply, Service
from pylvs.system.processes.channel import Message
from pylvs.system.processes.event_loop import Loop, Timer

CONNECT_S = 3.0  # for the connection, the authentication and the name
RETRY_S = 2.0
REPORT_S = 0.5  # between two reports of failures: a flood of them is one line
Settings = tuple[str, str, str]


class BusClient:
    """The objects on the bus; `send` sends a message to the daemon."""

    def __init__(self, loop: Loop, send: Callable[[Message], None]) -> None:
        self._loop, self._tell = loop, send
        self._settings: Settings | None = None
        self._bus: Bus | None = None
        self._service: Service | None = None
        self._timer: Timer | None = None  # of the next connection, or of the limit for this one
        self._failed = ""  # what failed last; one message alone
        self._reporting = False
        self._numbers = count()
        self._replies: dict[int, Callable[[Reply], None]] = {}

    def receive(self, message: dict[str, Any], _: Sequence[int] = ()) -> None:
        """Take settings, a signal, a transition or a reply of the daemon."""
        if "address" in message:
            self._configure((message["address"], message["name"], message["root"]))
        elif "id" in message:
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

    def close(self) -> None:
        """Leave the bus."""
        self._disconnect()
        self._settings = None

    def _configure(self, settings: Settings) -> None:
        if settings != self._settings:
            self._disconnect()
            self._settings = settings
            self._connect()

    def _connect(self) -> None:
        assert self._settings is not None
        address, name, _ = self._settings
        try:
            self._bus = Bus(address, name)
        except Lost as lost:
            self._lose(str(lost))
            return
        self._timer = self._loop.at(self._loop.now + CONNECT_S, self._give_up)
        self._watch()

    def _give_up(self) -> None:
        self._lose(f"it did not answer within {CONNECT_S:g} s")

    def _watch(self) -> None:
        """Watch for messages, and for space if something is unsent."""
        if self._bus is not None:
            serve = partial(self._try, self._serve)
            self._loop.watch(self._bus.fileno(), serve, serve if self._bus.unsent else None)

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
        self._watch()

    def _fail(self, reason: str) -> None:
        self._failed = reason[:MAX_REASON]
        if not self._reporting:
            self._reporting = True
            self._loop.at(self._loop.now + REPORT_S, self._report)

    def _report(self) -> None:
        self._reporting = False
        self._tell({"failed": self._failed})

    def _lose(self, reason: str) -> None:
        """Close the connection, and make another one later."""
        self._disconnect()
        self._timer = self._loop.at(self._loop.now + RETRY_S, self._connect)
        self._tell({"bus": reason})

    def _disconnect(self) -> None:
        """Close the connection; the objects, and the calls that wait, end with it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._bus is not None:
            self._loop.watch(self._bus.fileno(), None)
            self._bus.close()
        self._bus = self._service = None
        self._replies.clear()

    def _serve(self) -> None:
        assert self._bus is not None
        bus = self._bus
        bus.flush()
        messages = bus.receive()
        if bus.ready and self._service is None:
            self._begin(bus)
            messages += bus.receive()  # what came before the name
        service = self._service
        if service is None:
            return
        for message in messages:
            self._try(partial(service.receive, message))
        if bus.skipped:
            self._fail(f"{bus.skipped} was skipped")

    def _begin(self, bus: Bus) -> None:
        """Serve: the connection has its name."""
        assert self._settings is not None
        if self._timer is not None:
            self._timer.cancel()
        self._service = Service(self._settings[2], bus.send, self._ask, self._fail)
        self._tell({"bus": ""})
        self._service.begin()

    def _ask(self, method: str, name: str, done: Callable[[Reply], None]) -> None:
        number = next(self._numbers)
        self._replies[number] = done
        self._tell({"id": number, "method": method, "name": name})
