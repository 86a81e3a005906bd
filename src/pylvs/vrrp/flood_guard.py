"""How many advertisements this process reads in a slice of time, before the kernel drops the rest of the slice. Pure.

This process has a real-time priority, so a flood must not keep its loop busy. Each Kind has a budget of its own. What
the kernel does not verify has a socket and a guard of its own. So a host without the password uses up no budget of a
master.
"""

from __future__ import annotations

from collections import Counter
from enum import IntEnum

from pylvs.vrrp.advert_filter import Admission, Relevant

SLICE_S = 0.1
MOST_IN_SLICE = 32  # of one VRID and kind; the shortest interval of an advertisement is a tenth of a slice
MOST_VOID = 2500  # of one VRID in a slice: only verifying tells a forged digest of AH from a right one
UNVERIFIED_S = 1.0
MOST_UNVERIFIED = 128  # in that time, of all VRIDs of a socket
MOST_FOREIGN = 10  # of them, of VRIDs that are not configured


class Kind(IntEnum):
    """What the process does with an advertisement that the kernel has passed."""

    LOWER = 0  # it cannot matter
    FOLLOWED = 1  # of lower priority, but of a master that this router follows
    PREVAILING = 2  # it restarts a backup's timer, ends a mastership, or starts one
    VOID = 3  # invalid, or this router's own


_NONE = 3
_LEVELS = {Kind.LOWER: 1, Kind.FOLLOWED: 2, Kind.PREVAILING: _NONE, Kind.VOID: _NONE}


class VerifiedGuard:
    """Counts what the socket of verified advertisements receives. Times are seconds of a monotonic clock.

    A VRID is restricted to the kinds that have not used up their budget. If the last of them has, the slice has brought
    enough of what could still matter.
    """

    def __init__(self) -> None:
        self.levels: dict[int, int] = {}  # of restricted VRIDs
        self._counts: Counter[tuple[int, Kind]] = Counter()
        self._slice_ends = float("-inf")

    @property
    def due(self) -> float | None:
        """When to call `wake`."""
        return self._slice_ends if self.levels else None

    def count(self, vrid: int, kind: Kind, now: float) -> bool:
        """Count an advertisement; return whether the filter changes."""
        if now >= self._slice_ends:
            self._slice_ends = now + SLICE_S
            self._counts.clear()
        self._counts[vrid, kind] += 1
        if self._counts[vrid, kind] < (MOST_VOID if kind is Kind.VOID else MOST_IN_SLICE):
            return False
        level = _LEVELS[kind]
        if level <= self.levels.get(vrid, 0):
            return False
        self.levels[vrid] = level
        return True

    def admission(self, vrid: int, relevant: Relevant) -> Admission:
        """Return what the kernel passes of a VRID; `relevant` is what can matter to its routers."""
        level = self.levels.get(vrid, 0)
        if level in (0, _NONE):
            return level == 0
        return relevant if level == 1 else Relevant(relevant.priority)

    def wake(self, now: float) -> None:
        """End what is over."""
        if now >= self._slice_ends:
            self.levels.clear()


class UnverifiedGuard:
    """Counts what the other socket receives, which only status and the log show."""

    def __init__(self) -> None:
        self.open = self.foreign = True
        self._count = self._foreign_count = 0
        self._ends = float("-inf")

    @property
    def due(self) -> float | None:
        """When to call `wake`."""
        return None if self.open and self.foreign else self._ends

    def count(self, foreign: bool, now: float) -> bool:
        """Count an advertisement; return whether the filter changes."""
        if now >= self._ends:
            self._ends, self._count, self._foreign_count = now + UNVERIFIED_S, 0, 0
        before = self.open, self.foreign
        self._count += 1
        self._foreign_count += foreign
        self.open = self._count < MOST_UNVERIFIED
        self.foreign = self._foreign_count < MOST_FOREIGN
        return before != (self.open, self.foreign)

    def wake(self, now: float) -> None:
        """End what is over."""
        if now >= self._ends:
            self.open = self.foreign = True
