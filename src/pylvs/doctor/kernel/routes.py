"""What routing does with one packet, as the kernel itself answers: rules, all tables, source validation. Sends nothing.

A request with an input device runs the same function as a received packet, with rp_filter and martian sources.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

from pylvs.model.addresses import Address, family_of, ip_option
from pylvs.model.dataclass import dataclass
from pylvs.netlink import codec
from pylvs.netlink.codec import Netlink, NetlinkError, address_of, attribute, attributes, number, u32

_DST, _SRC, _IIF, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _TABLE = 1, 2, 3, 4, 5, 6, 7, 15  # RTA_*
_PROTOCOL, _SPORT = 27, 28  # RTA_IP_PROTO, RTA_SPORT
_RULE_PROTOCOL, _RULE_SPORTS = 22, 23  # FRA_IP_PROTO, FRA_SPORT_RANGE
_TCP = 6
UNICAST, LOCAL = 1, 2  # RTN_*
REJECTING = {6: "blackhole", 7: "unreachable", 8: "prohibit"}  # RTN_*
_ERRORS = {
    errno.EINVAL: "blackhole",
    errno.EACCES: "prohibit",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "no route",
}
_TO_TABLE = 1  # FR_ACT_TO_TBL
_MAIN, _LOCAL = 254, 255


@dataclass(frozen=True, slots=True)
class Outcome:
    """The kind of route that a packet takes, and its device; or the errno with which the kernel drops it."""

    kind: int = 0
    device: int = 0
    gateway: Address | None = None
    error: int = 0

    @property
    def reason(self) -> str:
        """Return why there is no way out, in the words of ip-route(8)."""
        return _ERRORS.get(self.error, "")

    @property
    def invalid_source(self) -> bool:
        """Return whether the kernel refuses the source of a received packet. Linux 6.14 does not report the reason."""
        return self.error in (errno.EXDEV, errno.EINVAL)


class KernelRoutes:
    """One socket for many questions."""

    def __init__(self) -> None:
        self._link = Netlink()

    def __enter__(self) -> KernelRoutes:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def arriving(self, saddr: Address, daddr: Address, device: int) -> Outcome:
        """Return what becomes of a packet that a device receives."""
        return self._ask(saddr, daddr, u32(_IIF, device))

    def leaving(self, saddr: Address, daddr: Address, sport: int = 0) -> Outcome:
        """Return by where this host sends a packet from one of its addresses; from a TCP port, which rules may name."""
        ports = attribute(_PROTOCOL, bytes([_TCP])) + attribute(_SPORT, sport.to_bytes(2, "big")) if sport else b""
        return self._ask(saddr, daddr, ports)

    def leaving_to(self, daddr: Address) -> Outcome:
        """Return by where this host sends a packet from any source."""
        return self._ask(None, daddr, b"")

    def source_to(self, daddr: Address) -> Address | None:
        """Return the source address that this host's own packets get; None without a route."""
        body = codec.RTMSG.pack(family_of(daddr), daddr.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        try:
            answer = self._link.request(codec.GETROUTE, body + attribute(_DST, daddr.packed))[0]
        except NetlinkError:
            return None
        return address_of(attributes(answer, codec.RTMSG.size).get(_PREFSRC))

    def _ask(self, saddr: Address | None, daddr: Address, more: bytes) -> Outcome:
        bits = daddr.max_prefixlen
        body = codec.RTMSG.pack(family_of(daddr), bits, bits, 0, 0, 0, 0, 0, 0)
        body += attribute(_DST, daddr.packed) + (attribute(_SRC, saddr.packed) if saddr else b"") + more
        try:
            answer = self._link.request(codec.GETROUTE, body)[0]
        except NetlinkError as error:
            return Outcome(error=error.number)
        kind = codec.RTMSG.unpack_from(answer)[7]
        found = attributes(answer, codec.RTMSG.size)
        if kind in REJECTING:  # IPv6 answers with the route
            refused = {name: each for each, name in _ERRORS.items()}
            return Outcome(kind, error=refused[REJECTING[kind]])
        return Outcome(kind, number(found.get(_OIF)), address_of(found.get(_GATEWAY)))


@dataclass(frozen=True, slots=True)
class Rejecting:
    """A route or rule that rejects what it matches; `command` removes it."""

    text: str
    command: str
    daddr: Address | None  # of the network
    prefix: int
    is_rule: bool = False

    def covers(self, address: Address) -> bool:
        """Return whether packets to an address match."""
        if self.daddr is None or self.daddr.version != address.version:
            return False
        shift = address.max_prefixlen - self.prefix
        return int(address) >> shift == int(self.daddr) >> shift


def destinations(version: int, most: int = 256) -> list[Address]:
    """Return an address of each network to which a route leads, of at most so many routes."""
    family = 2 if version == 4 else 10
    found = list[Address]()
    with Netlink() as link:
        body = codec.RTMSG.pack(family, 0, 0, 0, 0, 0, 0, UNICAST, 0)
        for count, message in enumerate(link.beginning(codec.GETROUTE, body)):
            header = codec.RTMSG.unpack_from(message)
            daddr = address_of(attributes(message, codec.RTMSG.size).get(_DST))
            if header[0] == family and daddr is not None and not daddr.is_multicast:
                found.append(daddr if header[1] == daddr.max_prefixlen else daddr + 1)
            if count >= most:
                break
    return found


def rules_from(address: Address, port: int = 0) -> list[int]:
    """Return the priorities of rules of the routing policy for this source, in their order.

    A rule names the address, the TCP port, or both.
    """
    found = []
    with Netlink() as link:
        for header, parts in _policy(link, address.version):
            source, shift = address_of(parts.get(_SRC)), address.max_prefixlen - header[2]
            if source is not None and int(source) >> shift != int(address) >> shift:
                continue
            names_port = _RULE_SPORTS in parts or _RULE_PROTOCOL in parts
            if (source is not None or names_port) and _takes_port(parts, port):
                found.append(number(parts.get(_PRIORITY)))
    return sorted(found)


def _takes_port(parts: dict[int, bytes], port: int) -> bool:
    """Return whether a rule applies to segments from a TCP port, as far as it names protocol and port."""
    if parts.get(_RULE_PROTOCOL, bytes([_TCP])) != bytes([_TCP]):
        return False
    first, last = struct.unpack("=HH", parts[_RULE_SPORTS]) if _RULE_SPORTS in parts else (port, port)
    return bool(first <= port <= last)


def before_local(version: int) -> list[int]:
    """Return the priorities of rules of the routing policy that the kernel asks before the table local."""
    found, first = list[int](), list[int]()
    with Netlink() as link:
        for header, parts in _policy(link, version):
            priority = number(parts.get(_PRIORITY))
            is_local = header[7] == _TO_TABLE and (number(parts.get(_TABLE)) or header[4]) == _LOCAL
            (first if is_local else found).append(priority)
    return sorted(each for each in found if not first or each < min(first))


def rejecting(version: int) -> list[Rejecting]:
    """Return the routes and rules of an IP version that reject packets."""
    with Netlink() as link:
        return [*_routes(link, version), *_rules(link, version)]


def _routes(link: Netlink, version: int) -> Iterator[Rejecting]:
    family = 2 if version == 4 else 10
    option = ip_option(version)
    for kind, name in REJECTING.items():
        body = codec.RTMSG.pack(family, 0, 0, 0, 0, 0, 0, kind, 0)
        for message in link.dump(codec.GETROUTE, body, 5):
            header = codec.RTMSG.unpack_from(message)
            if header[0] != family or header[7] != kind:
                continue
            parts = attributes(message, codec.RTMSG.size)
            table = number(parts.get(_TABLE)) or header[4]
            daddr = address_of(parts.get(_DST))
            metric = number(parts.get(_PRIORITY))
            where = f"{daddr}/{header[1]}" if daddr else "default"
            words = f"{name} {where}" + (f" table {table}" if table != _MAIN else "")
            words += f" metric {metric}" if metric and (version == 4 or metric != 1024) else ""
            zero = address_of(bytes(4 if version == 4 else 16))
            yield Rejecting(f"route {words}", f"ip {option}route del {words}", daddr or zero, header[1])


def _policy(link: Netlink, version: int) -> Iterator[tuple[tuple[int, ...], dict[int, bytes]]]:
    """Yield header and attributes of the rules of the routing policy of an IP version."""
    family = 2 if version == 4 else 10
    for message in link.dump(codec.GETRULE, codec.RTMSG.pack(family, *bytes(8)), 5):
        header = codec.RTMSG.unpack_from(message)
        if header[0] == family:
            yield header, attributes(message, codec.RTMSG.size)


def _rules(link: Netlink, version: int) -> Iterator[Rejecting]:
    option = ip_option(version)
    for header, parts in _policy(link, version):
        if header[7] not in REJECTING:
            continue
        priority = number(parts.get(_PRIORITY))
        name, daddr = REJECTING[header[7]], address_of(parts.get(_DST))
        zero = address_of(bytes(4 if version == 4 else 16))
        yield Rejecting(
            f"rule {priority}: {name}", f"ip {option}rule del priority {priority}", daddr or zero, header[1], True
        )
