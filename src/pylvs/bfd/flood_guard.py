"""What the kernel drops while a flood of BFD packets arrives in the name of a neighbor. Pure.

A neighbor knows this host's discriminator, a random number; a host that forges packets does not. So packets with the
discriminator of a session always pass. All others share a budget. When it is used up, the kernel passes only packets
that can begin a session. When these are too many as well, it passes none of them for the rest of the slice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from pylvs.bfd.packet import BYTES, VERSION, State
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.system.sockets import DROP, EQUALS, LOAD_1, LOAD_4, NETWORK_HEADER, TAKE, Instruction

SLICE_S = 1.0
MOST = 128  # packets without the discriminator of a session in a slice, for each level
MOST_OF_SESSION = 4  # of them for each session, if these are more: one a second while the neighbor is down
QUEUED = 2048  # at most these are in the queue when the filter changes

# linux/bpf_common.h
_LOAD_LENGTH, _RIGHT, _AND, _AT_LEAST, _ANY_BIT = 0x80, 0x74, 0x54, 0x35, 0x45
_UDP_BYTES = 8
_VERSION_AT, _FLAGS_AT, _MULTIPLIER_AT, _LENGTH_AT, _MINE_AT, _YOURS_AT = (_UDP_BYTES + at for at in (0, 1, 2, 3, 4, 8))
_UNSUPPORTED = 0x05  # authenticated, multipoint
_SOURCE_AT = {4: 12, 6: 8}  # in the IP header
_MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS


@dataclass(frozen=True, slots=True)
class Known:
    """A session: its neighbor and discriminators; that of the neighbor is 0 unless the session is up."""

    neighbor: Address
    mine: int
    theirs: int = 0


def source_is(source: Address) -> list[Instruction]:
    """Return instructions that take packets from an address, and otherwise continue behind the last one."""
    return [*_unless_from(source, 1), TAKE]


def neighbor_filter(neighbors: Iterable[Address]) -> list[Instruction]:
    """Return a filter that drops packets from other sources; if they are too many for one, it takes all."""
    program = [each for neighbor in sorted(set(neighbors), key=int) for each in source_is(neighbor)]
    return [*program, DROP] if len(program) < _MOST_INSTRUCTIONS else [TAKE]


def session_filter(sessions: Iterable[Known], beginning: bool) -> list[Instruction]:
    """Return a filter that takes packets of these sessions; `beginning`: also those without a discriminator of ours.

    If they are too many for one filter, it takes none that begin a session; or else all that are well-formed.
    """
    several = list(sessions)
    program = [
        *_require(_LOAD_LENGTH, 0, _AT_LEAST, _UDP_BYTES + BYTES),
        (LOAD_1, 0, 0, _VERSION_AT),
        *_require(_RIGHT, 5, EQUALS, VERSION),
        *_require(LOAD_1, _LENGTH_AT, _AT_LEAST, BYTES),
        *_refuse(LOAD_1, _FLAGS_AT, _ANY_BIT, _UNSUPPORTED),
        *_refuse(LOAD_1, _MULTIPLIER_AT, EQUALS, 0),
        *_refuse(LOAD_4, _MINE_AT, EQUALS, 0),
        (LOAD_4, 0, 0, _YOURS_AT),
    ]
    for each in several:
        program += [(EQUALS, 0, 1, each.mine), TAKE]
    if len(program) >= _MOST_INSTRUCTIONS:
        return [*program[: -2 * len(several)], TAKE]
    if beginning:
        begins = [(EQUALS, 1, 0, 0), DROP, *_refuse(LOAD_1, _FLAGS_AT, _AT_LEAST, State.INIT << 6)]
        begins += [each for session in several for each in _begins(session)]
        if len(program) + len(begins) < _MOST_INSTRUCTIONS:
            program += begins
    return [*program, DROP]


def _require(load: int, at: int, comparison: int, operand: int) -> list[Instruction]:
    return [(load, 0, 0, at), (comparison, 1, 0, operand), DROP]


def _refuse(load: int, at: int, comparison: int, operand: int) -> list[Instruction]:
    return [(load, 0, 0, at), (comparison, 0, 1, operand), DROP]


def _begins(session: Known) -> list[Instruction]:
    """Take what may begin a session: while it is up, only from a neighbor that has forgotten our discriminator."""
    taken = [(LOAD_4, 0, 0, _MINE_AT), (EQUALS, 0, 1, session.theirs), TAKE] if session.theirs else [TAKE]
    return [*_unless_from(session.neighbor, len(taken)), *taken]


def _unless_from(source: Address, skipped: int) -> list[Instruction]:
    """Skip so many instructions for packets from other addresses."""
    parts = struct.unpack(f"!{len(source.packed) // 4}I", source.packed)
    at = NETWORK_HEADER + _SOURCE_AT[source.version]
    made: list[Instruction] = []
    for index, part in enumerate(parts):
        left = 2 * (len(parts) - index - 1) + skipped
        made += [(LOAD_4, 0, 0, at + 4 * index), (EQUALS, 0, left, part)]
    return made


class FloodGuard:
    """Counts the packets of one receiver that have no discriminator of a session. Times are those of a monotonic clock.

    Level 0 passes all packets of neighbors, 1 those of sessions and those that begin one, 2 those of sessions.
    """

    def __init__(self) -> None:
        self.level = 0
        self.sessions = 0
        self._count = 0
        self._queued = 0
        self._ends = float("-inf")

    @property
    def due(self) -> float | None:
        """When to call `wake`."""
        return self._ends if self.level else None

    def count(self, now: float) -> bool:
        """Count a packet; return whether the level changes. What was in the queue at the last change does not count."""
        if now >= self._ends:
            self._ends, self._count, self._queued = now + SLICE_S, 0, 0
        if self._queued:
            self._queued -= 1
            return False
        self._count += 1
        if self._count < max(MOST, MOST_OF_SESSION * self.sessions) or self.level == 2:
            return False
        self.level += 1
        self._count, self._queued = 0, QUEUED
        return True

    def emptied(self) -> None:
        """The queue is empty."""
        self._queued = 0

    def wake(self, now: float) -> None:
        """End what is over."""
        if now >= self._ends:
            self.level = 0
