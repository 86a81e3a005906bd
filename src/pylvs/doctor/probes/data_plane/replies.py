"""Replies of NAT, which leave this director: whether a route leads to the clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from pylvs.doctor.clients import clients_of
from pylvs.doctor.commands import named
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Subject, here, server_subject
from pylvs.doctor.kernel.routes import KernelRoutes, Outcome, rejecting, rules_from
from pylvs.doctor.probes.traffic import answering
from pylvs.doctor.servers import ways_to
from pylvs.model.addresses import Address, ip_option
from pylvs.model.service import Method
from pylvs.netlink.links import Device

_MOST, _MOST_SERVERS = 64, 16


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield that clients of NAT have no route, or one that rejects packets to them."""
    if not facts.has_tables:
        return
    by_nat = {
        server_subject(str(row.service.key), each.destination.key.address): each.destination.key.address
        for row in facts.services
        for each in row.destinations
        if each.destination.method is Method.MASQ
    }
    if not by_nat:
        return
    clients = list(islice(sorted(clients_of(facts), key=str), _MOST))
    with KernelRoutes() as routes:
        ways = {client: routes.leaving_to(client) for client in clients}
        lost = [client for client, way in ways.items() if way.error]
        if lost:
            yield _no_way(by_nat, lost, ways[lost[0]])
            return
        yield from _by_policy(facts, by_nat, clients, routes)


def _no_way(by_nat: Mapping[Subject, Address], lost: Sequence[Address], way: Outcome) -> Finding:
    first = lost[0]
    removing = [each for each in rejecting(first.version) if each.covers(first)]
    return here(
        id="reply_route_missing",
        layer=Layer.ROUTE,
        title=f"this director has no way to {named(lost, 'client')}, whose replies of NAT leave here",
        evidence=f"ip route get {first}: {way.reason or 'error'}"
        + (f", by the {removing[0].text}" if removing else ""),
        why="With NAT the director sends the replies. Without a route it drops them, and refuses the connections.",
        fix="Remove that." if removing else "Add a route to the clients, or a default route.",
        command=removing[0].command if removing else None,
        about=by_nat,
        explains=lost,
    )


def _by_policy(
    facts: Facts, by_nat: Mapping[Subject, Address], clients: Sequence[Address], routes: KernelRoutes
) -> Iterator[Finding]:
    """Yield that the routing policy rejects packets to clients that come from real servers."""
    rejected = dict[Address, tuple[Device, Outcome, Address]]()
    servers = list(islice(dict.fromkeys(by_nat.values()), _MOST_SERVERS))
    for server, way in ways_to(facts, servers).items():
        if way.device is None or server in answering(facts) or not _forwards_all(facts, way.device, server.version):
            continue
        for client in (each for each in clients if each.version == server.version):
            found = routes.arriving(server, client, way.device.index)
            if found.error:
                rejected.setdefault(server, (way.device, found, client))
    if not rejected:
        return
    server, (device, found, client) = next(iter(rejected.items()))
    rules = rules_from(server)
    removing = [each for each in rejecting(client.version) if each.covers(client)]
    cause = (
        f", by a rule of priority {rules[0]}" if rules else "".join(f", by the {each.text}" for each in removing[:1])
    )
    removal = f"ip {ip_option(server.version)}rule del priority {rules[0]}" if rules else None
    yield here(
        id="reply_route_missing",
        layer=Layer.ROUTE,
        title=f"the routing policy of this director rejects replies of {named(list(rejected), 'real server')}",
        evidence=f"ip route get {client} from {server} iif {device.name}: {found.reason or 'error'}{cause}",
        why="With NAT the director sends the replies, by the route for packets that come from this real server.",
        fix="Remove that, or let its table have a route to the clients.",
        command=removal or (removing[0].command if removing else None),
        about=[subject for subject, each in by_nat.items() if each in rejected],
        explains=[client],
    )


def _forwards_all(facts: Facts, device: Device, version: int) -> bool:
    """Return whether routing alone rejects what a device receives: it forwards, and has no reverse path filter."""
    if not device.name.isascii() or not facts.number(f"net/ipv{version}/conf/{device.name}/forwarding"):
        return False
    return version == 6 or not any(facts.number(f"net/ipv4/conf/{each}/rp_filter") for each in ("all", device.name))
