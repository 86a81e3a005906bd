"""The process that serves D-Bus: connections that end, and messages that fail."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_call

from pylvs.dbus import __main__ as client_module
from pylvs.dbus import service as service_module
from pylvs.dbus.__main__ import BusClient
from pylvs.dbus.bus import Lost
from pylvs.dbus.interface import PEER
from pylvs.system.processes import channel

ROOT = "/org/keepalived/Vrrp1"


class Bus:
    """Stands in for a connection to the bus."""

    lost = False  # what is sent cannot be

    def __init__(self, *_: object) -> None:
        self.unsent, self.skipped = False, ""
        self.calls: list[Message] = []
        self.sent: list[Message] = []
        self._ends = socket.socketpair()

    def fileno(self) -> int:
        return self._ends[0].fileno()

    def send(self, message: Message) -> None:
        if self.lost:
            raise Lost("Broken pipe")
        message.serialise(1)  # the library raises an error for what is no message
        self.sent.append(message)

    def flush(self) -> None:
        pass

    def receive(self) -> list[Message]:
        found, self.calls = self.calls, []
        return found

    def close(self) -> None:
        for end in self._ends:
            end.close()


class Process:
    """The process with such a bus, and the daemon's end."""

    def __init__(self, ours: socket.socket, its: socket.socket) -> None:
        self._daemon = ours
        self.client = BusClient(its, "unix:path=/none", "org.example.Name", ROOT)

    def connected(self) -> Bus:
        self.client._connect()
        bus: Any = self.client._bus
        assert isinstance(bus, Bus)
        return bus

    def receive(self, message: channel.Message) -> None:
        """Let it receive a message of the daemon."""
        self._daemon.send(channel.encode(message))
        self.client._receive()

    def reported(self) -> list[dict[str, Any]]:
        """Return what it has reported to the daemon since."""
        found = []
        while True:
            try:
                found.append(channel.decode(self._daemon.recv(channel.MAX_PACKET)))
            except BlockingIOError:
                return found


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """Provide a process that has no connection yet."""
    monkeypatch.setattr(client_module, "Bus", Bus)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        ours.setblocking(False)
        its.setblocking(False)
        made = Process(ours, its)
        yield made
        if made.client._bus is not None:
            made.client._bus.close()


def test_a_bus_that_closes_after_the_name_is_a_reason(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bus, "lost", True)
    process.client._connect()
    assert process.reported() == [{"bus": ""}, {"bus": "Broken pipe"}]
    assert process.client._bus is None


def test_a_bus_that_closes_between_two_calls_ends_both(process: Process) -> None:
    bus = process.connected()
    bus.calls = [ping(), ping()]
    bus.lost = True
    process.client._try(process.client._serve)
    assert process.reported()[-1] == {"bus": "Broken pipe"}


def test_a_signal_that_cannot_be_sent_is_reported_and_others_are_sent(process: Process) -> None:
    bus = process.connected()
    process.receive({"path": "/\udcff", "state": "MASTER"})
    process.receive({"signal": "VrrpReloaded"})
    assert [each.header.fields[HeaderFields.member] for each in bus.sent] == ["VrrpStarted", "VrrpReloaded"]
    process.reported()
    process.client._tell_alive()
    (life,) = process.reported()
    assert life["bus"] == ""
    assert life["failed"].endswith(": this is a bug")


def test_a_call_that_fails_is_answered_and_so_is_the_next(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = process.connected()
    failures = iter([RuntimeError("any")])

    def has_method(*_: object) -> bool:
        for error in failures:
            raise error
        return True

    monkeypatch.setattr(service_module, "has_method", has_method)
    bus.calls, bus.skipped = [ping(), ping()], "a message that is too long"
    process.client._try(process.client._serve)
    kinds = [each.header.message_type for each in bus.sent]
    assert kinds == [MessageType.signal, MessageType.error, MessageType.method_return]
    process.reported()
    process.client._tell_alive()
    assert process.reported() == [{"bus": "", "failed": "a message that is too long was skipped"}]


def ping() -> Message:
    return Message.from_buffer(new_method_call(DBusAddress("/", "x.y", PEER), "Ping").serialise(1))
