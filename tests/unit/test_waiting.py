"""Waiting for a value, and attempts that prove nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import ledger, waiting
from tests.waiting import PATIENCE_S, Void, until, until_valid


def test_the_value_that_holds_is_returned() -> None:
    """A caller need not ask again, when the answer may be another."""
    answers = iter([0, 0, 7, 0])
    assert until(lambda: next(answers)) == 7


def test_void_attempts_are_repeated_and_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ledger.LEDGER, str(tmp_path / "ledger"))
    results = iter([Void("late\nby 3 s"), Void("late again"), "a result"])

    def attempt() -> object:
        result = next(results)
        if isinstance(result, Void):
            raise result
        return result

    assert until_valid("a test", attempt) == "a result"
    found = [(entry.test, entry.reason) for entry in ledger.read(tmp_path / "ledger")]
    assert found == [("a test", "late"), ("a test", "late again")]


def test_attempts_that_stay_void_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ledger.LEDGER, str(tmp_path / "ledger"))
    clock = SimpleNamespace(now=0.0)
    moved = SimpleNamespace(monotonic=lambda: clock.now, sleep=lambda s: setattr(clock, "now", clock.now + s))
    monkeypatch.setattr(waiting, "time", moved)

    def attempt() -> None:
        clock.now += PATIENCE_S / 2
        raise Void("late")

    with pytest.raises(AssertionError, match="not within 120 s: an attempt that proves something: a test"):
        until_valid("a test", attempt)
    assert len(ledger.read(tmp_path / "ledger")) == 2
