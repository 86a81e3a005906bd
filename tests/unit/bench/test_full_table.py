"""A round of the flood is measured only where the table was full all the time."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from bench import full_table
from bench.cases import QUICK
from bench.harness import WrongPath

ROUND = QUICK.repeat


class FakePath:
    """A packet path whose timers have ended connections before some rounds; it is the harness, too."""

    namespace = "none"

    def __init__(self, free: list[int]) -> None:
        self.harness = self
        self._free = free  # entries, before each round
        self._ended = 0
        self.rounds = 0

    def plan(self, frame: object, flows: object) -> None: ...

    def entry(self, wrapper: object) -> None: ...

    def run(self, wrapper: object, target: object, count: int) -> tuple[float, None]:
        self._ended += count - self._free[self.rounds]
        self.rounds += 1
        return float(self.rounds), None

    def reason(self, name: str) -> int:
        return self._ended if name == "REASON_HALF_OPEN_ENDED" else 0

    def reasons(self) -> str:
        return f"half_open_ended {self._ended}"


@pytest.fixture(autouse=True)
def _no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_table, "inside_network", lambda name: nullcontext())


def flood(path: Any) -> full_table.Flood:
    return full_table.Flood(path, QUICK, 4)


def test_a_round_after_a_pause_is_sent_again() -> None:
    path = FakePath([9000, 3000, 0])
    [sample] = flood(path).measure()
    assert (path.rounds, sample.spent) == (3, 3.0)


def test_a_round_in_a_full_table_is_measured_at_once() -> None:
    path = FakePath([0])
    assert [sample.spent for sample in flood(path).measure()] == [1.0]


def test_a_table_that_never_fills_is_wrong() -> None:
    path = FakePath([9000] * 99)
    with pytest.raises(WrongPath, match=f"new_flood: .*: {ROUND - 9000} of {ROUND}: half_open_ended"):
        list(flood(path).measure())
