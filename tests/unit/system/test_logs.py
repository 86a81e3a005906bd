"""Logs: lines of text, JSON objects, and no exception when the stream is closed."""

from __future__ import annotations

import io
import json
import logging
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.daemon.notifications import log_event
from pylvs.health.events import CheckFailed, QuorumGained, ServerDown
from pylvs.model.service import DestinationKey
from pylvs.system import logs

SERVER = DestinationKey(ip_address("10.0.0.1"), 80)
DOWN = ServerDown(at=0, service="web", server=SERVER, reason="connection refused")


def test_a_line_of_text() -> None:
    out = io.StringIO()
    logs.set_up("text", out, {})
    log_event(DOWN)
    logs.get_logger().info("two\nlines")
    first, second = out.getvalue().splitlines()
    assert first.split(" ", 1)[1] == "warning: server down (service=web, server=10.0.0.1:80, reason=connection refused)"
    assert second.split(" ", 1)[1] == "info: two lines"


def test_a_json_object() -> None:
    out = io.StringIO()
    logs.set_up("json", out, {})
    log_event(DOWN)
    found = json.loads(out.getvalue())
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "warning",
        "event": "server down",
        "service": "web",
        "server": "10.0.0.1:80",
        "reason": "connection refused",
    }


def test_the_journal_gets_levels_and_writes_the_time_itself(tmp_path: Path) -> None:
    with open(tmp_path / "journal", "w+") as out:
        there = os.fstat(out.fileno())
        logs.set_up("text", out, {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"})
        logs.get_logger().warning("unusual", where="here")
        out.seek(0)
        assert out.read() == "<4>warning: unusual (where=here)\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_each_line_in_the_journal_has_its_level(tmp_path: Path, form: logs.Format) -> None:
    with open(tmp_path / "journal", "w+") as out:
        there = os.fstat(out.fileno())
        logs.set_up(form, out, {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"})
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logs.get_logger().exception("this is a bug")
        out.seek(0)
        lines = out.read().splitlines()
    assert len(lines) == 1 if form == "json" else len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


def at_level(monkeypatch: pytest.MonkeyPatch, fixed: logs.Level | None, configured: str) -> list[str]:
    """Return the levels of the lines that are written; `fixed` is the command line's."""
    out = io.StringIO()
    monkeypatch.setenv("PYLVS_LOG_LEVEL", "")  # put back after the test
    logs.set_up("text", out)
    if fixed is not None:
        logs.fix_level(fixed)
    logs.use_level(configured)
    for level in ("debug", "info", "warning", "error"):
        getattr(logs.get_logger(), level)("a line")
        logging.getLogger("pylvs.health").log(getattr(logging, level.upper()), "a line")
    logging.getLogger("asyncio").debug("not worth a line at any level")
    logs.set_up("text", io.StringIO(), {})
    return [line.split(" ")[1].rstrip(":") for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("fixed", "configured", "least"),
    [
        (None, "info", "info"),
        (None, "debug", "debug"),
        (None, "error", "error"),
        ("warning", "debug", "warning"),
        ("debug", "error", "debug"),
    ],
)
def test_lines_below_the_level_are_left_out(
    monkeypatch: pytest.MonkeyPatch, fixed: logs.Level | None, configured: str, least: str
) -> None:
    every = ["debug", "info", "warning", "error"]
    expected = [each for level in every[every.index(least) :] for each in (level, level)]
    assert at_level(monkeypatch, fixed, configured) == expected


def test_logs_of_libraries_and_tracebacks_have_the_same_form() -> None:
    out = io.StringIO()
    logs.set_up("text", out, {})
    logging.getLogger("asyncio").warning("strange %s", "request")
    logging.getLogger("asyncio").info("not worth a line")
    try:
        raise ValueError("why")
    except ValueError:
        logs.get_logger().exception("this is a bug")
    lines = out.getvalue().splitlines()
    assert lines[0].endswith(" warning: strange request (logger=asyncio)")
    assert lines[1].endswith(" error: this is a bug")
    assert lines[-1] == "ValueError: why"


def test_a_closed_stream_raises_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as out:
        logs.set_up("text", out, {})
        logs.get_logger().info("is a reader there?")
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)


def test_failures_before_the_threshold_are_logged_if_configured() -> None:
    out = io.StringIO()
    logs.set_up("text", out, {})
    for counted, log_all in ((False, False), (False, True), (True, False)):
        log_event(
            CheckFailed(
                at=0,
                service="web",
                server=SERVER,
                reason="no answer",
                check="TCP_CHECK",
                attempt=1,
                attempts=2,
                counted=counted,
                log_all=log_all,
            )
        )
    log_event(QuorumGained(at=0, service="web", reason="start", weight=3, quorum=2, hysteresis=0, initial=True))
    log_event(QuorumGained(at=0, service="web", reason="it is back", weight=3, quorum=2, hysteresis=0))
    lines = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert len(lines) == 3
    assert lines[2] == "info: quorum gained (service=web, weight=3, quorum=2, hysteresis=0, reason=it is back)"
