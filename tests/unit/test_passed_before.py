"""A long test that passed is played again only if the code that it loaded has changed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import passed_before

MODULE = "tests.unit.passing"


@pytest.fixture
def node_request() -> Any:
    """Return a stand-in: the true one would report these properties to the gate."""
    return SimpleNamespace(node=SimpleNamespace(user_properties=[]))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a tree with a function that counts its calls, and fails while a file exists."""
    (tmp_path / "tests/unit").mkdir(parents=True)
    for folder in "tests", "tests/unit":
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "tests/passed_before.py").write_text(Path(passed_before.__file__).read_text())
    (tmp_path / "tests/unit/loaded.py").write_text("")
    (tmp_path / "tests/unit/other.py").write_text("")
    (tmp_path / "tests/unit/passing.py").write_text(
        "from pathlib import Path\nimport tests.unit.loaded\n"
        "def count(number):\n    with Path('calls').open('a') as file: file.write(f'{number}\\n')\n"
        "    assert not Path('broken').exists(), 'it is broken'\n"
    )
    settle(tmp_path)
    monkeypatch.setattr(passed_before, "ROOT", tmp_path)
    return tmp_path


def count(number: int) -> None:
    """Stand for the function of that tree."""
    raise AssertionError(number)


count.__module__ = MODULE


def plays(node_request: Any, tree: Path, *numbers: int) -> list[int]:
    """Play the function with these arguments, and return with which ones it was called."""
    calls = tree / "calls"
    calls.write_text("")
    for number in numbers:
        passed_before.play(node_request, count, number, folder=tree / "passed")
    return [int(line) for line in calls.read_text().split()]


def settle(tree: Path) -> None:
    """Let the files be older than what runs now."""
    for path in tree.rglob("*.py"):
        os.utime(path, (1, 1))


def test_what_passed_is_not_played_again(node_request: Any, tree: Path) -> None:
    assert plays(node_request, tree, 1, 2, 1, 2, 3) == [1, 2, 3]
    assert node_request.node.user_properties == [(passed_before.PROPERTY, "yes")] * 2
    record = json.loads(next((tree / "passed").iterdir()).read_text())
    assert record["files"].keys() >= {"tests/unit/passing.py", "tests/unit/loaded.py"}
    assert "tests/unit/other.py" not in record["files"]


def test_a_change_of_what_it_loads_makes_it_play_again(node_request: Any, tree: Path) -> None:
    assert plays(node_request, tree, 1) == [1]
    (tree / "tests/unit/other.py").write_text("x = 1\n")
    assert plays(node_request, tree, 1) == []
    (tree / "tests/unit/loaded.py").write_text("x = 1\n")
    settle(tree)
    assert plays(node_request, tree, 1, 1) == [1]
    (tree / "tests/unit/passing.py").unlink()
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        plays(node_request, tree, 1)


def test_what_failed_is_played_again(node_request: Any, tree: Path) -> None:
    (tree / "broken").touch()
    with pytest.raises(AssertionError, match="it is broken"):
        plays(node_request, tree, 1)
    (tree / "broken").unlink()
    assert plays(node_request, tree, 1, 1) == [1]


def test_files_that_change_during_the_run_are_not_recorded(node_request: Any, tree: Path) -> None:
    later = Path(tree / "tests/unit/loaded.py")
    later.write_text("import os; os.utime(__file__)\n")
    assert plays(node_request, tree, 1, 1) == [1, 1]


def test_another_python_plays_it_again(node_request: Any, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plays(node_request, tree, 1) == [1]
    monkeypatch.setattr(sys, "version", "another")
    assert plays(node_request, tree, 1) == [1]
