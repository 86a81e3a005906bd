"""reload_time_file: keepalived's formats of time, and the reloads that they cause."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pylvs.daemon.keepalived.reload_time import ReloadTimer, next_time
from pylvs.model.wanted import GlobalSettings

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a local time of UTC+2."""
    monkeypatch.setenv("TZ", "AAA-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> float:
    return datetime.fromisoformat(f"{text}+00:00").timestamp()


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("12:00:01Z", utc("2026-03-04T12:00:01")),
        ("12:00:00Z", utc("2026-03-04T12:00:00")),
        ("11:59:59Z", utc("2026-03-05T11:59:59")),
        ("14:00:01", utc("2026-03-04T12:00:01")),
        ("13:59:59", utc("2026-03-05T11:59:59")),
        ("26-03-04 12:30:00Z", utc("2026-03-04T12:30:00")),
        ("2027-01-02 03:04:05", utc("2027-01-02T01:04:05")),
        ("2026-03-04 11:59:59Z", None),
    ],
)
def test_a_time_is_read_as_in_keepalived(text: str, due: float | None) -> None:
    assert next_time(text, NOW) == due


@pytest.mark.parametrize(
    "text", ["", "12:00", "12:00:00 ", " 12:00:00", "25:00:00", "2026-02-30 12:00:00", "12:00:00z"]
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|must be|out of range"):
        next_time(text, NOW)


class Timer:
    """A timer with an injected clock, and its reloads."""

    def __init__(self, file: Path, repeat: bool = False) -> None:
        self.now = NOW
        self.reloads: list[float] = []
        settings = GlobalSettings(reload_time_file=str(file), reload_repeat=repeat)
        self.timer = ReloadTimer(lambda: settings, self._reload, lambda: self.now)

    async def _reload(self) -> None:
        self.reloads.append(self.now)

    def poll(self, after_s: float = 0.0) -> list[float]:
        """Return the seconds since NOW at which reloads took place."""
        self.now = NOW + after_s
        asyncio.run(self.timer.poll())
        return [each - NOW for each in self.reloads]


def test_the_file_is_removed_at_its_time(tmp_path: Path) -> None:
    file = tmp_path / "time"
    file.write_text("12:00:10Z\n")
    timer = Timer(file)
    assert timer.poll() == timer.poll(9) == []
    assert timer.poll(11) == [11]
    assert not file.exists()
    assert timer.poll(90_000) == [11]


def test_a_file_that_cannot_be_removed_causes_one_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    def refused(path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(os, "unlink", refused)
    file = tmp_path / "time"
    file.write_text("12:00:10Z\n")
    timer = Timer(file)
    assert timer.poll() == []
    assert timer.poll(11) == [11]
    assert f"reload_time_file {file} cannot be removed: Read-only file system; " in log_output.getvalue()
    assert timer.poll(12) == timer.poll(90_000) == [11]
    file.write_text("2026-03-05 14:00:00Z\n")
    assert timer.poll(90_001) == [11]
    assert timer.poll(93_601) == [11, 93_601]


def test_with_reload_repeat_it_is_each_day(tmp_path: Path) -> None:
    file = tmp_path / "time"
    file.write_text("12:00:10Z")
    timer = Timer(file, repeat=True)
    timer.poll()
    assert timer.poll(10) == [10]
    assert timer.poll(20) == [10]
    assert timer.poll(86_411) == [10, 86_411]
    assert file.exists()


def test_the_file_may_change_and_go(tmp_path: Path) -> None:
    file = tmp_path / "time"
    timer = Timer(file)
    assert timer.poll() == []
    file.write_text("12:00:10Z")
    assert timer.poll(1) == []
    file.write_text("12:01:00Z")
    os.utime(file, ns=(1, 1))
    assert timer.poll(11) == []
    file.unlink()
    assert timer.poll(61) == timer.poll(90_000) == []


def test_a_wrong_file_schedules_nothing(tmp_path: Path) -> None:
    file = tmp_path / "time"
    file.write_bytes(b"\xff\n")
    assert Timer(file).poll(90_000) == []
