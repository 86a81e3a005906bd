"""What the director does with a frame."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Verdict(Enum):
    """STACK: the host's own stack goes on with it ("accept"). SENT: the director sent frames of its own ("stolen")."""

    STACK = "stack"
    DROP = "drop"
    SENT = "sent"


class Outcome(NamedTuple):
    """A verdict; the frames sent, with the device each leaves by; or the frame that the stack gets."""

    verdict: Verdict
    sent: tuple[tuple[str, bytes], ...] = ()
    frame: bytes = b""
    why: str = ""


def dropped(why: str) -> Outcome:
    """Nothing leaves."""
    return Outcome(Verdict.DROP, why=why)


def left(frame: bytes, why: str = "") -> Outcome:
    """The stack's, as it came or as given."""
    return Outcome(Verdict.STACK, frame=frame, why=why)
