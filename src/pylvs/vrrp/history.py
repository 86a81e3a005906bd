"""What a virtual router went through: its last transitions with their reasons."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from pylvs.model.dataclass import dataclass
from pylvs.vrrp.machine import Become, State, Why

KEPT = 64  # transitions


@dataclass(frozen=True, slots=True)
class Transition:
    """One of them; `at` is wall clock."""

    at: float
    before: State
    state: State
    why: Why
    detail: str
    priority: int

    def sentence(self) -> str:
        """Why, in words."""
        return f"{self.why.value}: {self.detail}" if self.detail else self.why.value

    def told(self) -> dict[str, Any]:
        """For those who ask."""
        return {
            "time": self.at,
            "before": self.before.value,
            "state": self.state.value,
            "why": self.why.value,
            "detail": self.detail,
            "priority": self.priority,
        }


class History:
    """The last of them, and how often each state was entered."""

    def __init__(self) -> None:
        self.transitions: deque[Transition] = deque(maxlen=KEPT)
        self.entered: Counter[State] = Counter()

    def note(self, at: float, become: Become, priority: int) -> Transition:
        """One more."""
        transition = Transition(at, become.before, become.state, become.why, become.detail, priority)
        self.transitions.append(transition)
        self.entered[become.state] += 1
        return transition

    @property
    def last(self) -> Transition | None:
        """The newest."""
        return self.transitions[-1] if self.transitions else None
