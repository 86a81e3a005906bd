"""Daemons of tests log in memory: what they say must not come between a command's lines."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from pylvs.system import garbage, logs
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon gives others a few seconds for: here the machine may be slower than that."""
    for name in (
        "daemon.router_link.PATIENCE_S",
        "daemon.virtual_routers.START_S",
        "daemon.virtual_routers.STATUS_S",
        "host.fifo_readers.FINISH_S",
        "host.fifos.FINISH_S",
        "host.in_turn.FINISH_S",
        "host.mail.FINISH_S",
    ):
        monkeypatch.setattr(f"pylvs.{name}", PATIENCE_S)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each time that a daemon settled its garbage: all that pytest holds would be looked through each time."""
    times: list[int] = []
    monkeypatch.setattr(garbage, "settle", lambda: times.append(1))
    return times


@pytest.fixture(autouse=True)
def said() -> Iterator[io.StringIO]:
    """The lines that were logged."""
    out = io.StringIO()
    handlers, level = logging.root.handlers[:], logging.root.level
    former = logs.write_with(lambda *_: None)
    logs.set_up("text", out, {})
    yield out
    logs.write_with(former)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
