"""FILE_CHECK: the meaning of numbers, as measured with keepalived 2.2.7."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.health.checkers.file import judge_number, number_in
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import FileCheck
from tests.shortages import SHORTAGES, failing
from tests.unit.health.fake_servers import undisturbed


def read(path: Path, weight: int = 1, reverse: bool = False, configured: int = 10) -> Outcome:
    async def main() -> Outcome:
        return await probe_of(
            FileCheck(path=str(path), weight=weight, reverse=reverse), CheckContext(weight=configured)
        )()

    return undisturbed(main)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5\n", 5),
        ("-5", -5),
        ("+7", 7),
        ("  8", 8),
        (" 4 x", 4),
        ("9\n3", 9),
        ("0x10", 16),
        ("010", 8),
        ("089", 0),
        ("1e3", 1),
        ("", 0),
        ("abc", 0),
        ("- 5", 0),
        ("\xff", 0),
    ],
)
def test_a_number_is_read_as_keepalived_reads_it(tmp_path: Path, text: str, number: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(text.encode("latin-1"))
    assert number_in(text.encode("latin-1")) == number
    expected = Outcome(
        True, f"{number} in {path}: weight {max(10 + number, 0)}", max(10 + number, 0) if number else None
    )
    assert read(path) == expected


@pytest.mark.parametrize(
    ("number", "weight", "reverse", "ok", "becomes"),
    [
        (5, 1, False, True, 15),
        (-5, 1, False, True, 5),
        (-10, 1, False, True, 0),
        (-20, 1, False, True, 0),
        (-300, 1, False, True, 0),
        (5, 2, True, True, 0),
        (-5, 2, True, True, 20),
        (3, -2, False, True, 4),
        (70_000, 1, False, True, 70_010),
        (2**31 - 1, 3, False, True, 2**31 - 1),
        (-(2**31), 1, False, False, None),
        (-1_000_000_000, 3, False, False, None),
        (0, 0, False, True, None),
        (1, 0, False, False, None),
        (-1, 0, False, False, None),
        (0, 0, True, False, None),
        (1, 0, True, True, None),
    ],
)
def test_the_number_decides_state_and_weight(
    number: int, weight: int, reverse: bool, ok: bool, becomes: int | None
) -> None:
    outcome = judge_number(number, FileCheck(path="/f", weight=weight, reverse=reverse), 10)
    assert (outcome.ok, outcome.weight) == (ok, becomes)


def test_a_missing_file_counts_as_0(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    reason = f"no such file or directory: {path} counts as 0"
    assert read(path) == Outcome(True, reason)
    assert read(path, weight=0) == Outcome(True, reason)
    assert read(path, weight=0, reverse=True) == Outcome(False, reason)
    assert read(tmp_path) == Outcome(True, f"is a directory: {tmp_path} counts as 0")


@pytest.mark.parametrize("number", SHORTAGES)
def test_without_descriptors_or_memory_the_outcome_is_inconclusive(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    monkeypatch.setattr(os, "open", failing(number))
    outcome = read(path, weight=0)
    assert (outcome.inconclusive, outcome.weight) == (True, None)
    assert outcome.reason.endswith(f": {path} is not read")


def test_a_pipe_without_a_writer_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert read(tmp_path / "pipe").ok


def test_a_number_out_of_range_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("-99999999999")
    expected = f"-99999999999 in {path} is out of range and is ignored"
    assert read(path) == Outcome(False, expected, inconclusive=True)


@given(st.binary(max_size=100), st.integers(-(2**31), 2**31), st.booleans(), st.integers(0, 2**31 - 1))
def test_no_content_makes_the_checker_fail(text: bytes, weight: int, reverse: bool, configured: int) -> None:
    outcome = judge_number(number_in(text), FileCheck(path="/f", weight=weight, reverse=reverse), configured)
    assert outcome.weight is None or 0 <= outcome.weight < 2**31
