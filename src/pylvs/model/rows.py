"""Rows that a Director returns: services, destinations, statistics, and devices that are not attached."""

from __future__ import annotations

from collections.abc import Mapping
from operator import add, attrgetter, sub

from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Destination, ServiceKey, VirtualService

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    class Reports(Protocol):
        """The part of a Director that reports devices, whose protocol imports this module."""

        def device_problems(self) -> Sequence[DeviceProblem]: ...


FORWARDED, PASSED, DROPPED, HELD, NOTE = "forwarded", "passed", "dropped", "held", "note"
VERDICTS = FORWARDED, PASSED, DROPPED, HELD  # of packets, in the order of listings
_REFUSED = "refused "  # the reasons of bpf/abi/base.h begin so


@dataclass(frozen=True, slots=True)
class Counters:
    """Events of a service or destination since the last `-Z`; bytes are whole IP packets, before encapsulation.

    IPVS-SEMANTICS 9.
    """

    connections: int = 0
    in_packets: int = 0
    out_packets: int = 0
    in_bytes: int = 0
    out_bytes: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*map(add, in_order(self), in_order(other)))

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*map(sub, in_order(self), in_order(other)))


in_order = attrgetter("connections", "in_packets", "out_packets", "in_bytes", "out_bytes")


@dataclass(frozen=True, slots=True)
class Rates(Counters):
    """The same per second, by the estimator (IPVS-SEMANTICS 9.3)."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """The cost of expired connections; `runs` are those of the expiry timer, each of which occupies one CPU."""

    connections: int
    runs: int
    spent_s: float
    longest_s: float  # of one run


@dataclass(frozen=True, slots=True)
class TimerRuns:
    """The runs of a timer of the packet path; packets of its CPU wait for each."""

    timer: str
    lengths: tuple[tuple[float, int], ...]  # numbers of runs that were shorter than so many seconds
    spent_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class TableUse:
    """How full the connection table is: connections and templates, and the half-open ones among them."""

    capacity: int
    used: int
    half_open: int

    @property
    def fill(self) -> float:
        """The used share of the table, 0 without a table."""
        return self.used / max(self.capacity, 1)

    @property
    def half_open_share(self) -> float:
        """The share of half-open connections in all."""
        return self.half_open / max(self.used, 1)


@dataclass(frozen=True, slots=True)
class HookPackets:
    """Packets that each hook forwarded."""

    xdp: int
    tc: int

    @property
    def xdp_share(self) -> float:
        """Return the part that XDP forwarded, from 0 to 1."""
        return self.xdp / max(self.xdp + self.tc, 1)


@dataclass(frozen=True, slots=True)
class DeviceEnds:
    """What became of the packets that an attached device received.

    `received` is the kernel's own count since the device was attached: from the first to the second number, because
    packets come while both are read. It is None if pylvs does not know it.
    """

    device: str
    received: tuple[int, int] | None
    forwarded: HookPackets
    passed: int
    dropped: int
    held: int

    @property
    def counted(self) -> int:
        """Return the packets whose end was counted."""
        return self.forwarded.xdp + self.forwarded.tc + self.passed + self.dropped + self.held

    @property
    def difference(self) -> int | None:
        """Return how many packets the kernel has received that were not counted; negative if it received fewer."""
        if self.received is None:
            return None
        least, most = self.received
        return min(most - self.counted, 0) or max(least - self.counted, 0)


@dataclass(frozen=True, slots=True)
class ServiceEnd:
    """How many packets of a service ended by a reason."""

    service: ServiceKey
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Ends:
    """What became of packets: by attached device, by reason, and by service and reason."""

    devices: tuple[DeviceEnds, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    services: tuple[ServiceEnd, ...] = ()


@dataclass(frozen=True, slots=True)
class PacketCounts:
    """Packets by reason, without forwarded ones; how full the connection table is; other counters, and totals."""

    reasons: Mapping[str, int] = field(default_factory=dict)
    use: TableUse | None = None
    expiry: Expiry | None = None
    timers: tuple[TimerRuns, ...] = ()
    totals: Counters = Counters()  # of all present and former services, as in /proc/net/ip_vs_stats
    forwarded: Mapping[str, HookPackets] = field(default_factory=dict)  # by ingress device, for those that there are
    verdicts: Mapping[str, str] = field(default_factory=dict)  # of the reasons and of forwarded packets, by name
    all_forwarded: HookPackets = HookPackets(0, 0)  # by devices that are gone, too: it only grows


def refusals(reasons: Mapping[str, int]) -> dict[str, int]:
    """Return those of all drop reasons for which new connections got no entry in the table."""
    return {name.removeprefix(_REFUSED): count for name, count in reasons.items() if name.startswith(_REFUSED)}


@dataclass(frozen=True, slots=True)
class Handshakes:
    """Handshakes that clients began, and how many of them were completed."""

    begun: int = 0
    completed: int = 0

    def __add__(self, other: Handshakes) -> Handshakes:
        return Handshakes(self.begun + other.begun, self.completed + other.completed)

    @property
    def share(self) -> float:
        """The completed part, 1 of none."""
        return self.completed / self.begun if self.begun else 1.0

    def __str__(self) -> str:
        return f"{self.completed} of {self.begun} handshakes"


@dataclass(frozen=True, slots=True)
class DestinationRow:
    """A destination with its connections, counters and rates."""

    destination: Destination
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    counters: Counters = Counters()
    rates: Rates = Rates()


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A service with its destinations in list order, the newest first (IPVS-SEMANTICS 1.6)."""

    service: VirtualService
    destinations: tuple[DestinationRow, ...] = ()
    counters: Counters = Counters()
    rates: Rates = Rates()


@dataclass(frozen=True, slots=True)
class DeviceProblem:
    """A device that cannot run the packet path, with the reason. `needed`: services or servers depend on it.

    `attached`: it runs the packet path, but lacks a feature. `by_hand`: the operator has detached it.
    """

    device: str
    reason: str
    needed: bool
    attached: bool = False
    by_hand: bool = False

    def __str__(self) -> str:
        return f"{self.device}{'' if self.attached else ' is not attached'}: {self.reason}"


def unattached(director: Reports) -> list[str]:
    """Describe the devices that services or real servers need, and that are not attached."""
    return [str(each) for each in director.device_problems() if each.needed]


def refused(director: Reports) -> list[str]:
    """Describe those of these devices that the last edit could not attach."""
    return [str(each) for each in director.device_problems() if each.needed and not each.by_hand]


def warnings(director: Reports) -> list[str]:
    """Describe what the last edit could not do for devices that matter to an operator."""
    return [str(each) for each in director.device_problems() if (each.needed and not each.by_hand) or each.attached]
