"""A long test that passed is played again only if the code has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import passed_before
from tests.conftest import RANDOM


@pytest.fixture(autouse=True)
def not_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RANDOM, raising=False)


def test_what_passed_is_not_played_again_with_the_same_code(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[str] = []
    for digest in ("old", "old", "new"):
        monkeypatch.setattr(passed_before, "digest", lambda digest=digest: digest)
        passed_before.play(request, lambda digest=digest: played.append(digest), tmp_path)  # type: ignore[misc]
    assert played == ["old", "new"]
    assert request.node.user_properties == [(passed_before.PROPERTY, "yes")]


def test_what_failed_is_played_again(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    played: list[int] = []

    def fails_once() -> None:
        played.append(1)
        assert len(played) > 1

    with pytest.raises(AssertionError):
        passed_before.play(request, fails_once, tmp_path)
    passed_before.play(request, fails_once, tmp_path)
    passed_before.play(request, fails_once, tmp_path)
    assert len(played) == 2


def test_random_seeds_are_always_played(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RANDOM, "1")
    played: list[int] = []
    for _ in range(2):
        passed_before.play(request, lambda: played.append(1), tmp_path)
    assert len(played) == 2


def test_a_change_of_the_code_changes_the_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(passed_before, "ROOT", tmp_path)
    digests = [passed_before.digest.__wrapped__()]
    for name in (
        "src/pylvs/vrrp/loop.py",
        "tests/unit/vrrp/simulation/test_simulation.py",
        "tests/unit/health/clock.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
        digests.append(passed_before.digest.__wrapped__())
    (tmp_path / "tests/unit/health/test_tcp.py").write_text("x = 1\n")
    assert passed_before.digest.__wrapped__() == digests[-1], "tests do not change what is simulated"
    assert len(set(digests)) == len(digests)
