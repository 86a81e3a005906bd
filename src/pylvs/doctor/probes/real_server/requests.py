"""Requests that a real server receives and does not answer, and the rules that may drop them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, here
from pylvs.doctor.kernel.handshakes import Handshakes, Opening
from pylvs.doctor.packet_filter.host import INPUT, OUTPUT, packet_filter
from pylvs.doctor.packet_filter.packet import Decision, Packet, Verdict
from pylvs.doctor.probes.real_server import limits
from pylvs.doctor.probes.real_server.facts import RealServer, listeners, real_server
from pylvs.model.addresses import endpoint
from pylvs.model.errors import counted
from pylvs.netlink.socket_diag import TCP

_LOOK_S = 1.5
_MOST = 200  # openings: each is compared with all rules
_SEVERAL = 3  # openings


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield that SYNs come to an application, and no reply leaves."""
    server = real_server(facts)
    if server is None or server.guessed or not server.held():
        return
    with Handshakes(server.outward) as handshakes:
        seen = handshakes.unanswered(server.held(), _LOOK_S)
    sockets = [each for each in listeners(facts) or () if each.protocol == TCP]
    asked = (each for each in seen if any(some.port == each.port and some.accepts(each.address) for some in sockets))
    lost, refused, rule = list[Opening](), list[tuple[Opening, Decision]](), ""
    limited = list[tuple[Opening, Decision]]()
    for opening in islice(asked, _MOST):
        decisions = list(_decisions(facts, server, opening))
        if (drop := next((found for found in decisions if found.verdict is Verdict.DROP), None)) is not None:
            refused.append((opening, drop))
            continue  # a block list is meant so; the findings of filter.py tell which rules are not
        if (over := _above_limits(facts, server, opening)) is not None:
            limited.append((opening, over))
            continue
        lost.append(opening)
        rule = rule or next((found.text for found in decisions if found.verdict is Verdict.UNKNOWN and found.text), "")
    if limited:
        (first, over), number = limited[0], counted(len(limited), "SYN")
        now = [f"{number} within {_LOOK_S:g} s, as of {first.client}, got no reply"]
        yield limits.finding(first.address, first.port, over, now)
    if not lost:
        yield from _closed(server, refused)
        return
    first = lost[0]
    yield here(
        id="server_firewall" if rule else "server_requests_unanswered",
        layer=Layer.SERVER,
        title=f"this real server receives SYNs to {endpoint(first.address, first.port)}, and does not answer them"
        + (": a rule of its packet filter may drop them" if rule else ""),
        evidence=f"{counted(len(lost), 'SYN')} within {_LOOK_S:g} s, as of {first.client}, and no reply left"
        + (f"; {rule}, by a condition that depends on more than addresses and ports" if rule else ""),
        why="The application listens, so something between the device and its socket drops these packets.",
        fix="Remove the rule, or accept the service before it."
        if rule
        else "Look at nft list ruleset, ip xfrm policy, and nstat.",
        about=[first.address],
        symptom=not rule,
    )


def _closed(server: RealServer, refused: Sequence[tuple[Opening, Decision]]) -> Iterator[Finding]:
    """Yield that a policy drops the clients, as one that accepts the director alone: none of them is connected."""
    by_policy = [(opening, drop) for opening, drop in refused if drop.accept and not drop.remove]
    connected = {each.local for each in server.peers}
    closed = [(opening, drop) for opening, drop in by_policy if opening.address not in connected]
    if len(closed) < _SEVERAL:
        return
    first, drop = closed[0]
    yield here(
        id="server_firewall",
        layer=Layer.SERVER,
        title=f"the packet filter of this real server accepts no client at {endpoint(first.address, first.port)}",
        evidence=f"{counted(len(closed), 'SYN')} within {_LOOK_S:g} s, as of {first.client}: {drop.text}; no client is"
        " connected there",
        why="The director does not change the source of packets, so a rule that accepts the director is not enough.",
        fix="Accept the clients of the service before that.",
        command=drop.accept,
        about=[first.address],
    )


def _above_limits(facts: Facts, server: RealServer, opening: Opening) -> Decision | None:
    """Return the drop of a SYN or of its reply by a rule with a limit."""
    rules = packet_filter(facts)
    found = (limits.above_limits(rules, packet, opening.address) for _, packet in _passing(server, opening))
    return next(filter(None, found), None)


def _decisions(facts: Facts, server: RealServer, opening: Opening) -> Iterator[Decision]:
    """Yield what the packet filter decides on a SYN and on its reply, for each device by which they may pass."""
    for hooks, packet in _passing(server, opening):
        yield packet_filter(facts).decision(hooks, packet, str(opening.address))


def _passing(server: RealServer, opening: Opening) -> Iterator[tuple[Sequence[str], Packet]]:
    """Yield a SYN and its reply by each device, with the hooks that they pass."""
    client, client_port, address, port = opening
    for name in (each.name for each in server.outward):
        yield INPUT, Packet(client, address, TCP, client_port, port, iif=name)
        yield OUTPUT, Packet(address, client, TCP, port, client_port, oif=name, new=False)
