"""Decoding of rtnetlink(7) notifications on links, addresses, routes and rules; truncated ones are ignored."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.routing import Interface, Network
from pylvs.netlink.rtnl import attributes, name, walk

NEWLINK, DELLINK, GETLINK, NEWADDR, DELADDR, GETADDR, NEWROUTE, DELROUTE, GETROUTE = 16, 17, 18, 20, 21, 22, 24, 25, 26
NEWRULE, DELRULE, GETRULE = 32, 33, 34
LINK, ADDRESS, ROUTE = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=8BI")
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO = 1, 3, 4, 5, 18
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
RTA_DST, RTA_PRIORITY, RTA_TABLE = 1, 6, 15
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL = 1, 2, 6, 15, 21
UP, RUNNING = 0x1, 0x40  # IFF_UP; IFF_RUNNING, which is operstate UP or UNKNOWN
SECONDARY, DAD_FAILED, DEPRECATED, TENTATIVE, OPTIMISTIC = 0x01, 0x08, 0x20, 0x40, 0x04  # IFA_F_*
CLONED = 0x200  # RTM_F_CLONED: a cached exception of a route, no route
NUMBER = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class LinkNews:
    """A link as it is now, or as it was before its removal; a monitor adds its addresses."""

    index: int
    name: str
    mac: bytes = b""
    mtu: int = 0
    enabled: bool = False  # IFF_UP
    running: bool = False  # also carrier, and the devices below
    below: int = 0  # index of the lower link; 0 for none
    kind: str = ""  # "macvlan"...; "" for hardware
    gone: bool = False
    addresses: tuple[AddressNews, ...] = ()


@dataclass(frozen=True, slots=True)
class AddressNews:
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
class RouteNews:
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
class RuleNews:
    """A rule of the routing policy, added or removed."""

    key: RuleKey
    protocol: int
    gone: bool = False


News = LinkNews | AddressNews | RouteNews | RuleNews


def read(data: bytes) -> Iterator[News]:
    """Yield the notifications of a datagram."""
    for kind, _flags, _sequence, body in walk(data):
        if (found := understood(kind, body)) is not None:
            yield found


def understood(kind: int, body: bytes) -> News | None:
    """Decode one message; None if it is of another kind or truncated."""
    if kind in (NEWLINK, DELLINK):
        return _link(body, kind == DELLINK)
    if kind in (NEWADDR, DELADDR):
        return _address(body, kind == DELADDR)
    if kind in (NEWROUTE, DELROUTE):
        return _route(body, kind == DELROUTE)
    if kind in (NEWRULE, DELRULE):
        return _rule(body, kind == DELRULE)
    return None


def _number(value: bytes | None) -> int:
    return int(NUMBER.unpack(value)[0]) if value is not None and len(value) == NUMBER.size else 0


def _link(body: bytes, gone: bool) -> LinkNews | None:
    if len(body) < LINK.size:
        return None
    family, _hardware, index, flags, _changed = LINK.unpack_from(body)
    found = attributes(body, LINK.size)
    called = name(found.get(IFLA_IFNAME))
    if family == socket.AF_BRIDGE or not called:
        return None  # a port that leaves its bridge still exists
    return LinkNews(
        index=index,
        name=called,
        mac=found.get(IFLA_ADDRESS, b""),
        mtu=_number(found.get(IFLA_MTU)),
        enabled=bool(flags & UP),
        running=bool(flags & UP and flags & RUNNING),
        below=_number(found.get(IFLA_LINK)),
        kind=name(attributes(found.get(IFLA_LINKINFO, b"")).get(1)),  # IFLA_INFO_KIND
        gone=gone,
    )


def _address(body: bytes, gone: bool) -> AddressNews | None:
    if len(body) < ADDRESS.size:
        return None
    _family, prefix, flags, scope, index = ADDRESS.unpack_from(body)
    found = attributes(body, ADDRESS.size)
    own = address_of(found.get(IFA_LOCAL, found.get(IFA_ADDRESS)))
    if own is None or prefix > own.max_prefixlen:
        return None
    flags = _number(found[IFA_FLAGS]) if IFA_FLAGS in found else flags
    return AddressNews(index, ip_interface((own, prefix)), scope, flags, gone)


def _route(body: bytes, gone: bool) -> RouteNews | None:
    if len(body) < ROUTE.size:
        return None
    family, length, _from, tos, table, protocol, _scope, _kind, flags = ROUTE.unpack_from(body)
    found = attributes(body, ROUTE.size)
    if flags & CLONED or (network := _network(family, found.get(RTA_DST), length)) is None:
        return None
    key = RouteKey(network, _number(found.get(RTA_TABLE)) or table, _number(found.get(RTA_PRIORITY)), tos)
    return RouteNews(key, protocol, gone)


def _rule(body: bytes, gone: bool) -> RuleNews | None:
    if len(body) < ROUTE.size:
        return None
    family, to_length, from_length, _tos, table, _, _, action, _flags = ROUTE.unpack_from(body)
    found = attributes(body, ROUTE.size)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    key = RuleKey(
        4 if family == socket.AF_INET else 6,
        _number(found.get(FRA_PRIORITY)),
        action,
        _number(found.get(FRA_TABLE)) or table,
        _network(family, found.get(FRA_SRC), from_length) if from_length else None,
        _network(family, found.get(FRA_DST), to_length) if to_length else None,
    )
    return RuleNews(key, (found.get(FRA_PROTOCOL) or b"\0")[0], gone)


def _network(family: int, packed: bytes | None, length: int) -> Network | None:
    """Return a network, the default one without octets; None for invalid octets."""
    size = 4 if family == socket.AF_INET else 16 if family == socket.AF_INET6 else 0
    packed = bytes(size) if packed is None else packed
    if not size or len(packed) != size or length > size * 8:
        return None
    whole = int.from_bytes(packed, "big")
    return IPv4Network((whole, length), False) if size == 4 else IPv6Network((whole, length), False)


def address_of(packed: bytes | None) -> Address | None:
    """Return an address of 4 or 16 octets; None for another length."""
    if packed is None or len(packed) not in (4, 16):
        return None
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
