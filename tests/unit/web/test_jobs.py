"""The commands that the page runs, and their limits."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from pylvs.cli.packets.trace import _announcement
from pylvs.model.errors import PylvsError
from pylvs.web import jobs
from tests.waiting import PATIENCE_S

TRACE = {"client": "192.0.2.7", "seconds": 1}
BEGINS = "echo " + shlex.quote("pylvs: " + _announcement("tcp", 100, 1.0)) + " >&2"
FOREVER = "exec sleep 100000"


def run(monkeypatch: pytest.MonkeyPatch, script: str, kind: str, given: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """Run a script in place of pylvs, with its arguments; return what the job returned, and its records."""
    monkeypatch.setattr(jobs, "command", lambda _, *words: ["sh", "-c", script, "sh", *words])
    records: list[str] = []

    async def whole() -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await jobs.Jobs(("--state-dir", "/nowhere"), lambda: ()).run(kind, given, records.append)

    try:
        return asyncio.run(whole()), records
    except PylvsError as error:
        return str(error).encode(), records


def test_doctor_may_take_most_of_the_time_that_the_job_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it examines only what a busy machine does in a few seconds."""
    words = run(monkeypatch, 'echo "$@"', "doctor", {})[0].decode().split()
    limit_s = float(words[words.index("--limit") + 1])
    assert jobs.DOCTOR_S / 3 <= limit_s <= jobs.DOCTOR_S * 2 / 3


def test_the_time_of_a_trace_begins_when_it_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start takes longer here than the trace may; the record is printed before the trace is late."""
    monkeypatch.setattr(jobs, "BEGIN_S", PATIENCE_S)
    monkeypatch.setattr(jobs, "GRACE_S", 0.0)
    script = f"sleep 1.5; echo '{{}}'; {BEGINS}; {FOREVER}"
    found = run(monkeypatch, script, "trace", TRACE)
    assert found == (b"pylvs trace has not ended within 1 s; it was killed", ["{}"])


def test_a_trace_that_does_not_begin_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BEGIN_S", 0.1)
    found = run(monkeypatch, FOREVER, "trace", TRACE)
    assert found == (b"pylvs trace has not begun within 0.1 s; it was killed", [])


@pytest.mark.parametrize(
    ("script", "reply"),
    [
        (f"{BEGINS}; echo 1; echo 2", b"{}"),
        (
            f"{BEGINS}; echo 1; echo 2; echo warning >&2; echo 'pylvs: the trace ends' >&2; exit 1",
            b"pylvs: the trace ends",
        ),
        ("echo 1; echo 2; exit 3", b"exit status 3"),
    ],
)
def test_the_end_of_a_trace(monkeypatch: pytest.MonkeyPatch, script: str, reply: bytes) -> None:
    assert run(monkeypatch, script, "trace", TRACE) == (reply, ["1", "2"])
