"""Find the shortest sequence of steps that still shows a difference, and print it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.packet.fuzz.steps import Step

ATTEMPTS = 3000


def shortest(steps: Sequence[Step], differs_at: Callable[[Sequence[Step]], int | None]) -> list[Step]:
    """Remove steps that are not needed (delta debugging).

    `differs_at` plays steps and returns where they differ (len(steps): at the end), or None.
    """
    kept = list(steps)
    end = differs_at(kept)
    if end is None:
        return kept
    kept = kept[: end + 1]
    size, attempts = max(len(kept) // 2, 1), 0
    while attempts < ATTEMPTS:
        at, shrunk = 0, False
        while at < len(kept) and attempts < ATTEMPTS:
            fewer = kept[:at] + kept[at + size :]
            attempts += 1
            end = differs_at(fewer) if fewer else None
            if end is None:
                at += size
            else:
                kept, shrunk = fewer[: end + 1], True
        if size == 1 and not shrunk:
            break
        size = max(size // 2, 1)
    return kept


def describe(steps: Sequence[Step]) -> str:
    """Return one line for each step; frames in hexadecimal."""
    return "\n".join(f"  frame {step.hex()}" if isinstance(step, bytes) else f"  {step}" for step in steps)
