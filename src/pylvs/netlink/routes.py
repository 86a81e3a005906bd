"""Adding and removing many routes and rules of the routing policy in one call that does not wait.

They are encoded here, options included, instead of passed to `ip -batch`. So a take-over neither starts a process nor
waits for one. The numbers of the options of `ip route` and `ip rule` are those of rtnetlink(7) and linux/fib_rules.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from pylvs.model.addresses import family_of
from pylvs.model.errors import NoSuchDevice
from pylvs.model.routing import SCOPE_HOST, SCOPE_LINK, SCOPE_NOWHERE, Network, NextHop, Route, RoutingRule
from pylvs.netlink import codec
from pylvs.netlink.changes import Outcome, execute, index_of
from pylvs.netlink.codec import Request, attribute, nested, text, u32
from pylvs.netlink.iproute2 import Names, named, number_of
from pylvs.netlink.monitor import RTA_DST, RTA_PRIORITY, RTA_TABLE, RouteKey, RuleKey

KINDS = {"unicast": 1, "local": 2, "broadcast": 3, "multicast": 5, "blackhole": 6, "unreachable": 7, "prohibit": 8}
KINDS |= {"throw": 9, "nat": 10}
WITHOUT_HOPS = ("blackhole", "unreachable", "prohibit", "throw")
SCOPES = {"local": SCOPE_HOST, "nat": SCOPE_HOST, "broadcast": SCOPE_LINK}  # other kinds: global
RTA_SRC, OIF, GATEWAY, SOURCE, METRICS, MULTIPATH, FLOW, PREFERENCE = 2, 4, 5, 7, 8, 9, 11, 20
EXPIRES, TTL_PROPAGATE = 23, 26
HOP = struct.Struct("=HBBi")  # struct rtnexthop
ONLINK = 4
IPV6_METRIC = 1024  # IP6_RT_PRIO_USER: the default
LOCK, CC_ALGO = 1, 16
RTAX = {
    name: number
    for number, name in enumerate(
        (
            *("mtu", "window", "rtt", "rttvar", "ssthresh", "cwnd", "advmss", "reordering", "hoplimit", "initcwnd"),
            *("features", "rto_min", "initrwnd", "quickack", "congctl", "fastopen_no_cookie"),
        ),
        LOCK + 1,
    )
}
PARTS_OF_A_MILLISECOND = {"rtt": 8, "rttvar": 4, "rto_min": 1}
ECN = 1  # RTAX_FEATURE_ECN
PREFERENCES = {"medium": 0, "high": 1, "low": 3}  # RFC 4191

ACTIONS = {"table": 1, "goto": 2, "nop": 3, "blackhole": 6, "unreachable": 7, "prohibit": 8}
INVERT = 2
(FRA_DST, FRA_SRC, FRA_IIF, FRA_GOTO, FRA_PRIORITY, FRA_MARK, FRA_FLOW) = (1, 2, 3, 4, 6, 10, 11)
(FRA_TUN_ID, FRA_IFGROUP, FRA_PREFIX, FRA_TABLE, FRA_MASK, FRA_OIF, FRA_L3MDEV) = (12, 13, 14, 15, 16, 17, 19)
(FRA_UIDS, FRA_PROTOCOL, FRA_IP_PROTO, FRA_SPORT, FRA_DPORT) = (20, 21, 22, 23, 24)

GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
Thing = TypeVar("Thing", Route, RoutingRule)


def add(routes: Sequence[Route]) -> list[Outcome]:
    """Add routes; an existing one is no error. The kernel needs the addresses that they name as sources first."""
    return _each(routes, _addition, "added", (errno.EEXIST,))


def remove(routes: Sequence[Route]) -> list[Outcome]:
    """Remove routes; a missing one is no error."""
    return _each(routes, lambda route: (codec.DELROUTE, encoded(route, going=True), 0), "removed", GONE)


def add_rules(rules: Sequence[RoutingRule]) -> list[Outcome]:
    """Add rules; an existing one is no error."""
    return _each(
        rules, lambda rule: (codec.NEWRULE, encoded_rule(rule), codec.CREATE | codec.EXCL), "added", (errno.EEXIST,)
    )


def remove_rules(rules: Sequence[RoutingRule]) -> list[Outcome]:
    """Remove rules; a missing one is no error."""
    return _each(rules, lambda rule: (codec.DELRULE, encoded_rule(rule), 0), "removed", GONE)


def key_of(route: Route) -> RouteKey:
    """Return the key under which the kernel reports the removal of a route."""
    if route.destination.version == 6:
        return RouteKey(route.destination, route.table, route.metric or IPV6_METRIC)
    return RouteKey(route.destination, route.table, route.metric, route.tos)


def key_of_rule(rule: RoutingRule) -> RuleKey:
    """Return the key under which the kernel reports the removal of a rule."""
    table = rule.table if rule.action == "table" else 0
    return RuleKey(
        rule.family, rule.preference, ACTIONS[rule.action], table, _some(rule.source), _some(rule.destination)
    )


def _some(network: Network | None) -> Network | None:
    """Return None for the default network, which the kernel does not distinguish from no network."""
    return network if network is not None and network.prefixlen else None


def encoded(route: Route, going: bool = False) -> bytes:
    """Encode a route; when it is `going`, only what identifies it. Raises NoSuchDevice."""
    to = route.destination
    hops = () if route.kind in WITHOUT_HOPS else route.next_hops
    scope = SCOPES.get(route.kind, 0) if route.scope is None else route.scope
    body = codec.RTMSG.pack(
        family_of(to.network_address),
        to.prefixlen,
        route.from_network.prefixlen if route.from_network else 0,
        route.tos,
        route.table if route.table < 256 else 0,
        route.protocol,
        SCOPE_NOWHERE if going else scope,
        KINDS[route.kind],
        ONLINK if len(hops) == 1 and hops[0].onlink else 0,
    )
    body += attribute(RTA_DST, to.network_address.packed) + u32(RTA_TABLE, route.table)
    body += attribute(RTA_SRC, route.from_network.network_address.packed) if route.from_network else b""
    metric = key_of(route).metric if going else route.metric
    body += u32(RTA_PRIORITY, metric) if metric else b""
    if len(hops) == 1:
        body += _way(hops[0]) + (u32(OIF, index) if (index := _index(hops[0])) else b"")
    elif hops:
        body += nested(MULTIPATH, *map(_multipath, hops))
    if not going:
        body += attribute(SOURCE, route.source.packed) if route.source else b""
        body += _options(route)
    return body


def _addition(route: Route) -> Request:
    return codec.NEWROUTE, encoded(route), codec.CREATE | (codec.APPEND if route.append else 0)


def _index(hop: NextHop) -> int:
    if not hop.device:
        return 0
    index = index_of(hop.device)
    if not index:
        raise NoSuchDevice(f"no device {hop.device}")
    return index


def _way(hop: NextHop) -> bytes:
    return attribute(GATEWAY, hop.via.packed) if hop.via is not None else b""


def _multipath(hop: NextHop) -> bytes:
    way = _way(hop)
    return HOP.pack(HOP.size + len(way), ONLINK if hop.onlink else 0, hop.weight - 1, _index(hop)) + way


def _options(route: Route) -> bytes:
    """Encode the options in the syntax of `ip route`."""
    body, metrics, locked = b"", b"", 0
    for name, words in route.options:
        value = words.removeprefix("lock ")
        if name in RTAX:
            metrics += _metric(name, value)
            locked |= 1 << RTAX[name] if value != words else 0
        elif name == "realms":
            body += u32(FLOW, _realms(value))
        elif name == "pref":
            body += attribute(PREFERENCE, bytes([PREFERENCES[value]]))
        elif name == "expires":
            body += u32(EXPIRES, int(value))
        elif name == "ttl-propagate":
            body += attribute(TTL_PROPAGATE, bytes([value == "enabled"]))
    if locked:
        metrics += u32(LOCK, locked)
    return body + (nested(METRICS, metrics) if metrics else b"")


def _metric(name: str, value: str) -> bytes:
    kind = RTAX[name]
    if kind == CC_ALGO:
        return text(kind, value)
    if name == "features":
        return u32(kind, ECN)
    if name in PARTS_OF_A_MILLISECOND:
        return u32(kind, _time(value, PARTS_OF_A_MILLISECOND[name]))
    return u32(kind, int(value))


def _time(value: str, parts: int) -> int:
    """Parse a time into parts of a millisecond; a number without a unit is in those parts."""
    if value.endswith("ms"):
        return round(float(value.removesuffix("ms")) * parts)
    if value.endswith("s"):
        return round(float(value.removesuffix("s")) * 1000 * parts)
    return round(float(value))


def _realms(words: str) -> int:
    """Parse FROM/TO, or TO alone."""
    parts = [named(Names.REALMS, part, 0xFFFF) or 0 for part in words.split("/", 1)]
    return parts[0] << 16 | parts[1] if len(parts) == 2 else parts[0]


def encoded_rule(rule: RoutingRule) -> bytes:
    """Encode a rule for RTM_NEWRULE or RTM_DELRULE."""
    body = codec.RTMSG.pack(
        socket.AF_INET if rule.family == 4 else socket.AF_INET6,
        rule.destination.prefixlen if rule.destination else 0,
        rule.source.prefixlen if rule.source else 0,
        rule.tos,
        rule.table if rule.action == "table" and rule.table < 256 else 0,
        0,
        0,
        ACTIONS[rule.action],
        INVERT if rule.inverted else 0,
    )
    body += u32(FRA_PRIORITY, rule.preference) + attribute(FRA_PROTOCOL, bytes([rule.protocol]))
    body += attribute(FRA_DST, rule.destination.network_address.packed) if rule.destination else b""
    body += attribute(FRA_SRC, rule.source.network_address.packed) if rule.source else b""
    body += text(FRA_IIF, rule.iif) if rule.iif else b""
    body += text(FRA_OIF, rule.oif) if rule.oif else b""
    body += u32(FRA_MARK, rule.mark) + u32(FRA_MASK, rule.mark_mask) if rule.mark_mask else b""
    body += attribute(FRA_L3MDEV, b"\1") if rule.l3mdev else b""
    body += u32(FRA_TABLE, rule.table) if rule.action == "table" and rule.table else b""
    body += u32(FRA_GOTO, rule.goto) if rule.action == "goto" else b""
    return body + b"".join(_rule_option(name, value) for name, value in rule.options)


def _rule_option(name: str, value: str) -> bytes:
    """Encode an option in the syntax of `ip rule`."""
    if name == "uidrange":
        return attribute(FRA_UIDS, struct.pack("=II", *_ends(value)))
    if name in ("sport", "dport"):
        return attribute(FRA_SPORT if name == "sport" else FRA_DPORT, struct.pack("=HH", *_ends(value)))
    if name == "suppress_prefixlength":
        return u32(FRA_PREFIX, int(value))
    if name == "suppress_ifgroup":
        return u32(FRA_IFGROUP, int(value))
    if name == "realms":
        return u32(FRA_FLOW, _realms(value))
    if name == "tunnel-id":
        return attribute(FRA_TUN_ID, struct.pack(">Q", int(value)))
    number = number_of(value)
    return attribute(FRA_IP_PROTO, bytes([socket.getprotobyname(value) if number is None else number]))


def _ends(words: str) -> tuple[int, int]:
    first, _, last = words.partition("-")
    return int(first), int(last or first)


def _each(
    things: Sequence[Thing], request: Callable[[Thing], Request], doing: str, fine: Collection[int]
) -> list[Outcome]:
    return execute(things, request, lambda thing: f"{_called(thing)} could not be {doing}", fine)


def _called(thing: Route | RoutingRule) -> str:
    return f"route {thing}" if isinstance(thing, Route) else f"rule {thing.preference}"
