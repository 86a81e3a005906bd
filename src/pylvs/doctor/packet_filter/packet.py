"""A packet as rules see it, a decision on it, and logic with a third value for what cannot be known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from ipaddress import ip_address

from pylvs.model.addresses import Address
from pylvs.model.client_rules import Network
from pylvs.model.dataclass import dataclass
from pylvs.model.service import ServiceKey

PROTOCOLS = {"icmp": 1, "ipip": 4, "ipencap": 4, "ip-encap": 4, "tcp": 6, "udp": 17, "ipv6": 41, "gre": 47}
PROTOCOLS |= {"esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "vrrp": 112, "sctp": 132}
# Types of ICMPv6 for neighbour discovery, by the names of nft and ip6tables.
SOLICITATION, ADVERTISEMENT = 135, 136
ICMP6_TYPES = {"nd-neighbor-solicit": 135, "neighbour-solicitation": 135, "neighbor-solicitation": 135}
ICMP6_TYPES |= {"nd-neighbor-advert": 136, "neighbour-advertisement": 136, "neighbor-advertisement": 136}
ICMP6_TYPES |= {"nd-router-solicit": 133, "router-solicitation": 133, "nd-router-advert": 134}
ICMP6_TYPES |= {
    "router-advertisement": 134,
    "nd-redirect": 137,
    "redirect": 137,
    "echo-request": 128,
    "echo-reply": 129,
}
ICMP6_TYPES |= {"packet-too-big": 2, "destination-unreachable": 1, "time-exceeded": 3, "parameter-problem": 4}
ICMP6_TYPES |= {"mld-listener-query": 130, "mld-listener-report": 131, "mld-listener-done": 132}
WITH_PORTS = (PROTOCOLS["tcp"], PROTOCOLS["udp"], PROTOCOLS["sctp"])
SYN, ACK = 0x02, 0x10

_CLIENT: Mapping[int, Address] = {4: ip_address("198.18.200.77"), 6: ip_address("2600:1f00::77")}
_SOME_CLIENT = 77  # of a network
_DEVICE = "eth0"  # rules that name a device are rare
Maybe = bool | None  # None: it cannot be known


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. `new`: it opens a connection, else it belongs to one. Without a device, the name is empty.

    `arp`: a request of ARP, or a reply if it is not `new`; its addresses are those of IPv4 that it names. `icmp_type`
    is that of ICMP or ICMPv6. `exceeds`: so many packets as this one come that it exceeds each limit of a rule.
    """

    saddr: Address
    daddr: Address
    protocol: int = PROTOCOLS["tcp"]
    sport: int = 0
    dport: int = 0
    iif: str = ""
    oif: str = ""
    new: bool = True
    arp: bool = False
    icmp_type: int = -1
    exceeds: bool = False

    @property
    def tcp_flags(self) -> int:
        """Return the flags of TCP: a SYN, or the SYN and ACK of the reply."""
        return SYN if self.new else SYN | ACK


def client_packet(key: ServiceKey, prefix: Network | None = None) -> Packet:
    """Return a packet that opens a connection to a service, of a client in a prefix."""
    version = key.address.version
    client = prefix[_SOME_CLIENT % prefix.num_addresses] if prefix and prefix.prefixlen else _CLIENT[version]
    return Packet(client, key.address, key.protocol, 40000, key.port, iif=_DEVICE)


class Verdict(Enum):
    """What becomes of a packet."""

    PASS = "passes"
    DROP = "is dropped"
    UNKNOWN = "cannot be known"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that a packet exceeds: its rule in words, and how many it lets pass, a second if it is a rate.

    `most` is infinite if that cannot be compared with connections, as bytes, and 0 if the rule chooses at random.
    `condition` is what the words of the rule do not show.
    """

    text: str
    most: float
    condition: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and for a drop the rule or policy in words; for one that cannot be known, the rule that decides.

    `named`: the rule itself names the packet's virtual address. `remove` removes this rule, `accept` lets the packet
    pass before it; both are commands. `packets` were counted by the rule; None without a counter. `limits`: those that
    the packet exceeded on the way to this verdict.
    """

    verdict: Verdict
    text: str = ""
    named: bool = False
    remove: str | None = None
    accept: str | None = None
    packets: int | None = None
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Translation:
    """What a rule makes of the destination of a packet. `address` None: one of this host. `remove` removes the rule."""

    address: Address | None
    port: int
    text: str
    remove: str


PASSED = Decision(Verdict.PASS)


def both(parts: Iterable[Maybe]) -> Maybe:
    """Return whether all hold."""
    found: Maybe = True
    for part in parts:
        if part is False:
            return False
        found = None if part is None else found
    return found


def either(parts: Iterable[Maybe]) -> Maybe:
    """Return whether one holds."""
    found: Maybe = False
    for part in parts:
        if part:
            return True
        found = None if part is None else found
    return found


def turned(part: Maybe, negated: bool) -> Maybe:
    """Return a condition, or its opposite."""
    return part if part is None else part != negated


def same_device(pattern: str, device: str, wildcard: str) -> bool:
    """Return whether a name of a device, which may end with a wildcard, is that of a device."""
    return device.startswith(pattern[:-1]) if pattern.endswith(wildcard) else device == pattern


def address_or_none(text: object) -> Address | None:
    """Parse an address; None for anything else."""
    try:
        return ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None
