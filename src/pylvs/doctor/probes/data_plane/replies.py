"""Replies of NAT, which leave this director: whether a route leads to the clients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pylvs.doctor.clients import clients_of
from pylvs.doctor.commands import named
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, here, server_subject
from pylvs.doctor.kernel.routes import KernelRoutes, rejecting
from pylvs.model.service import Method

_MOST = 64  # clients


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield that clients of NAT have no route, or one that rejects packets to them."""
    if not facts.has_tables:
        return
    by_nat = {
        server_subject(str(row.service.key), each.destination.key.address)
        for row in facts.services
        for each in row.destinations
        if each.destination.method is Method.MASQ
    }
    if not by_nat:
        return
    with KernelRoutes() as routes:
        ways = {client: routes.leaving_to(client) for client in islice(sorted(clients_of(facts), key=str), _MOST)}
    lost = [client for client, way in ways.items() if way.error]
    if not lost:
        return
    first = lost[0]
    removing = [each for each in rejecting(first.version) if each.covers(first)]
    yield here(
        id="reply_route_missing",
        layer=Layer.ROUTE,
        title=f"this director has no way to {named(lost, 'client')}, whose replies of NAT leave here",
        evidence=f"ip route get {first}: {ways[first].reason or 'error'}"
        + (f", by the {removing[0].text}" if removing else ""),
        why="With NAT the director sends the replies. Without a route it drops them, and refuses the connections.",
        fix="Remove that." if removing else "Add a route to the clients, or a default route.",
        command=removing[0].command if removing else None,
        about=by_nat,
        explains=lost,
    )
