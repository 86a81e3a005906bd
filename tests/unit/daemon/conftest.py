"""Daemons of tests log to memory: their lines must not mix with the output of commands."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pylvs.daemon import services
from pylvs.daemon.api import client, files, routes
from pylvs.daemon.api.client import Client
from pylvs.daemon.notifications import EventBus
from pylvs.daemon.state import history, overrides
from pylvs.daemon.virtual_routers import connection, supervision
from pylvs.notify import fifos, mail
from pylvs.system import logs
from pylvs.system.processes import child, notify_scripts, scripts
from tests.unit.daemon import schemas
from tests.waiting import PATIENCE_S

# The daemon's timeouts by module. All modules are imported before a patch: some compute limits from others' timeouts.
TIMEOUTS = {
    client: ("READ_TIMEOUT_S",),
    connection: ("REPLY_TIMEOUT_S",),
    fifos: ("READER_FINISH_S", "FINISH_S"),
    files: ("PATIENCE_S",),
    history: ("SLOW_S", "END_S"),
    mail: ("FINISH_S", "START_S"),
    overrides: ("SLOW_S", "END_S"),
    routes: ("STATUS_TABLES_S",),
    notify_scripts: ("FINISH_S", "ORDERED_S"),
    scripts: ("LEASE_S",),
    supervision: ("START_TIMEOUT_S", "STATUS_TIMEOUT_S", "SESSIONS_TIMEOUT_S", "KILL_TIMEOUT_S", "STOP_TIMEOUT_S"),
    services: ("SLOW_S", "RENAMED_S"),
}


@pytest.fixture(autouse=True)
def _patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the daemon's timeouts: the machine of a test may be slow."""
    if "simulation" in request.path.parts:  # its clock is its own, and its seeds depend on the timeouts
        return
    for module, names in TIMEOUTS.items():
        for name in names:
            monkeypatch.setattr(module, name, PATIENCE_S)
    monkeypatch.setattr(child, "LEASE_S", int(PATIENCE_S))


@pytest.fixture(autouse=True)
def _replies_and_events_have_their_schema(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compare each reply to `Client.ask`, and each event, with its schema."""
    wrong: list[str] = []
    ask, put = Client.ask, EventBus._put

    def asked(self: Client, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        status, reply = ask(self, method, path, content)
        wrong.extend(schemas.wrong_in_reply(method, path, status, reply))
        return status, reply

    def published(self: EventBus, event: Mapping[str, Any]) -> None:
        wrong.extend(schemas.wrong_in_event(event))
        put(self, event)

    monkeypatch.setattr(Client, "ask", asked)
    monkeypatch.setattr(EventBus, "_put", published)
    yield
    assert wrong == [], "change pylvs.daemon.api.replies, and write docs/reference/api.md again"


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace settle_garbage, which would scan all objects of pytest; return a list with an item for each call."""
    times: list[int] = []
    monkeypatch.setattr("pylvs.daemon.supervisor.settle_garbage", lambda: times.append(1))
    return times


@pytest.fixture(autouse=True)
def log_output() -> Iterator[io.StringIO]:
    """Collect the log of the test in a string."""
    out = io.StringIO()
    handlers, level = logging.root.handlers[:], logging.root.level
    former = logs.write_with(lambda *_: None)
    logs.set_up("text", out, {})
    yield out
    logs.write_with(former)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
