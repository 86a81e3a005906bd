"""The task that serves D-Bus: connections that end, and messages that fail."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_call

from pylvs.dbus import client as client_module
from pylvs.dbus import service as service_module
from pylvs.dbus.bus import Lost
from pylvs.dbus.client import CONNECT_S, REPORT_S, RETRY_S, BusClient
from pylvs.dbus.interface import PEER
from tests.unit.vrrp.fake_loop import FakeTimeLoop

ROOT = "/org/keepalived/Vrrp1"


class Bus:
    """Stands in for a connection to the bus."""

    lost = False  # what is sent cannot be

    def __init__(self, *_: object) -> None:
        self.ready, self.unsent, self.skipped = True, False, ""
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


class Task:
    """The task with such a bus."""

    def __init__(self) -> None:
        self.loop = FakeTimeLoop()
        self.reports: list[dict[str, Any]] = []
        self.client = BusClient(self.loop, lambda message: self.reports.append(dict(message)))

    def configure(self) -> None:
        self.client.receive({"address": "unix:path=/none", "name": "org.example.Name", "root": ROOT})

    def connected(self) -> Bus:
        self.configure()
        self.serve()
        bus: Any = self.client._bus
        assert isinstance(bus, Bus)
        return bus

    def serve(self) -> None:
        """Take what the bus has sent."""
        self.client._try(self.client._serve)

    def reported(self) -> list[dict[str, Any]]:
        """Return what it has reported to the daemon since."""
        found, self.reports = self.reports, []
        return found


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """Provide a task that has no connection yet."""
    monkeypatch.setattr(client_module, "Bus", Bus)
    made = Task()
    yield made
    made.client.close()
    made.loop._selector.close()


def test_a_bus_that_closes_after_the_name_is_a_reason(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bus, "lost", True)
    task.configure()
    task.serve()
    assert [each for each in task.reported() if "bus" in each] == [{"bus": ""}, {"bus": "Broken pipe"}]
    assert task.client._bus is None
    monkeypatch.setattr(Bus, "lost", False)
    task.loop.pass_(RETRY_S)
    task.serve()
    assert task.reported()[0] == {"bus": ""}


def test_a_bus_that_closes_between_two_calls_ends_both(task: Task) -> None:
    bus = task.connected()
    bus.calls = [ping(), ping()]
    bus.lost = True
    task.serve()
    assert task.reported()[-1] == {"bus": "Broken pipe"}


def test_a_bus_that_does_not_answer_has_a_deadline(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    task.configure()
    (bus,) = (each for each in [task.client._bus] if each)
    bus.ready = False
    task.serve()
    task.loop.pass_(CONNECT_S)
    assert task.reported() == [{"bus": "it did not answer within 3 s"}]


def test_a_signal_that_cannot_be_sent_is_reported_and_others_are_sent(task: Task) -> None:
    bus = task.connected()
    task.client.receive({"path": "/\udcff", "state": "MASTER"})
    task.client.receive({"signal": "VrrpReloaded"})
    assert [each.header.fields[HeaderFields.member] for each in bus.sent] == ["VrrpStarted", "VrrpReloaded"]
    task.reported()
    task.loop.pass_(REPORT_S)
    (report,) = task.reported()
    assert report["failed"].endswith(": this is a bug")


def test_a_call_that_fails_is_answered_and_so_is_the_next(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = task.connected()
    failures = iter([RuntimeError("any")])

    def has_method(*_: object) -> bool:
        for error in failures:
            raise error
        return True

    monkeypatch.setattr(service_module, "has_method", has_method)
    bus.calls, bus.skipped = [ping(), ping()], "a message that is too long"
    task.serve()
    kinds = [each.header.message_type for each in bus.sent]
    assert kinds == [MessageType.signal, MessageType.error, MessageType.method_return]
    task.reported()
    task.loop.pass_(REPORT_S)
    assert task.reported() == [{"failed": "a message that is too long was skipped"}]


def test_the_last_message_is_confirmed(task: Task) -> None:
    bus = task.connected()
    task.client.receive({"signal": "VrrpStopped", "last": True})
    assert bus.sent[-1].header.fields[HeaderFields.member] == "VrrpStopped"
    assert task.reported()[-1] == {"ended": True}


def ping() -> Message:
    return Message.from_buffer(new_method_call(DBusAddress("/", "x.y", PEER), "Ping").serialise(1))
