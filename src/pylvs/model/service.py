"""Virtual services, their schedulers, timeouts and flags (IPVS-SEMANTICS 1.1 to 1.4)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from ipaddress import IPv4Address

from pylvs.model import sockets as socket
from pylvs.model.addresses import ANY_V4, ANY_V6, Address, endpoint, family_of
from pylvs.model.dataclass import dataclass

DEFAULT_SCHEDULER = "wlc"
NO_SCHEDULER = "none"  # a service without one: every new connection finds no destination
NAME_LENGTH = 15  # longer names are cut, as ipvsadm does

# All schedulers of IPVS, in the order of their numbers in `bpf/abi/config.h`.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "dh", "sh", "mh", "lblc", "lblcr")


def scheduler_number(name: str) -> int:
    """Return the data plane's number of a scheduler; 0 is "none". Raises ValueError."""
    if name == NO_SCHEDULER:
        return 0
    return SCHEDULERS.index(name) + 1


def scheduler_name(number: int) -> str:
    """Return the inverse of `scheduler_number`."""
    return SCHEDULERS[number - 1] if number else NO_SCHEDULER


LONGEST_S = 2678400  # ipvsadm's limit: 31 days


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds without packets after which a connection expires: established TCP, TCP after a FIN, UDP.

    `ipvsadm --set` changes them (IPVS-SEMANTICS 4.4).
    """

    tcp_s: int = 900
    tcp_fin_s: int = 120
    udp_s: int = 300


# The firewall marks of checks through a virtual address (`via_vip`): each stands for one real server. They apply only
# to packets of the director's own sockets, not to received packets. BPF has the same numbers. `ipvsadm` does not list
# their services.
FIRST_PROBE_MARK = 0x50560000
PROBE_MARK_MASK = 0xFFFF0000
PROBE_MARKS = 0x10000


def is_probe_mark(mark: int) -> bool:
    """Return whether a mark is one of these."""
    return mark & PROBE_MARK_MASK == FIRST_PROBE_MARK


NETMASK_V4_ALL = 0xFFFFFFFF
NETMASK_V6_ALL = 128
PROTOCOL_TEMPLATE = 0  # the protocol of a firewall mark's template, listed as "IP"


class Protocol(IntEnum):
    """Transport protocols a service can have, by their IP protocol numbers."""

    TCP = 6
    UDP = 17
    SCTP = 132


class ServiceFlag(IntFlag):
    """A service's flags, with IPVS's values; the scheduler defines SCHED_1 to SCHED_3."""

    PERSISTENT = 0x1
    ONE_PACKET = 0x4
    SCHED_1 = 0x8
    SCHED_2 = 0x10
    SCHED_3 = 0x20


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """What identifies a service: an address with protocol and port, or a firewall mark with a family.

    A mark's service has protocol TCP, the zero address of its family and port 0.
    """

    protocol: Protocol
    address: Address
    port: int
    mark: int = 0

    @classmethod
    def of_mark(cls, mark: int, family: int = socket.AF_INET) -> ServiceKey:
        """Return the key of a firewall mark's service in one address family."""
        return cls(Protocol.TCP, ANY_V4 if family == socket.AF_INET else ANY_V6, 0, mark)

    @property
    def family(self) -> int:
        """Return socket.AF_INET or socket.AF_INET6."""
        return family_of(self.address)

    def __hash__(self) -> int:
        return hash((int(self.address), self.port, self.mark))  # an address itself hashes the text of its number

    def __str__(self) -> str:
        if self.mark:
            return f"FWM {self.mark}" + ("" if self.address.version == 4 else " IPv6")
        return f"{self.protocol.name} {endpoint(self.address, self.port)}"


@dataclass(frozen=True, slots=True)
class VirtualService:
    """A service with its scheduler, flags and persistence."""

    key: ServiceKey
    scheduler: str = DEFAULT_SCHEDULER
    flags: ServiceFlag = ServiceFlag(0)
    timeout_s: int = 0  # of persistence; 0 when not persistent
    netmask: int = -1  # IPv4: the mask as a host-order number; IPv6: a prefix length; -1: the whole address
    engine: str = ""  # persistence engine

    @property
    def mask(self) -> int:
        """Return the netmask, or its default."""
        if self.netmask >= 0:
            return self.netmask
        return NETMASK_V4_ALL if isinstance(self.key.address, IPv4Address) else NETMASK_V6_ALL
