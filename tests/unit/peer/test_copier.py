"""What the copier does with a director that it cannot copy from, and what its status says."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pylvs import __version__
from pylvs.model.wanted import PeerSettings
from pylvs.peer import records, wire
from pylvs.peer.copier import Copier, Session, destination_name
from pylvs.peer.summary import ServiceSummary, Summary
from pylvs.peer.tables import Tables
from pylvs.peer.wire import BadFrame, Hello, Kind
from tests.unit.peer.test_copying import FakeCopies, Wire
from tests.waiting import PATIENCE_S

OURS = Hello(wire.PROTOCOL, __version__, records.record_format(), "director1")
THEIRS = replace(OURS, name="director2")


def copier(copies: FakeCopies | None = None) -> Copier:
    return Copier(PeerSettings(), "director1", Tables(lambda: copies))


async def ask(copying: Copier, *frames: tuple[Kind, bytes]) -> tuple[Session, Wire]:
    """Let a copier ask a director that sends these frames; return when it has ended, or waits for more."""
    sent = Wire()
    session = Session(OURS, sent.send)
    task = asyncio.ensure_future(copying._ask(session))
    async with asyncio.timeout(PATIENCE_S):
        for each in frames:
            await session.frames.put(each)
        while not task.done() and (session.frames.qsize() or not sent.frames):
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
    if task.done():
        task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return session, sent


@pytest.mark.parametrize("other", [replace(THEIRS, format="other", version="9.9"), replace(THEIRS, protocol=9)])
def test_nothing_is_asked_of_a_director_with_another_form(other: Hello) -> None:
    session, sent = asyncio.run(ask(copier(), (Kind.HELLO, wire.encode_hello(other))))
    assert sent.kinds() == [Kind.HELLO]
    assert f"it runs pylvs {other.version}, this director {__version__}" in session.problem


def test_a_director_of_the_same_form_is_asked_for_everything() -> None:
    copying = copier(FakeCopies())
    session, sent = asyncio.run(ask(copying, (Kind.HELLO, wire.encode_hello(THEIRS))))
    assert sent.kinds() == [Kind.HELLO, Kind.SUMMARY, Kind.ASK]
    status = copying.status()
    assert (status["name"], status["connected"], session.problem) == ("director2", True, "")


def test_a_frame_before_hello_ends_the_connection() -> None:
    with pytest.raises(BadFrame, match="before HELLO"):
        asyncio.run(ask(copier(), (Kind.SUMMARY, wire.encode_summary(Summary()))))


def test_the_configuration_of_the_other_director_is_passed_on() -> None:
    copying, passed = copier(), list[object]()
    copying._report = passed.append
    summary = Summary({"web": ServiceSummary("settings")})
    frames = (Kind.HELLO, wire.encode_hello(THEIRS)), (Kind.SUMMARY, wire.encode_summary(summary))
    asyncio.run(ask(copying, *frames))
    assert passed == [{"summary": {"services": {"web": {"settings": "settings"}}}}]


def test_a_missing_destination_has_the_name_of_its_server_and_service() -> None:
    four = bytes((10, 66, 0, 100)).ljust(16, b"\0") + bytes((10, 0, 0, 1)).ljust(16, b"\0")
    numbers = (0).to_bytes(4, "little") + (80).to_bytes(2, "little") + (8080).to_bytes(2, "little")
    assert destination_name(four + numbers + bytes((6, 4, 4, 0))) == "10.0.0.1:8080 of TCP 10.66.0.100:80"
    six = bytes(15) + b"\1" + bytes(15) + b"\2"
    assert destination_name(six + numbers + bytes((17, 6, 6, 0))) == "[::2]:8080 of UDP [::1]:80"
    mark = (7).to_bytes(4, "little") + bytes(2) + (80).to_bytes(2, "little")
    assert destination_name(four + mark + bytes((0, 4, 4, 0))) == "10.0.0.1:80 of mark 7"
    assert destination_name(b"") == "a destination without a name"
