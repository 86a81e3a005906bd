"""A real server's routing: whether it accepts what comes to its virtual addresses, and where its replies go.

The kernel answers both by itself, for clients that are connected and for addresses all over the Internet.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterator, Sequence, Set
from contextlib import suppress
from time import monotonic, sleep

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.counters import counts
from pylvs.doctor.kernel.routes import LOCAL, KernelRoutes, Outcome, Rejecting, destinations, rejecting
from pylvs.doctor.kernel.sniffer import Arrivals
from pylvs.doctor.probes.real_server.facts import RealServer, real_server, tunnels
from pylvs.doctor.probes.real_server.local_route import not_local, routed_away
from pylvs.doctor.probes.real_server.way_back import (
    by_another_gateway,
    default_route,
    isolated,
    lost_at_gateway,
    misrouted,
    neighbours_of,
    outside_network,
    rule_for,
    service_port,
)
from pylvs.model.addresses import Address
from pylvs.model.errors import counted
from pylvs.netlink import neighbours
from pylvs.netlink.links import AssignedAddress, Device
from pylvs.netlink.socket_diag import Peer
from pylvs.system import proc

_LOOSE = 2  # of rp_filter
_RECENT = 1  # SYN-ACK: a few seconds
_FEW = 2  # connections without an answer that say something
_DISCARD = 9  # the port of a service that answers nothing
_ANSWER_S, _PAUSE_S = 1.0, 0.05  # in which a neighbour answers


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what routing does to requests and replies of this real server."""
    server = real_server(facts)
    if server is None:
        return
    with KernelRoutes() as routes:
        for address in server.held():
            if not server.by_nat and (any(map(_is_wide, server.vips[address])) or not server.loopback.up):
                continue  # that explains all that follows
            held = server.vips[address][0]
            device = next(each for each in facts.devices if each.index == held.index)
            if seen := routed_away(routes, held, device):
                yield not_local("server_vip_routed_away", Layer.SERVER, held, device.name, seen)
                continue
            yield from _requests(facts, server, address, routes)
            lost = [*by_another_gateway(facts, server, address, routes)]
            lost = lost or [*_replies(facts, server, address, routes)]
            lost = lost or [*_silence(facts, server, address, routes)]
            yield from lost or misrouted(facts, server, address, routes)


def _is_wide(held: AssignedAddress) -> bool:
    return held.prefix < held.address.max_prefixlen


# Requests.


def _requests(facts: Facts, server: RealServer, address: Address, routes: KernelRoutes) -> Iterator[Finding]:
    """Yield devices by which the kernel does not accept packets of clients."""
    refused = counts(facts).get("TcpExtIPReversePathFilter", 0)
    by_tunnel = tunnels(facts)
    clients = [*server.clients(address), *destinations(address.version)]
    clients = [each for each in clients if not _is_lost(routes.leaving(address, each))]
    for device in [*server.outward, *by_tunnel]:
        outcomes = {client: routes.arriving(client, address, device.index) for client in clients}
        invalid = [client for client, found in outcomes.items() if found.invalid_source]
        on_link = [each.network for each in facts.addresses if each.index == device.index]
        certain = [each for each in invalid if any(each in network for network in on_link)]
        if _rp_filter(facts, device) and (certain or (invalid and (refused or device in by_tunnel))):
            yield _filtered(facts, device, address, (certain or invalid)[0], refused)
        away = [client for client, found in outcomes.items() if found.kind not in (LOCAL, 0)]
        if away and len(away) == len(outcomes):
            names = {each.index: each.name for each in facts.devices}
            held = server.vips[address][0]
            to = names.get(outcomes[away[0]].device, "no device")
            seen = f"for a packet of {away[0]} on {device.name} the kernel finds a route by {to}, not a local one"
            yield not_local("server_vip_routed_away", Layer.SERVER, held, names[held.index], seen)


def _rp_filter(facts: Facts, device: Device) -> int:
    return max(facts.number(f"net/ipv4/conf/{each}/rp_filter") or 0 for each in ("all", device.name))


def _filtered(facts: Facts, device: Device, address: Address, client: Address, refused: int) -> Finding:
    path = f"net/ipv4/conf/{device.name}/rp_filter"
    value = _rp_filter(facts, device)
    loose = value == _LOOSE
    number = f"; {counted(refused, 'packet')} dropped so (TcpExtIPReversePathFilter)" if refused else ""
    return Finding(
        id="server_rp_filter",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"rp_filter on {device.name} drops packets of clients to {address}",
        evidence=f"rp_filter is {value} on {device.name}, and the route to {client} does not lead there{number}",
        why="The reverse path filter drops a packet if its sender is not reached by the device where it came in.",
        fix="Add a route to the clients." if loose else f"Set rp_filter of {device.name} to {_LOOSE} (loose).",
        fix_command=None if loose else f"sysctl -w {proc.dotted(path)}={_LOOSE}",
        fix_host=HERE,
        about=frozenset({str(address), device.name}),
    )


