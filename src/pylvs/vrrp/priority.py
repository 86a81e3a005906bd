"""What is tracked, and what it makes of a priority: pure.

Each thing tracked is well, ill, or not known yet. With weight 0 it decides whether the virtual router may live at all;
a positive weight counts while it is well, a negative one while it is ill, and `reverse` turns the sign round, as in
keepalived. A file gives a number instead, which the weight multiplies.
"""

from __future__ import annotations

from collections.abc import Iterable

from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import OWNER, Track

LEAST, MOST = 1, OWNER - 1
DEEPEST = -254  # of a file's number times its weight: this, or less, is a fault


@dataclass(frozen=True, slots=True)
class Watched:
    """One thing as it stands. `well` None: not known yet; `number` is a file's."""

    kind: str  # interface, script, file, process, data plane
    track: Track
    well: bool | None = None
    number: int | None = None
    words: str = ""

    @property
    def known(self) -> bool:
        """Whether anything was found out about it."""
        return self.number is not None if self.kind == "file" else self.well is not None

    @property
    def fault(self) -> str:
        """Why the virtual router must not live, "" if it may. What is not known yet keeps it from its start."""
        if self.kind == "file":
            return self._fault_of_file()
        if self.track.weight or (self.well is not None and self.well != self.track.reverse):
            return ""
        return self.stands

    @property
    def bad(self) -> bool:
        """Whether it is known, and not as it should be."""
        return bool(self.points) if self.kind == "file" else self.well is not None and self.well == self.track.reverse

    @property
    def stands(self) -> str:
        """How it is, in words."""
        if self.kind == "file" and self.number is not None:
            return f"{self} says {self.number}"
        return f"{self} is {self._state()}{f' ({self.words})' if self.words else ''}"

    def _fault_of_file(self) -> str:
        if self.number is None:
            return "" if self.track.weight else f"{self} is not read yet"
        bad = bool(self.number) != self.track.reverse if not self.track.weight else self.points <= DEEPEST
        return self.stands if bad else ""

    @property
    def points(self) -> int:
        """What it adds to the priority."""
        weight = self.track.weight
        signed = -weight if self.track.reverse else weight
        if self.kind == "file":
            return (self.number or 0) * signed
        if self.well is None or not weight:
            return 0
        return signed if self.well == (weight > 0) else 0

    def _state(self) -> str:
        if self.well is None:
            return "not known yet"
        return "well" if self.well else "ill"

    def __str__(self) -> str:
        return f"{self.kind} {self.track.name}"


def effective(base: int, watched: Iterable[Watched]) -> int:
    """The priority with everything tracked taken into account; an owner's is its own."""
    if base == OWNER:
        return OWNER
    return max(LEAST, min(MOST, base + sum(each.points for each in watched)))


def reasons(watched: Iterable[Watched]) -> str:
    """Why a priority is not what it is while all is well, in words; "" if it is."""
    return "; ".join(each.stands for each in watched if each.track.weight and each.bad)


def faults(watched: Iterable[Watched]) -> list[str]:
    """Why a virtual router must not live, in words."""
    return [fault for each in watched if (fault := each.fault)]
