"""The shortest sequence of steps that still shows a difference, and how to print it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.packet.fuzz.steps import Step

ATTEMPTS = 3000


def shortest(steps: Sequence[Step], differs_at: Callable[[Sequence[Step]], int | None]) -> list[Step]:
    """Leave out whatever can be left out (delta debugging).

    `differs_at` plays steps and tells at which they differ (len(steps): at the end), or None if they do not.
    """
    kept = list(steps)
    place = differs_at(kept)
    if place is None:
        return kept
    kept = kept[: place + 1]
    size, attempts = max(len(kept) // 2, 1), 0
    while attempts < ATTEMPTS:
        at, shrunk = 0, False
        while at < len(kept) and attempts < ATTEMPTS:
            fewer = kept[:at] + kept[at + size :]
            attempts += 1
            place = differs_at(fewer) if fewer else None
            if place is None:
                at += size
            else:
                kept, shrunk = fewer[: place + 1], True
        if size == 1 and not shrunk:
            break
        size = max(size // 2, 1)
    return kept


def told(steps: Sequence[Step]) -> str:
    """One line a step; frames in hexadecimal."""
    return "\n".join(f"  frame {step.hex()}" if isinstance(step, bytes) else f"  {step}" for step in steps)