# Replies.


def _replies(facts: Facts, server: RealServer, address: Address, routes: KernelRoutes) -> Iterator[Finding]:
    """Yield clients that replies do not reach."""
    obstacles = rejecting(address.version)
    samples = [each.daddr for each in obstacles if each.daddr is not None and not each.daddr.is_unspecified]
    clients = dict.fromkeys([*server.clients(address), *filter(_is_unicast, samples)])
    port = service_port(facts, address)
    lost = {client: found for client in clients if _is_lost(found := routes.leaving(address, client, port))}
    if not lost:
        return
    if len(lost) == len(clients) and (nowhere := [*isolated(facts, address, destinations(address.version))]):
        yield from nowhere
        return
    known = server.known(address)
    unrouted = counts(facts).get("IpOutNoRoutes", 0) + counts(facts).get("Ip6OutNoRoutes", 0)
    by_rule = {each: obstacle for each in lost if (obstacle := _obstacle(obstacles, each))}
    for obstacle in dict.fromkeys(by_rule.values()):
        hit = [each for each in by_rule if by_rule[each] is obstacle]
        dropped = unrouted and counts(facts).get("TcpExtListenDrops", 0)  # SYNs without a route for the reply
        if dropped or any(each in known for each in hit) or _covers_neighbours(facts, server, obstacle):
            yield _rejected(server, address, obstacle, hit[0], unrouted)
    rest = {each: found for each, found in lost.items() if each not in by_rule}
    own = next(iter(server.own(address.version)), None)
    by_source = [each for each in rest if own is not None and not _is_lost(routes.leaving(own, each))]
    if by_source:
        yield _no_route(facts, server, address, by_source[0], rest[by_source[0]], unrouted, own)
        return
    asking = [*known, *_arriving(facts, server, address)]
    unreached = {each: found for each in asking if _is_lost(found := routes.leaving(address, each))}
    if client := next((each for each in unreached if not _obstacle(obstacles, each)), None):
        yield from outside_network(facts, server, address, routes, Severity.ERROR) or [
            _no_route(facts, server, address, client, unreached[client], unrouted)
        ]
    else:
        yield from outside_network(facts, server, address, routes, Severity.WARNING)


def _arriving(facts: Facts, server: RealServer, address: Address) -> Sequence[Address]:
    """Return the clients whose packets come in now, if the kernel has counted some that it could not route back."""
    seen = counts(facts)
    unrouted = seen.get("IpOutNoRoutes", 0) and seen.get("TcpExtListenDrops", 0)
    if not unrouted and not seen.get("TcpExtIPReversePathFilter", 0):
        return ()

    def look() -> Sequence[Address]:
        with Arrivals(server.outward) as arrivals:
            return arrivals.sources(address)

    return facts.once(f"arriving {address}", look)


def _why(by_nat: bool) -> str:
    if by_nat:
        return "The reply has to go to the director, which makes it one of the virtual address."
    return "The real server replies to the client itself, with the virtual address as source."


def _is_unicast(address: Address) -> bool:
    return not (address.is_multicast or address.is_loopback or address.is_link_local)


def _is_lost(found: Outcome) -> bool:
    return bool(found.error) or found.kind == LOCAL


def _obstacle(obstacles: Sequence[Rejecting], client: Address) -> Rejecting | None:
    covering = [each for each in obstacles if each.covers(client)]
    return max(covering, key=lambda each: each.prefix, default=None)


def _covers_neighbours(facts: Facts, server: RealServer, obstacle: Rejecting) -> bool:
    """Return whether a route rejects a part of a network to which this host is connected, or of everything."""
    if not obstacle.prefix or obstacle.daddr is None:
        return True
    outward = {each.index for each in server.outward}
    networks = [each.network for each in facts.addresses if each.index in outward]
    return any(obstacle.daddr in network for network in networks if network.version == obstacle.daddr.version)


