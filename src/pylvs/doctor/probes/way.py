"""The way to a real server: routes, links and neighbours, without which no packet reaches it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from pylvs.doctor.clones import Clones
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, Subject, here
from pylvs.doctor.kernel.routes import rejecting
from pylvs.doctor.probes.devices import link_down, lowest_down
from pylvs.doctor.servers import Way
from pylvs.doctor.survey import Seen, askable, subjects
from pylvs.doctor.wire.exchange import Answers
from pylvs.model.addresses import Address, ip_option
from pylvs.model.service import Method
from pylvs.netlink.links import AssignedAddress, Device

SILENT, ELSEWHERE = "neighbour_silent", "neighbour_elsewhere"
_MOST_NAMED = 5


def findings(
    way: Way, seen: Sequence[Seen], devices: Collection[Device], held: Collection[AssignedAddress] = ()
) -> Iterator[Finding]:
    """Yield why no packet of this host reaches a real server. `devices` and `held` addresses are those of this host."""
    about, device = subjects(seen), way.device
    if way.is_local:
        if way.not_held:
            yield _taken_for_local(way, devices, held, about)
        return
    link = next((each for each in devices for reply in seen[0].elsewhere if each.index == reply.ifindex), None)
    if link is not None and seen[0].is_off_link:
        yield _outside_network(way, link, about)
        return
    if device is None:
        yield _no_route(way, about)
        return
    by_route = [each for each in seen if each.endpoint.destination.method is Method.ROUTE]
    if (lowest := lowest_down(device, devices)) is not None:
        why = f"Packets to real servers leave by {device.name}."
        yield link_down(lowest, device, devices, Layer.LINK, why, about)
    elif by_route and not way.on_link:
        yield _behind_gateway(way, subjects(by_route))


def _taken_for_local(
    way: Way, devices: Collection[Device], held: Collection[AssignedAddress], about: frozenset[Subject]
) -> Finding:
    """Return that packets to a real server stay here: a network on lo has it, or a route of type local."""
    server, option = way.server, ip_option(way.server.version)
    loopback = {each.index: each.name for each in devices if each.loopback}
    wide = next((each for each in held if each.index in loopback and server in each.network), None)
    at_lo = f"{loopback[wide.index]} has {wide.address}/{wide.prefix}, a whole network" if wide else ""
    command = f"ip {option}route del local {server}"
    if wide:
        name, most = loopback[wide.index], wide.address.max_prefixlen
        command = (
            f"ip address add {wide.address}/{most} dev {name}; ip address del {wide.address}/{wide.prefix} dev {name}"
        )
    return Finding(
        id="server_taken_for_local",
        severity=Severity.ERROR,
        layer=Layer.ROUTE,
        title=f"this director takes {'all addresses of ' + str(wide.network) if wide else server} for its own",
        evidence=f"ip route get {server}: local{f'; {at_lo}' if at_lo else ''}",
        why="The kernel delivers packets to such an address to this host: real servers and clients there get none.",
        fix=f"Give {wide.address} the longest prefix." if wide else "Remove the route.",
        fix_command=command,
        fix_host=HERE,
        about=about,
    )


def _outside_network(way: Way, link: Device, about: frozenset[Subject]) -> Finding:
    option = ip_option(way.server.version)
    to = f"via {way.hop}" if way.hop else "unreachable"
    return Finding(
        id="server_outside_network",
        severity=Severity.ERROR,
        layer=Layer.ROUTE,
        title=f"{way.server} is on the link of {link.name}, and outside the networks of its addresses",
        evidence=f"{way.server} answers {_what(way)} on {link.name}; ip route get {way.server}: {to}",
        why="The prefix length of this host's address is likely wrong: no route leads from the device to this server.",
        fix=f"Correct the prefix length of the address of {link.name}. A route mends it until the next boot.",
        fix_command=f"ip {option}route add {way.server} dev {link.name}",
        fix_host=HERE,
        about=about,
    )


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


def is_silent(way: Way, seen: Sequence[Seen]) -> bool:
    """Return whether a way has no other cause, and its next hop does not answer ARP or neighbour discovery."""
    return way.device is not None and not way.is_local and askable(way.device) and not seen[0].macs


def of_neighbours(
    silent: Mapping[Way, Sequence[Seen]], asked: Iterable[Way], devices: Iterable[Device], answers: Answers
) -> Iterator[Finding]:
    """Yield why next hops do not answer. If none of several does on a device, the finding is about its link."""
    hops: dict[Device | None, set[Address | None]] = defaultdict(set)
    for path in asked:
        hops[path.device].add(path.hop)
    by_device: dict[Device, dict[Way, Device | None]] = defaultdict(dict)
    names = {each.index: each for each in devices}
    for path, seen in silent.items():
        assert path.device is not None
        if any(each.sender == path.hop for each in answers.of_mac(path.device.mac, path.device.index)):
            yield with_own_mac(path.device, str(path.hop), subjects(seen))
            continue
        other = next((names[each.ifindex] for each in seen[0].elsewhere if each.ifindex in names), None)
        by_device[path.device][path] = other
    for device, others in by_device.items():
        missing, found = {path.hop for path in others}, set(others.values())
        about = frozenset[Subject]().union(*(subjects(silent[path]) for path in others))
        if len(missing) > 1 and missing == hops[device] and len(found) == 1 and not answers.is_alive(device.index):
            other = found.pop()
            yield _link_elsewhere(device, other, about) if other else _silent_link(device, list(others), about)
            continue
        for path, other in others.items():
            about = subjects(silent[path])
            yield _elsewhere(path, device, other, about) if other else _silent_neighbour(path, about)


def _silent_link(device: Device, ways: Sequence[Way], about: frozenset[Subject]) -> Finding:
    hops = sorted({str(path.hop) for path in ways})
    named = ", ".join(hops[:_MOST_NAMED]) + (" ..." if len(hops) > _MOST_NAMED else "")
    ports = (
        f"the VLAN of {device.name}, {device.vid}, with those" if device.vid else f"the link of {device.name} with that"
    )
    return Finding(
        id="link_silent",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"no host answers on {device.name}",
        evidence=f"on {device.name}{_tag(device)} no host answers {_what(ways[0])}: {named}",
        why="One wrong link is likelier than a fault of each host: another VLAN, another port, or a cable.",
        fix=f"Compare {ports} of the switch's port and of the real servers.",
        about=about | {device.name},
        symptom=True,
    )


def _link_elsewhere(device: Device, other: Device, about: frozenset[Subject]) -> Finding:
    return Finding(
        id=ELSEWHERE,
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"the real servers answer on {other.name}, and the routes to them lead to {device.name}",
        evidence=f"all that are silent on {device.name}{_tag(device)} answer on {other.name}{_tag(other)}",
        why="Packets to them leave in another VLAN, or by another link, than theirs.",
        fix=f"Move the address of their network from {device.name} to {other.name}.",
        about=about | {device.name},
    )


def _elsewhere(way: Way, device: Device, other: Device, about: frozenset[Subject]) -> Finding:
    """Return that a next hop is on the link of another device than the one to which the route leads."""
    return Finding(
        id=ELSEWHERE,
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"{way.hop} answers on {other.name}, and the route to it leads to {device.name}",
        evidence=f"a host answers {_what(way)} for {way.hop} on {other.name}{_tag(other)}, and none on"
        f" {device.name}{_tag(device)}",
        why="The host and the route of this director are in different VLANs, or on different links.",
        fix=f"Put {way.hop} into the network of {device.name}, or let the route lead to {other.name}.",
        about=about,
    )


def _what(way: Way) -> str:
    return "ARP" if way.server.version == 4 else "neighbour discovery"


def _tag(device: Device) -> str:
    return f" (VLAN {device.vid})" if device.vid else ""


def _silent_neighbour(way: Way, about: frozenset[Subject]) -> Finding:
    assert way.device is not None
    subject = str(way.hop) if way.on_link else f"the gateway {way.hop}"
    return Finding(
        id=SILENT,
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"{subject} does not answer on {way.device.name}",
        evidence=f"no host on {way.device.name}{_tag(way.device)} answers {_what(way)} for {way.hop}",
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


def with_own_mac(device: Device, other: str, about: Iterable[Subject] = ()) -> Finding:
    """Return that another host has the link address of a device; `other` is its address, or "" if that is not known."""
    mac, name = device.mac.hex(":"), f", {other}," if other else ""
    return here(
        id="link_address_twice",
        layer=Layer.LINK,
        title=f"another host{name} has the link address of {device.name}, {mac}",
        evidence=f"ARP or neighbour discovery{f' of {other}' if other else ''} on {device.name} has the sender {mac}",
        why="A switch sends frames to the port where it saw a link address last, so one host gets those of the other.",
        fix="Give one of the hosts another link address: clones of a virtual machine need new ones.",
        about=[device.name, *([other] if other else []), *about],
    )


def one_mac(clones: Clones, seen: Iterable[Seen]) -> Finding:
    """Return that several hosts have one link address; `seen` are the real servers."""
    mac, version = clones.mac.hex(":"), clones.hosts[0].version
    names = f"{', '.join(map(str, clones.hosts[:-1]))} and {clones.hosts[-1]}"
    return Finding(
        id="link_address_twice",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"{names} are different hosts with one link address, {mac}",
        evidence=f"{mac} answers {'ARP' if version == 4 else 'ND'} for each of them on {clones.device.name}; behind the"
        " answer of one, an echo to another is not answered",
        why="A switch sends frames to the port where it saw a link address last, so one host gets those of the others.",
        fix="Give each host a link address of its own: clones of a virtual machine need new ones.",
        about=subjects(each for each in seen if each.way.hop in clones.hosts),
    )
