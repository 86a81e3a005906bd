"""Waiting for what happens by itself, at whatever pace the machine has."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 120.0  # no measure of anything: a machine that needs longer is taken for stuck
_PAUSE_S = 0.02


def until(holds: Callable[[], object], what: str) -> None:
    """Return once the predicate holds. Raises AssertionError that names what was awaited."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"waited {PATIENCE_S:.0f} s in vain for {what}"
        time.sleep(_PAUSE_S)