def _rejected(server: RealServer, address: Address, obstacle: Rejecting, client: Address, unrouted: int) -> Finding:
    number = f"; {counted(unrouted, 'packet')} had no route (IpOutNoRoutes)" if unrouted else ""
    return Finding(
        id="server_reply_rejected",
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title=f"this real server's {obstacle.text} drops replies to clients as {client}",
        evidence=f"ip route get {client} from {address}: refused{number}",
        why=_why(server.by_nat),
        fix="Remove it, or add a route to the clients that precedes it.",
        fix_command=obstacle.command,
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _no_route(
    facts: Facts,
    server: RealServer,
    address: Address,
    client: Address,
    found: Outcome,
    unrouted: int,
    own: Address | None = None,
) -> Finding:
    removal = rule_for(address, service_port(facts, address))[1] if own else None
    number = f"; {counted(unrouted, 'packet')} had no route (IpOutNoRoutes)" if unrouted else ""
    text = f"ip route get {client} from {address}: {found.reason or errno.errorcode.get(found.error, 'local')}"
    return Finding(
        id="server_reply_unroutable",
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title=f"this real server has no route for replies from {address} to clients as {client}",
        evidence=f"{text}{f', but from {own} there is one' if own else ''}{number}",
        why=_why(server.by_nat),
        fix="Correct the rule of the routing policy for this address." if own else "Add a default route.",
        fix_command=removal if own else default_route(facts, address),
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _silence(facts: Facts, server: RealServer, address: Address, routes: KernelRoutes) -> Iterator[Finding]:
    """Yield gateways of replies that do not answer ARP or ND; else clients that confirm nothing."""
    known, port = server.known(address), service_port(facts, address)
    near = neighbours_of(facts, server, address.version)
    ways = {client: routes.leaving(address, client, port) for client in [*server.clients(address), *known, *near]}
    hops = {(way.device, way.gateway): client for client, way in ways.items() if way.gateway is not None}
    hops |= {(ways[client].device, client): client for client in known if ways[client].gateway is None}
    silent = facts.once(f"silent hops {sorted(map(str, hops))}", lambda: _silent(hops))
    for device, hop in silent:
        name = next((each.name for each in facts.devices if each.index == device), str(device))
        there = [client for client, way in ways.items() if (way.device, way.gateway or client) == (device, hop)]
        aside = [client for client in there if _has_usual_way(server, address, client, silent, routes)]
        client = (aside or [hops[device, hop]])[0]
        applies, removal = rule_for(address, port) if aside else ("", None)
        yield Finding(
            id="server_next_hop_silent",
            severity=Severity.ERROR,
            layer=Layer.REPLY,
            title=f"the next hop of replies, {hop}, does not answer on {name}",
            evidence=f"ip route get {client} from {address}{applies}: it leads to {hop}, which answers no ARP or ND",
            why="The real server replies to the client itself, not through the director.",
            fix="Remove the rule, or correct its table."
            if removal
            else "Correct the route to the clients, or the gateway.",
            fix_command=removal,
            fix_host=HERE,
            about=frozenset({str(address)}),
        )
    mine = [each for each in server.peers if each.local == address and each.resent != 0]  # 0: it may still confirm
    unanswered = [each for each in mine if each.resent]
    if not silent and len(unanswered) >= _FEW and len(unanswered) == len(mine):
        way = routes.leaving(address, unanswered[0].peer, port)
        yield from lost_at_gateway(server, address, unanswered[0].peer, way, port)
        if any((each.resent or 0) <= _RECENT for each in unanswered):
            yield _unanswered(address, unanswered)


def _has_usual_way(
    server: RealServer, address: Address, client: Address, silent: Set[tuple[int, Address]], routes: KernelRoutes
) -> bool:
    """Return whether packets to a client from this host's own address have a next hop that is not silent."""
    own = server.usual_source(address)
    way = routes.leaving(own, client) if own is not None else Outcome(error=errno.ENETUNREACH)
    return not _is_lost(way) and (way.device, way.gateway or client) not in silent


def _silent(hops: Collection[tuple[int, Address | None]]) -> set[tuple[int, Address]]:
    """Return those of some next hops that do not answer. A datagram to each makes the kernel ask for link addresses."""
    wanted = {(device, hop) for device, hop in hops if hop is not None}
    for device, hop in wanted:
        family = socket.AF_INET if hop.version == 4 else socket.AF_INET6
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, socket.if_indextoname(device).encode())
            asking.sendto(b"", (str(hop), _DISCARD))
    deadline = monotonic() + _ANSWER_S
    while (silent := wanted & neighbours.silent()) and monotonic() < deadline:
        sleep(_PAUSE_S)
    return silent


def _unanswered(address: Address, unanswered: Sequence[Peer]) -> Finding:
    waiting = counted(len(unanswered), "connection")
    return Finding(
        id="server_replies_unanswered",
        severity=Severity.WARNING,
        layer=Layer.REPLY,
        title=f"no client confirms this real server's replies from {address}",
        evidence=f"{waiting} in SYN_RECV, as of {unanswered[0].peer}; SYN-ACKs were sent again",
        why="Requests arrive, and replies are lost on their way: at a gateway, a firewall, or by their source address.",
        fix="Follow a reply by tcpdump, from router to router.",
        about=frozenset({str(address)}),
        symptom=True,
    )
