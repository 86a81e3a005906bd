"""The way to a real server: routes, links and neighbours, without which no packet reaches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pylvs.doctor.finding import HERE, Finding, Layer, Severity, Subject
from pylvs.doctor.kernel.routes import rejecting
from pylvs.doctor.servers import Way
from pylvs.doctor.survey import Seen, askable, subjects
from pylvs.model.addresses import Address
from pylvs.model.service import Method


def findings(way: Way, seen: Sequence[Seen]) -> Iterator[Finding]:
    """Yield why no packet of this host reaches a real server."""
    about, device = subjects(seen), way.device
    if way.is_local:
        return
    if device is None:
        yield _no_route(way, about)
        return
    by_route = [each for each in seen if each.endpoint.destination.method is Method.ROUTE]
    if not device.up or not device.carrier:
        yield _link_down(way, about)
    elif by_route and not way.on_link:
        yield _behind_gateway(way, subjects(by_route))
    elif askable(device) and not seen[0].macs:
        yield _silent_neighbour(way, about)


def _no_route(way: Way, about: frozenset[Subject]) -> Finding:
    server = way.server
    if way.dropping:
        return Finding(
            id="route_drops",
            severity=Severity.ERROR,
            layer=Layer.ROUTE,
            title=f"a {way.dropping} route or rule drops all packets to {server}",
            evidence=f"ip route get {server}: {way.dropping}",
            why="The packet path follows the routes of this host, so no packet reaches this real server.",
            fix="Remove it.",
            fix_command=_without_dropping(way),
            fix_host=HERE,
            about=about,
        )
    return Finding(
        id="no_route",
        severity=Severity.ERROR,
        layer=Layer.ROUTE,
        title=f"there is no route to {server}",
        evidence=f"ip route get {server}: unreachable",
        why="No packet reaches this real server.",
        fix="Add a route, or an address of its network to the device towards it.",
        fix_host=HERE,
        about=about,
    )


def _without_dropping(way: Way) -> str:
    rules = [each for each in rejecting(way.server.version) if each.is_rule and each.covers(way.server)]
    if rules:
        return rules[0].command
    family, kind = ("-4", way.dropping) if way.server.version == 4 else ("-6", way.dropping)
    return (
        f"ip {family} route show match {way.server} type {kind} | sort -t/ -k2 -n | tail -n 1 |"
        f" while read -r route; do ip {family} route del $route; done"
    )


def _link_down(way: Way, about: frozenset[Subject]) -> Finding:
    assert way.device is not None
    name = way.device.name
    down = not way.device.up
    return Finding(
        id="link_down",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"{name} is down" if down else f"{name} has no carrier",
        evidence=f"ip link show {name}: {'it is not set up' if down else 'NO-CARRIER'}",
        why="Packets to real servers leave by it.",
        fix="Set it up." if down else "Mend its cable, or the switch's port.",
        fix_command=f"ip link set {name} up" if down else None,
        fix_host=HERE if down else None,
        about=about | {name},
    )


def _behind_gateway(way: Way, about: frozenset[Subject]) -> Finding:
    assert way.device is not None
    return Finding(
        id="server_behind_gateway",
        severity=Severity.ERROR,
        layer=Layer.ROUTE,
        title=f"{way.server} is behind the gateway {way.hop}, which direct routing cannot cross",
        evidence=f"ip route get {way.server}: via {way.hop} dev {way.device.name}",
        why="Direct routing changes the link address alone: the gateway gets a packet to the virtual address, and"
        " routes it back.",
        fix="Use a tunnel (ipvsadm -i) for this server, or an address on this host's link.",
        about=about,
    )


def _silent_neighbour(way: Way, about: frozenset[Subject]) -> Finding:
    assert way.device is not None
    what = "ARP" if way.server.version == 4 else "neighbour discovery"
    subject = str(way.hop) if way.on_link else f"the gateway {way.hop}"
    return Finding(
        id="neighbour_silent",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"{subject} does not answer on {way.device.name}",
        evidence=f"no host on {way.device.name} answers {what} for {way.hop}",
        why="Without its link address no packet can be sent there: the host is down, on another network, or has another"
        " address.",
        fix="Start the host, or correct its address in the table." if way.on_link else "Start the gateway.",
        about=about,
    )


def behind_proxy(seen: Seen, router: Address) -> Finding:
    """Judge a server of direct routing for which another host answers ARP or ND."""
    server, mac = seen.endpoint.server, seen.macs[0].mac.hex(":")
    what = "ARP" if server.version == 4 else "ND"
    return Finding(
        id="server_behind_proxy",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"{router} answers {what} for {server}, which direct routing cannot cross",
        evidence=f"{mac} answers for {server} and for {router}, and nothing answers there at"
        f" {seen.endpoint.service.address}",
        why="Direct routing changes the link address alone: the router, with proxy ARP, gets a packet to the virtual"
        " address.",
        fix="Use a tunnel (ipvsadm -i) for this server, or connect it to this host's link.",
        about=subjects([seen]),
    )


def two_hosts(server: Address, seen: Sequence[Seen], macs: Iterable[bytes]) -> Finding:
    names = sorted(each.hex(":") for each in macs)
    way = seen[0].way
    return Finding(
        id="server_twice",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"two hosts have the address {way.hop}",
        evidence=f"{' and '.join(names)} answer {'ARP' if server.version == 4 else 'ND'} for it",
        why="This host sends to the one that answered last, which may be the wrong one.",
        fix="Take the address from the host that shall not have it.",
        about=subjects(seen),
    )
