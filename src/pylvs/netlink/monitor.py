"""Decoding of rtnetlink(7) notifications on links, addresses, routes and rules; truncated ones are ignored."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_interface

from pylvs.model.dataclass import dataclass
from pylvs.model.routing import Interface, Network
from pylvs.netlink import codec
from pylvs.netlink.codec import address_of, attributes, name, number, walk

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
RTA_DST, RTA_PRIORITY, RTA_TABLE = 1, 6, 15
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL = 1, 2, 6, 15, 21
SECONDARY, DAD_FAILED, DEPRECATED, TENTATIVE, OPTIMISTIC = 0x01, 0x08, 0x20, 0x40, 0x04  # IFA_F_*
CLONED = 0x200  # RTM_F_CLONED: a cached exception of a route, no route


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """A link as it is now, or as it was before its removal; a monitor adds its addresses."""

    index: int
    name: str
    mac: bytes = b""
    mtu: int = 0
    enabled: bool = False  # codec.IFF_UP
    running: bool = False  # also carrier, and the devices below
    below: int = 0  # index of the lower link; 0 for none
    kind: str = ""  # "macvlan"...; "" for hardware
    gone: bool = False
    addresses: tuple[AddressMessage, ...] = ()
    master: int = 0  # index of the bridge, bond or VRF that it belongs to; 0 for none


@dataclass(frozen=True, slots=True)
class AddressMessage:
    """An address of a link, added, changed or removed."""

    index: int
    interface: Interface
    scope: int = 0
    flags: int = 0
    gone: bool = False

    @property
    def usable(self) -> bool:
        """Return whether duplicate address detection has ended without a conflict, or is optimistic (RFC 4862)."""
        return not self.flags & DAD_FAILED and (not self.flags & TENTATIVE or bool(self.flags & OPTIMISTIC))


@dataclass(frozen=True, slots=True)
class RouteKey:
    """The key of a route in the kernel's tables; for IPv4 the kind belongs to it as well."""

    destination: Network
    table: int
    metric: int
    tos: int = 0


@dataclass(frozen=True, slots=True)
class RouteMessage:
    """A route, added, changed or removed."""

    key: RouteKey
    protocol: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class RuleKey:
    """The key of a rule of the routing policy."""

    family: int  # 4 or 6
    preference: int
    action: int  # FR_ACT_*
    table: int
    source: Network | None = None
    destination: Network | None = None


@dataclass(frozen=True, slots=True)
class RuleMessage:
    """A rule of the routing policy, added or removed."""

    key: RuleKey
    protocol: int
    gone: bool = False


Fields = tuple[int, ...]  # of the header
Attributes = dict[int, bytes]
Message = LinkMessage | AddressMessage | RouteMessage | RuleMessage


def read(data: bytes) -> Iterator[Message]:
    """Yield the notifications of a datagram."""
    for kind, _flags, _sequence, body in walk(data):
        if (found := understood(kind, body)) is not None:
            yield found


def understood(kind: int, body: bytes) -> Message | None:
    """Decode one message; None if it is of another kind or truncated."""
    header, decode = _DECODERS.get(kind & ~1, (None, None))  # RTM_DELLINK is RTM_NEWLINK + 1, and so on
    if header is None or decode is None or len(body) < header.size:
        return None
    return decode(header.unpack_from(body), attributes(body, header.size), bool(kind & 1))


def _link(fields: Fields, found: Attributes, gone: bool) -> LinkMessage | None:
    family, _hardware, index, flags, _changed = fields
    called = name(found.get(IFLA_IFNAME))
    if family == socket.AF_BRIDGE or not called:
        return None  # a port that leaves its bridge still exists
    return LinkMessage(
        index=index,
        name=called,
        mac=found.get(IFLA_ADDRESS, b""),
        mtu=number(found.get(IFLA_MTU)),
        enabled=bool(flags & codec.IFF_UP),
        running=bool(flags & codec.IFF_UP and flags & codec.IFF_RUNNING),  # operstate UP or UNKNOWN
        below=number(found.get(IFLA_LINK)),
        kind=name(attributes(found.get(IFLA_LINKINFO, b"")).get(1)),  # IFLA_INFO_KIND
        gone=gone,
        master=number(found.get(IFLA_MASTER)),
    )


def _address(fields: Fields, found: Attributes, gone: bool) -> AddressMessage | None:
    _family, prefix, flags, scope, index = fields
    own = address_of(found.get(IFA_LOCAL, found.get(IFA_ADDRESS)))
    if own is None or prefix > own.max_prefixlen:
        return None
    flags = number(found[IFA_FLAGS]) if IFA_FLAGS in found else flags
    return AddressMessage(index, ip_interface((own, prefix)), scope, flags, gone)


def _route(fields: Fields, found: Attributes, gone: bool) -> RouteMessage | None:
    family, length, _from, tos, table, protocol, _scope, _kind, flags = fields
    if flags & CLONED or (network := _network(family, found.get(RTA_DST), length)) is None:
        return None
    key = RouteKey(network, number(found.get(RTA_TABLE)) or table, number(found.get(RTA_PRIORITY)), tos)
    return RouteMessage(key, protocol, gone)


def _rule(fields: Fields, found: Attributes, gone: bool) -> RuleMessage | None:
    family, to_length, from_length, _tos, table, _, _, action, _flags = fields
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    key = RuleKey(
        4 if family == socket.AF_INET else 6,
        number(found.get(FRA_PRIORITY)),
        action,
        number(found.get(FRA_TABLE)) or table,
        _network(family, found.get(FRA_SRC), from_length) if from_length else None,
        _network(family, found.get(FRA_DST), to_length) if to_length else None,
    )
    return RuleMessage(key, (found.get(FRA_PROTOCOL) or b"\0")[0], gone)


def _network(family: int, packed: bytes | None, length: int) -> Network | None:
    """Return a network, the default one without octets; None for invalid octets."""
    size = 4 if family == socket.AF_INET else 16 if family == socket.AF_INET6 else 0
    packed = bytes(size) if packed is None else packed
    if not size or len(packed) != size or length > size * 8:
        return None
    whole = int.from_bytes(packed, "big")
    return IPv4Network((whole, length), False) if size == 4 else IPv6Network((whole, length), False)


_DECODERS = {
    codec.NEWLINK: (codec.IFINFOMSG, _link),
    codec.NEWADDR: (codec.IFADDRMSG, _address),
    codec.NEWROUTE: (codec.RTMSG, _route),
    codec.NEWRULE: (codec.RTMSG, _rule),
}
