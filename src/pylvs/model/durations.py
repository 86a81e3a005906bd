"""The limit of times that an operator gives: no clock and no wait of the kernel overflows below it."""

from __future__ import annotations

from pylvs.model.errors import OutOfRange

MAX_DAYS = 366
MAX_DURATION_S = MAX_DAYS * 86400


def checked_duration(name: str, duration_s: float) -> float:
    """Return the seconds. Raises OutOfRange."""
    if not 0 <= duration_s <= MAX_DURATION_S:  # which refuses NaN, too
        raise OutOfRange(f"{name}: must be from 0 to {MAX_DURATION_S}")
    return duration_s
