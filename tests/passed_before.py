"""Long tests without clocks and chance: what passed is not played again while the code that it loads stays the same.

So `./dev test-all` continues after an interruption, and repeats no hours of simulation because of another file. Such a
test is a function with arguments, which `python -m tests.passed_before` calls in a process of its own. If it passes,
the process records the files of this tree that it has loaded, with their digests, in `.cache/dev/passed`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".cache" / "dev" / "passed"
PROPERTY = "passed_before"  # in junit's report, for tests/gate.py


def play(request: pytest.FixtureRequest, test: Callable[..., None], *arguments: int, folder: Path = FOLDER) -> None:
    """Call a function of a module in another process, unless it passed before."""
    name = _name(test.__module__, test.__qualname__, arguments)
    record = folder / hashlib.sha256(name.encode()).hexdigest()[:16]
    if _holds(record, name):
        request.node.user_properties.append((PROPERTY, "yes"))
        return
    command = [sys.executable, "-m", "tests.passed_before", str(record), test.__module__, test.__qualname__]
    done = subprocess.run([*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


def _name(module: str, function: str, arguments: Iterable[int]) -> str:
    return f"{module}.{function}({', '.join(map(str, arguments))})"


def _holds(record: Path, name: str) -> bool:
    """Return whether a record is of this Python, and of files that are still the same."""
    try:
        written = json.loads(record.read_text())
    except (OSError, ValueError):
        return False
    about = written["name"], written["python"]
    return about == (name, sys.version) and all(digest(ROOT / each) == was for each, was in written["files"].items())


def digest(path: Path) -> str:
    """Return a digest of a file; "" if it is missing."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def main(record: Path, module: str, function: str, *arguments: int) -> None:
    """Call the function, and write the record."""
    began = time.time() - 1  # the times of files are coarse
    getattr(importlib.import_module(module), function)(*arguments)
    files = [Path(each) for loaded in sys.modules.values() if (each := getattr(loaded, "__file__", None))]
    ours = [path for path in files if path.is_relative_to(ROOT) and ".venv" not in path.parts]
    if any(path.stat().st_mtime >= began for path in ours):
        return  # what was loaded may be another text than what is there now
    found = {str(path.relative_to(ROOT)): digest(path) for path in sorted(ours)}
    record.parent.mkdir(parents=True, exist_ok=True)
    draft = record.with_suffix(f".{began}")
    draft.write_text(json.dumps({"name": _name(module, function, arguments), "python": sys.version, "files": found}))
    draft.rename(record)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
