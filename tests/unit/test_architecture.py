"""The shape of the house: who may import whom, how long a file may be, what no file may say."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "pylvs"
LONGEST_FILE = 500  # lines
SOURCES = (".py", ".c", ".h", ".sh", ".toml", ".md", ".8", "")  # the empty one: dev, Makefile, scripts

# Which rooms a room may use, besides itself: downwards only.
MAY_USE: dict[str, set[str]] = {
    "model": set(),
    "reference": {"model"},
    "netfilter": {"model"},
    "testing": {"model"},
    "dataplane": {"model"},
    "host": {"dataplane", "model"},
    # These meet the data plane through the Director protocol of the model alone.
    "config": {"host", "model"},
    "health": {"host", "model"},
    "vrrp": {"host", "model"},
}
MIDDLE = {"config", "health", "vrrp", "host", "dataplane", "model"}
UPPER = {"ipvsadm", "daemon", "explain", "lab", "bench"}
MAY_USE |= dict.fromkeys(UPPER, MIDDLE)
MAY_USE["cli"] = MIDDLE | UPPER | {"netfilter", "reference"}

# What is written nowhere: unfinished business, places of one machine, what only somebody else can look up.
NEVER = {
    "an unfinished place": re.compile(r"\b(?:T[O]DO|F[I]XME|X[X]X)\b"),
    "a place of one machine": re.compile(r"(?<![\w}\]])/(?:home|root|work)/"),
    "a document that is not here": re.compile(r"\bD[E]SIGN\b"),
    "a tracker's number": re.compile(r"\bissue +#?\d", re.IGNORECASE),
}


def files() -> Iterator[Path]:
    """Every file of the tree that somebody wrote."""
    for at, folders, names in os.walk(ROOT):
        made = ("__pycache__", "objects", *(("build", "dist") if Path(at) == ROOT else ()))
        folders[:] = sorted(  # the others are not entered: .venv alone has more files than the tree
            name for name in folders if not name.startswith(".") and not name.endswith(".egg-info") and name not in made
        )
        for path in (Path(at, name) for name in sorted(names)):
            if path.suffix in SOURCES and path.is_file():
                yield path


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of each import of pylvs in a module, wherever in the module it stands."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            # `from pylvs import host` names a room by its alias, `from pylvs.host import x` by its module.
            names = [f"pylvs.{alias.name}" for alias in node.names] if node.module == "pylvs" else [node.module or ""]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package == "pylvs" and (PACKAGE / room).is_dir() and room:
                yield node.lineno, room


def modules() -> list[Path]:
    """Every module of the package that lives in a room."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards_only(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    assert room in MAY_USE, f"{room} is a new room: say in MAY_USE what it may use"
    wrong = [
        f"{path}:{line}: {room} uses {used}"
        for line, used in imported_rooms(path)
        if used not in {room, *MAY_USE[room]}
    ]
    assert not wrong, "\n".join(wrong)


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "from pylvs import cli\ndef late():\n    import pylvs.dataplane.director\n    import pylvsx.cli\n"
    )
    assert list(imported_rooms(module)) == [(1, "cli"), (3, "dataplane")]


def test_no_file_is_longer_than_one_subject_needs() -> None:
    long = {path: path.read_text().count("\n") for path in files() if path.suffix in (".py", ".c", ".h", ".sh", "")}
    assert not [f"{path}: {lines} lines" for path, lines in long.items() if lines >= LONGEST_FILE]


def test_no_file_says_what_is_written_nowhere() -> None:
    found = []
    for path in files():
        text = path.read_text()
        for what, pattern in NEVER.items():
            found += [f"{path}:{text.count(chr(10), 0, at.start()) + 1}: {what}" for at in pattern.finditer(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pylvs.ipvsadm.main", "asyncio click rich pyroute2 hypothesis typing_extensions email http"),
        ("pylvs.cli.main", "asyncio rich pyroute2 pylvs.dataplane pylvs.lab"),
    ],
)
def test_a_command_starts_without_what_it_may_not_need(module: str, heavy: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {heavy.split()} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
