"""Long tests without clocks and chance: what passed with the same code is not played again.

So `./dev test-all` continues after an interruption, and repeats no hours of simulation if only other files changed.
What has passed is in `.cache/dev/passed`, by a digest of the code; delete that to play everything again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RANDOM

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".cache" / "dev" / "passed"
PROPERTY = "passed_before"  # in junit's report, for tests/gate.py


def play(request: pytest.FixtureRequest, test: Callable[[], None], folder: Path = FOLDER) -> None:
    """Run a test, unless it passed with the same code and the same Python before."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    record = folder / digest() / name
    if RANDOM not in os.environ and record.exists():
        request.node.user_properties.append((PROPERTY, "yes"))
        return
    test()
    record.parent.mkdir(parents=True, exist_ok=True)
    record.touch()


@functools.cache
def digest() -> str:
    """Return a digest of pylvs, of the simulations and what they import, and of Python."""
    code = [*(ROOT / "src" / "pylvs").rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    helpers = (ROOT / "tests" / "unit").rglob("*.py")
    code += [path for path in helpers if path.parent.name == "simulation" or not path.name.startswith("test_")]
    total = hashlib.sha256(sys.version.encode())
    for path in sorted(code):
        total.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
