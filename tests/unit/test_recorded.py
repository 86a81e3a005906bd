"""A recorded answer is for its question alone, and the guest is asked where a test says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.recorded import FOLDER, RECORD, answer
from tests.conftest import EVERYTHING


class Guest:
    """Answers with its number of questions."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self) -> Any:
        self.asked += 1
        return {"asked": self.asked}


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    """Return a guest that has answered question 1, which was recorded."""
    for name in "CI", EVERYTHING:
        monkeypatch.delenv(name, raising=False)
    guest = Guest()
    monkeypatch.setenv(RECORD, "1")
    assert answer("one", [1], guest.ask, tmp_path) == {"asked": 1}
    monkeypatch.delenv(RECORD)
    return guest


@pytest.mark.parametrize("ci", ["", "true"])
def test_the_recorded_question_needs_no_guest(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    assert answer("one", [1], guest.ask, tmp_path) == {"asked": 1}
    assert guest.asked == 1


@pytest.mark.parametrize("name", ["one", "not recorded"])
def test_another_question_is_asked_but_fails_on_ci(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert answer(name, [2], guest.ask, tmp_path) == {"asked": 2}
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError, match=f"{name}.json.xz answers another question: record .* {RECORD}=1"):
        answer(name, [2], guest.ask, tmp_path)


def test_everything_asks_the_guest_and_leaves_the_recording(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / "one.json.xz").read_bytes()
    monkeypatch.setenv(EVERYTHING, "1")
    assert answer("one", [1], guest.ask, tmp_path) == {"asked": 2}
    assert (tmp_path / "one.json.xz").read_bytes() == before


def test_each_recording_is_used() -> None:
    tests = "".join(path.read_text() for path in (FOLDER.parents[1] / "interop").glob("test_*.py"))
    assert [path.name for path in FOLDER.iterdir() if f'"{path.name.removesuffix(".json.xz")}"' not in tests] == []
