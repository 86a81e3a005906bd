"""Which advertisements the kernel drops before this process sees them: a flood must not keep the loop busy. Pure.

Anyone on the link can send advertisements, and this process has a real-time priority. So it reads so many of each VRID
in a slice of time. Until the slice ends, the kernel then passes only what can matter. That is priority 0, priorities
that are at least this router's, and what comes from the master that it follows. If these are too many as well, it
passes none: each slice has brought some.

Of VRIDs that are not configured it passes a few a second, which status counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.system.sockets import DROP, EQUALS, LOAD_1, LOAD_4, NETWORK_HEADER, TAKE, Instruction

SLICE_S = 0.1
MOST_IN_SLICE = 32  # of one VRID; the shortest interval of an advertisement is a tenth of a slice
MOST_RELEVANT = 2 * MOST_IN_SLICE  # with those of before
MOST_MASTERS = 16  # of one VRID; a jump over a block has 8 bits
MOST_INSTRUCTIONS = 1000  # of all restricted VRIDs; the kernel limits filters by net.core.optmem_max
FOREIGN_S = 1.0
MOST_FOREIGN = 10  # in that time, of all VRIDs that are not configured

# linux/bpf_common.h
LOAD_X_IPV4_HEADER = 0xB1  # BPF_LDX | BPF_B | BPF_MSH: X is the length of the IPv4 header
LOAD_1_FROM_X = 0x50  # BPF_LD | BPF_B | BPF_IND
AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
VRID_AT, PRIORITY_AT = 1, 2  # in an advertisement
IPV4_SOURCE_AT, IPV6_SOURCE_AT, IPV6_DESTINATION_AT = 12, 8, 24
MULTICAST6 = 0xFF  # the first byte of such an address


@dataclass(frozen=True, slots=True)
class Relevant:
    """What can matter to the routers of a VRID: advertisements of this priority or more, and of these masters."""

    priority: int
    masters: tuple[Address, ...] = ()


Admission = Relevant | bool  # of one VRID; True: all


def program(
    family: int, offset: int, vrids: Mapping[int, Admission], foreign: bool, multicast: bool = True
) -> list[Instruction]:
    """Return the filter of a raw socket, whose data begin with the IPv4 header, or behind the IPv6 header.

    Where more VRIDs are restricted than fit, the filter passes nothing of the others until the slice ends.
    `offset` is that of the advertisement behind the IP header. `foreign` admits other VRIDs. Without `multicast` an
    IPv6 socket receives unicast alone.
    """
    made: list[Instruction] = []
    if family == 6 and not multicast:
        made += [(LOAD_1, 0, 0, NETWORK_HEADER + IPV6_DESTINATION_AT), (EQUALS, 0, 1, MULTICAST6), DROP]
    load = LOAD_1_FROM_X if family == 4 else LOAD_1
    if family == 4:
        made.append((LOAD_X_IPV4_HEADER, 0, 0, 0))
    made.append((load, 0, 0, offset + VRID_AT))
    left = MOST_INSTRUCTIONS
    for vrid, admission in sorted(vrids.items()):
        block = _block(family, (load, 0, 0, offset + PRIORITY_AT), admission)
        if len(block) > 1:
            left -= len(block) + 1
            block = block if left > 0 else [DROP]
        made += [(EQUALS, 0, len(block), vrid), *block]
    return [*made, TAKE if foreign else DROP]


def _block(family: int, load_priority: Instruction, admission: Admission) -> list[Instruction]:
    if not isinstance(admission, Relevant):
        return [TAKE if admission else DROP]
    block = [load_priority, (EQUALS, 0, 1, 0), TAKE, (AT_LEAST, 0, 1, admission.priority), TAKE]
    for master in admission.masters[:MOST_MASTERS]:
        block += _from(family, master)
    return [*block, DROP]


def _from(family: int, source: Address) -> Iterable[Instruction]:
    """Take what comes from this address."""
    at = IPV4_SOURCE_AT if family == 4 else NETWORK_HEADER + IPV6_SOURCE_AT
    octets = source.packed
    parts = [int.from_bytes(octets[start : start + 4], "big") for start in range(0, len(octets), 4)]
    for number, part in enumerate(parts):
        rest = 2 * (len(parts) - number - 1) + 1  # the other parts, and TAKE
        yield LOAD_4, 0, 0, at + 4 * number
        yield EQUALS, 0, rest, part
    yield TAKE


class FloodGuard:
    """Counts what one socket receives. Times are seconds of a monotonic clock; call `wake` at `due`."""

    def __init__(self, vrids: Collection[int]) -> None:
        self.due: float | None = None  # None: nothing is restricted
        self.foreign = True
        self.levels: dict[int, int] = {}  # restricted VRIDs: 1 relevant ones alone, 2 none
        self._vrids = frozenset(vrids)
        self._counts: Counter[int] = Counter()
        self._foreign_count = 0
        self._slice_ends = self._foreign_ends = float("-inf")

    def count(self, vrid: int, now: float) -> bool:
        """Count an advertisement; return whether the filter changes."""
        if vrid not in self._vrids:
            if now >= self._foreign_ends:
                self._foreign_ends, self._foreign_count = now + FOREIGN_S, 0
            self._foreign_count += 1
            if self._foreign_count < MOST_FOREIGN or not self.foreign:
                return False
            self.foreign = False
        else:
            if now >= self._slice_ends:
                self._slice_ends = now + SLICE_S
                self._counts.clear()
            self._counts[vrid] = count = self._counts[vrid] + 1
            level = (count >= MOST_IN_SLICE) + (count >= MOST_RELEVANT)
            if level <= self.levels.get(vrid, 0):
                return False
            self.levels[vrid] = level
        self._set_due()
        return True

    def wake(self, now: float) -> bool:
        """End what is over; return whether the filter changes."""
        before = self.foreign, bool(self.levels)
        if now >= self._foreign_ends:
            self.foreign = True
        if now >= self._slice_ends:
            self.levels.clear()
        self._set_due()
        return before != (self.foreign, bool(self.levels))

    def _set_due(self) -> None:
        times = [] if self.foreign else [self._foreign_ends]
        times += [self._slice_ends] if self.levels else []
        self.due = min(times, default=None)
