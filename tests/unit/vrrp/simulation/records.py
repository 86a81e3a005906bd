"""What the checker knows of each virtual router and packet, without the product's decoder and timers."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import Address
from pylvs.model.vrrp import OWNER, VrrpInstance
from pylvs.vrrp.protocol.adverts import Datagram
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.router import Router
from tests.unit.vrrp.simulation.host import Host

EPSILON_S = 1e-6
LATE_S = 0.02  # allowed delay of a take-over, to read the socket first
NEVER = float("inf")
AH_BYTES = 24

DeviceAddress = tuple[str, Address]


@dataclass(slots=True, eq=False)
class Sent:
    """An advertisement on the wire."""

    datagram: Datagram
    sender: Record
    term: int
    vrid: int
    priority: int
    interval_s: float
    family: int
    multicast: bool
    rank: tuple[int, int]  # priority and address, which decide between two masters

    def __str__(self) -> str:
        return f"VRID {self.vrid}, priority {self.priority}"


@dataclass(slots=True, eq=False)
class Record:
    """One virtual router of one host."""

    host: Host
    instance: VrrpInstance
    addresses: tuple[DeviceAddress, ...]
    needed_s: float  # for a round of announcements
    state: State = State.FAULT
    term: int = 0  # number of transitions
    conflicts: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)  # as master, by host
    interval_s: float = 0.0  # of the master that it follows
    armed: float = NEVER  # time of its take-over
    best: tuple[int, int] = (0, 0)  # priority and address of the best advertisement since a master left
    since: float = 0.0  # of its state, by its clock
    held_until: float = 0.0  # by an operator
    excused_until: float = 0.0
    preempt_at: float | None = None
    advertised_at: float = NEVER
    released_at: float = -NEVER  # when it last advertised priority 0
    beaten_at: float = -NEVER  # when it last read a better master's advertisement
    announced_at: dict[DeviceAddress, list[float]] = field(default_factory=dict)  # announcements of this term
    oldest: float = 0.0  # a lower bound of the last announcements of all addresses
    last_announced: dict[DeviceAddress, float] = field(default_factory=dict)  # of any term, by the simulation's time
    gave_way_at: float = -NEVER  # when it last became backup by a better advertisement, by the simulation's time
    gave_way_to: set[int] = field(default_factory=set)  # hosts to which the network delivered at that time
    provoked_at: list[float] = field(
        default_factory=list
    )  # when it read worse masters' advertisements, by the simulation's time
    owed: list[tuple[float, int]] = field(
        default_factory=list
    )  # deadlines, and the number of announcements of each address
    conflict_at: float = NEVER  # when it received a worse master's advertisement that is not answered yet

    def __str__(self) -> str:
        return f"{self.host.name} {self.instance.name}"

    @property
    def router(self) -> Router:
        return self.host.routers[self.instance.name]

    @property
    def now(self) -> float:
        return self.host.now

    @property
    def late_at(self) -> float:
        """The latest time of the take-over."""
        return max(self.armed, self.held_until, self.excused_until, self.host.resumed_at) + LATE_S

    def forget_announcements(self) -> None:
        self.announced_at.clear()
        self.oldest = 0.0

    def down_s(self, interval_s: float, priority: int) -> float:
        """Active_Down_Interval (6.1)."""
        return self.instance.down_after_adverts * interval_s + self.skew_s(interval_s, priority)

    def skew_s(self, interval_s: float, priority: int) -> float:
        """Skew_Time (6.1)."""
        return (256 - priority) / 256 * (interval_s if self.instance.version == 3 else 1.0)

    def arm(self, interval_s: float, priority: int) -> None:
        """Set the take-over to Active_Down_Interval from now."""
        self.interval_s = interval_s
        self.armed = self.now + self.down_s(interval_s, priority)

    def postpone(self, sent: Sent, interval_s: float, priority: int) -> None:
        """Do so because of an advertisement; that of a worse one than the best does not shorten the wait."""
        before = self.armed
        self.arm(interval_s, priority)
        if sent.rank < self.best:
            self.armed = max(self.armed, before)
        else:
            self.best = sent.rank


def priority_of(record: Record) -> int:
    """Return the effective priority by keepalived.conf(5)."""
    host = record.host
    base = next(i.priority for i in host.configuration.instances if i.name == record.instance.name)
    track = host.configuration.scripts[0].track
    if base == OWNER or not track.weight:
        return base
    points = 0
    if host.script_up == (track.weight > 0):
        points = -track.weight if track.reverse else track.weight
    return max(1, min(254, base + points))


def announced(frame: bytes) -> tuple[Address, bytes]:
    """Return the address and the link address of an announcement."""
    kind = int.from_bytes(frame[12:14])
    if kind == 0x0806:
        assert frame[28:32] == frame[38:42], "a gratuitous ARP has one address twice (RFC 5227, 3)"
        assert frame[:6] == b"\xff" * 6
        return IPv4Address(frame[28:32]), frame[22:28]
    assert kind == 0x86DD
    assert frame[54] == 136
    assert frame[58] & 0x20, "an unsolicited neighbour advertisement overrides (RFC 9568, 8.2.2)"
    return IPv6Address(frame[62:78]), frame[80:86]
