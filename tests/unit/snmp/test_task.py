"""The sub-agent's thread, and its requests to a daemon that answers, refuses, or does not answer."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pylvs.model.errors import PylvsError
from pylvs.model.plain import to_plain
from pylvs.model.wanted import Configuration, GlobalSettings, SnmpSettings
from pylvs.snmp import task as task_module
from pylvs.snmp.agent import Agent
from pylvs.snmp.checker_mib import Numbers, ServerStatus
from pylvs.snmp.connections import Events, RemoteConnections, Reply
from pylvs.snmp.session import Lost
from pylvs.snmp.task import LEASE_S, AgentTask, Mailbox
from pylvs.snmp.timeouts import BACK_OFF_S
from pylvs.system.processes.channel import sealed
from tests.unit.vrrp.fake_loop import FakeTimeLoop
from tests.waiting import PATIENCE_S, until

ABSENT = {"error": "none run here", "absent": True}


class Daemon:
    """A daemon with a reply for each method, in a thread; it does not answer where it has none."""

    def __init__(self) -> None:
        self.inbox, self.outbox = Mailbox(), Mailbox()
        self.requests: list[dict[str, Any]] = []
        self.replies: dict[str, Any] = {}
        self._over = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over:
            time.sleep(0.001)
            for message in self.outbox.take():
                self.requests.append(message)
                self._answer(message)

    def _answer(self, message: dict[str, Any]) -> None:
        reply = self.replies.get(message.get("method", ""))
        if isinstance(reply, dict) and "error" in reply:
            self.inbox.put(Reply({"id": message["id"], **reply}, -1))
        elif isinstance(reply, socket.socket):
            self.inbox.put(Reply({"id": message["id"]}, reply.detach()))
        elif reply is not None:
            self.inbox.put(Reply({"id": message["id"]}, sealed(json.dumps(reply).encode())))

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self.inbox.close()
        self.outbox.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.close()


def later() -> float:
    return time.monotonic() + PATIENCE_S


def names(status: ServerStatus) -> tuple[list[str], list[str]]:
    return list(status.services), list(status.counters)


def services(*several: str) -> dict[str, Any]:
    return {"services": [{"name": each} for each in several]}


def test_what_has_no_answer_stays_and_is_not_asked_for_a_while(daemon: Daemon) -> None:
    clock = [0.0]
    connections = RemoteConnections(daemon.inbox, daemon.outbox, clock=lambda: clock[0])
    daemon.replies = {"services": services("web"), "counters": services("web")}
    assert names(connections.servers(later())) == (["web"], ["web"])
    daemon.replies = {"services": services("web", "mail"), "counters": {"error": "the table is locked"}}
    assert names(connections.servers(later())) == (["web", "mail"], ["web"])
    daemon.replies["counters"] = services("web", "mail")
    assert names(connections.servers(later())) == (["web", "mail"], ["web"])
    clock[0] = BACK_OFF_S
    assert names(connections.servers(later())) == (["web", "mail"], ["web", "mail"])
    del daemon.replies["services"]
    assert names(connections.servers(time.monotonic() + 0.01)) == (["web", "mail"], ["web", "mail"])
    with pytest.raises(PylvsError, match="a moment ago"):
        connections.services(later())


def test_what_does_not_run_has_nothing(daemon: Daemon) -> None:
    connections = RemoteConnections(daemon.inbox, daemon.outbox)
    found = {"name": "VI_1", "device": "vrrp.51", "state": "MASTER"}
    daemon.replies["routers"] = {"instances": [found], "groups": [], "unknown_vrids": [{"count": 2}]}
    status = connections.routers(later())
    assert (status.devices, status.unknown) == ({"VI_1": "vrrp.51"}, 2)
    daemon.replies["routers"] = ABSENT
    assert connections.routers(later()).instances == {}


def test_a_connection_to_snmpd_is_a_descriptor_and_its_absence_a_reason(daemon: Daemon) -> None:
    connections = RemoteConnections(daemon.inbox, daemon.outbox)
    ours, its = socket.socketpair()
    daemon.replies["master"] = its
    with ours, connections.master() as master:
        master.sendall(b"x")
        assert ours.recv(1) == b"x"
    daemon.replies["master"] = {"error": "Connection refused"}
    with pytest.raises(Lost, match="Connection refused"):
        connections.master()


def test_a_weight_reaches_the_daemon_or_fails_with_its_reason(daemon: Daemon) -> None:
    connections = RemoteConnections(daemon.inbox, daemon.outbox)
    daemon.replies["set_weight"] = {"servers": []}
    connections.set_weight("web", "10.0.0.1:80", 5, later())
    assert daemon.requests[-1] | {"id": 0} == {
        "id": 0,
        "method": "set_weight",
        "service": "web",
        "server": "10.0.0.1:80",
        "weight": 5,
    }
    daemon.replies["set_weight"] = {"error": "no such server"}
    with pytest.raises(PylvsError, match="no such server"):
        connections.set_weight("web", "10.0.0.9:80", None, later())


def test_events_count_within_a_subscription(daemon: Daemon) -> None:
    connections = RemoteConnections(daemon.inbox, daemon.outbox)
    event = Reply({"routers": [{"kind": "INSTANCE"}], "servers": [[{"event": "server_up"}, 1, 2], [{}, None, 0]]}, -1)
    daemon.inbox.put(event)
    assert connections.events() == Events()
    connections.subscribe(later())
    connections.subscribe(later())
    daemon.inbox.put(event)
    daemon.replies["services"] = services("web")
    connections.services(later())  # they come before its reply
    found = connections.events()
    assert found.routers == [{"kind": "INSTANCE"}]
    assert found.servers == [({"event": "server_up"}, Numbers(1, 2)), ({}, None)]
    connections.unsubscribe()
    until(lambda: daemon.requests[-1] == {"subscribe": False})
    assert daemon.requests.count({"subscribe": True}) == 1


class Thread:
    """A task with its messages."""

    def __init__(self) -> None:
        self.loop = FakeTimeLoop()
        self.sent: list[dict[str, Any]] = []
        self.task = AgentTask(self.loop, lambda message: self.sent.append(dict(message)))

    def configure(self, content: bytes) -> None:
        self.task.receive({"configuration": True}, [sealed(content)])

    def pass_(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        self.loop.pass_(seconds)
        return self.sent


@pytest.fixture
def thread() -> Iterator[Thread]:
    made = Thread()
    yield made
    made.loop._selector.close()


def configuration() -> bytes:
    settings = GlobalSettings(snmp=SnmpSettings(socket="unix:/nowhere", vrrp=True))
    return json.dumps(to_plain(Configuration(settings=settings))).encode()


def test_a_configuration_starts_a_thread_and_replaces_the_last_one(thread: Thread) -> None:
    made = []
    for number in (1, 2):
        thread.configure(configuration())
        assert thread.task._running is not None
        made.append(thread.task._running.thread)
        until(lambda number=number: [each["method"] for each in thread.pass_()] == ["master"] * number)  # type: ignore[misc]
    thread.task.close()
    assert not any(each.is_alive() for each in made)


def test_a_failure_in_the_thread_ends_the_process(thread: Thread) -> None:
    thread.configure(b"no JSON")

    def failed() -> bool:
        try:
            thread.pass_(1.0)
        except ValueError:
            return True
        return False

    until(failed)
    thread.task.close()


def test_a_thread_that_hangs_ends_the_process(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "END_S", 0.01)
    blocked = threading.Event()
    monkeypatch.setattr(Agent, "run", lambda _: blocked.wait())
    thread.configure(configuration())
    thread.pass_(LEASE_S - 1)
    with pytest.raises(RuntimeError, match="silent for 60 s"):
        thread.pass_(2)
    thread.task.close()
    blocked.set()


def test_a_task_that_has_ended_keeps_neither_timers_nor_replies(thread: Thread) -> None:
    thread.configure(configuration())
    assert thread.task._running is not None
    running = thread.task._running
    running.end.put(None)
    running.thread.join()
    number = sealed(b"{}")
    thread.task.receive({"id": 99}, [number])
    thread.task.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    thread.pass_(60.0)
    assert thread.loop._timers == []


def test_a_late_descriptor_is_closed(daemon: Daemon) -> None:
    connections = RemoteConnections(daemon.inbox, daemon.outbox)
    number = sealed(b"{}")
    daemon.inbox.put(Reply({"id": 99}, number))
    connections.events()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
