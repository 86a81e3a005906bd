"""The client of `pylvs run` before a daemon that answers, hangs, or closes the connection."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import SimpleQueue
from socketserver import ThreadingUnixStreamServer
from threading import Thread
from typing import Any

import pytest

from pylvs.model.errors import PylvsError
from pylvs.snmp.checker_mib import Numbers, ServerStatus
from pylvs.snmp.servers import SOCKET_NAME, ServerClient
from pylvs.snmp.timeouts import BACK_OFF_S
from tests.waiting import PATIENCE_S

DOWN = {"event": "server_down", "service": "web", "server": "a"}
SERVICES, COUNTERS, EVENTS = "/v1/services", "/v1/counters", "/v1/events?follow=true"
HANG = object()  # a reply


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylvs.snmp.timeouts.ANSWER_S", PATIENCE_S)


class Daemon:
    """A daemon with a reply for each path; it closes the connection where it has none."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.replies: dict[str, object] = {}
        self.events: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.ended: SimpleQueue[None] = SimpleQueue()
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                daemon.requests.append(self.path)
                reply = daemon.replies.get(self.path)
                if reply is HANG:
                    daemon.ended.get()
                elif reply is not None:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(b"" if self.path == EVENTS else json.dumps(reply).encode())
                while reply is not None and self.path == EVENTS and (event := daemon.events.get()):
                    self.wfile.write(json.dumps(event).encode() + b"\n")

            def log_message(self, format: str, *args: Any) -> None:
                """Write no log."""

        self.server = ThreadingUnixStreamServer(str(folder / SOCKET_NAME), Handler)
        self.server.daemon_threads = True
        self.thread = Thread(target=self.server.serve_forever)
        self.thread.start()

    def answer(self, *services: str, up: bool = True, counters: bool = True) -> None:
        """Serve these services."""
        servers = [{"server": "a", "up": up}, {"server": "b", "up": True}]
        self.replies[SERVICES] = {"services": [{"name": each, "servers": servers} for each in services]}
        self.replies[COUNTERS] = {"services": [{"name": each} for each in services]} if counters else None
        self.replies[EVENTS] = ()

    def close(self) -> None:
        for queue in (self.events, self.ended):
            queue.put(None)
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def client(tmp_path: Path, clock: list[float]) -> Iterator[ServerClient]:
    made = ServerClient(tmp_path, lambda: clock[0])
    yield made
    made.close()


def later() -> float:
    return time.monotonic() + PATIENCE_S


def names(status: ServerStatus) -> tuple[list[str], list[str]]:
    return list(status.services), list(status.counters)


def test_what_has_no_answer_stays_and_is_not_asked_for_a_while(
    daemon: Daemon, client: ServerClient, clock: list[float]
) -> None:
    daemon.answer("web")
    assert names(client.status(later())) == (["web"], ["web"])
    daemon.answer("web", "mail", counters=False)
    assert names(client.status(later())) == (["web", "mail"], ["web"])
    daemon.answer("web", "mail", "dns")
    assert names(client.status(later())) == (["web", "mail", "dns"], ["web"])
    assert daemon.requests.count(COUNTERS) == 2
    clock[0] = BACK_OFF_S
    assert names(client.status(later())) == (["web", "mail", "dns"], ["web", "mail", "dns"])


def test_nothing_is_asked_after_the_deadline(daemon: Daemon, client: ServerClient) -> None:
    daemon.answer("web")
    client.status(later())
    asked = len(daemon.requests)
    assert names(client.status(time.monotonic())) == (["web"], ["web"])
    assert len(daemon.requests) == asked
    assert names(client.status(later())) == (["web"], ["web"])
    assert len(daemon.requests) == asked + 2


def test_a_daemon_that_hangs_is_an_error_and_one_that_ended_has_no_service(
    daemon: Daemon, client: ServerClient, tmp_path: Path
) -> None:
    daemon.answer("web")
    client.status(later())
    daemon.replies[SERVICES] = HANG
    with pytest.raises(PylvsError):
        client.services(time.monotonic() + 0.05)
    (tmp_path / SOCKET_NAME).unlink()
    assert names(client.status(later())) == ([], [])


def test_a_subscription_without_an_answer_is_tried_again_later(
    daemon: Daemon, client: ServerClient, clock: list[float]
) -> None:
    for _ in range(2):
        client.subscribe(later())
        assert client.fileno() == -1
    daemon.answer("web")
    assert names(client.status(later())) == ([], [])
    with pytest.raises(PylvsError, match="a moment ago"):
        client.services(later())
    assert daemon.requests == [EVENTS]
    clock[0] = BACK_OFF_S
    client.subscribe(later())
    assert client.fileno() >= 0


def received(daemon: Daemon, client: ServerClient, *events: dict[str, Any]) -> list[Numbers | None]:
    """Return the numbers after events that the daemon sends."""
    found: list[Numbers | None] = []
    for event in events:
        daemon.events.put(event)
    while len(found) < len(events):
        assert select.select([client], [], [], PATIENCE_S)[0]
        found += [numbers for _, numbers in client.events()]
    return found


def test_numbers_need_no_counters(daemon: Daemon, client: ServerClient) -> None:
    daemon.answer("web", counters=False)
    client.subscribe(later())
    assert received(daemon, client, DOWN, DOWN | {"event": "quorum_lost"}) == [Numbers(1, 2), Numbers(1, 2)]


def test_unknown_numbers_are_not_sent_but_learned_later(
    daemon: Daemon, client: ServerClient, clock: list[float]
) -> None:
    daemon.answer("web")
    daemon.replies[SERVICES] = None
    client.subscribe(later())
    assert received(daemon, client, DOWN) == [None]
    daemon.answer("web", up=False)
    clock[0] = BACK_OFF_S
    client.subscribe(later())
    assert received(daemon, client, DOWN | {"server": "b"}) == [Numbers(0, 2)]


def test_numbers_are_learned_again_after_missed_events(daemon: Daemon, client: ServerClient) -> None:
    daemon.answer("web")
    client.subscribe(later())
    daemon.answer("web", up=False)
    assert received(daemon, client, {"event": "missed"}, DOWN | {"server": "b"}) == [None, Numbers(0, 2)]
