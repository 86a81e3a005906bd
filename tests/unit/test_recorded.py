"""A recorded answer is for its question alone, and the guest is asked where a test says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conformance.recorded import FOLDER, RECORD, answer
from tests.conformance.script import why_no_guest
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
    assert answer("one", [1], guest.ask, folder=tmp_path) == {"asked": 1}
    monkeypatch.delenv(RECORD)
    return guest


@pytest.mark.parametrize("ci", ["", "true"])
def test_the_recorded_question_needs_no_guest(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    assert answer("one", [1], guest.ask, folder=tmp_path) == {"asked": 1}
    assert guest.asked == 1


@pytest.mark.parametrize("name", ["one", "not recorded"])
def test_another_question_is_asked_but_fails_on_ci(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert answer(name, [2], guest.ask, folder=tmp_path) == {"asked": 2}
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError, match=f"{name}.json.xz answers another question: record .* {RECORD}=1"):
        answer(name, [2], guest.ask, folder=tmp_path)


def test_everything_asks_the_guest_and_leaves_the_recording(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / "one.json.xz").read_bytes()
    monkeypatch.setenv(EVERYTHING, "1")
    assert answer("one", [1], guest.ask, folder=tmp_path) == {"asked": 2}
    assert (tmp_path / "one.json.xz").read_bytes() == before


def test_each_recording_is_used() -> None:
    tests = "".join(path.read_text() for path in (FOLDER.parents[1] / "interop").glob("test_*.py"))
    assert [path.name for path in FOLDER.iterdir() if f'"{path.name.removesuffix(".json.xz")}"' not in tests] == []


@pytest.mark.parametrize("everything", [False, True])
def test_a_test_is_skipped_only_if_it_needs_a_guest_that_is_missing(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everything: bool
) -> None:
    if everything:
        monkeypatch.setenv(EVERYTHING, "1")
        with pytest.raises(pytest.skip.Exception, match="no guest here"):
            answer("one", [1], guest.ask, "no guest here", tmp_path)
    else:
        assert answer("one", [1], guest.ask, "no guest here", tmp_path) == {"asked": 1}
        with pytest.raises(pytest.skip.Exception, match="no guest here"):
            answer("one", [2], guest.ask, "no guest here", tmp_path)
    assert guest.asked == 1


def test_what_a_guest_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [tmp_path / name for name in ("linux.uml", "a-program")]
    for program in programs:
        program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_no_guest("a-program") == ""
    assert why_no_guest("b-program") == "needs b-program"
    assert why_no_guest("a-program", "c-program", "b-program") == "needs c-program and b-program"
