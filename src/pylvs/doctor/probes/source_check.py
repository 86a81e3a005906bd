"""The link of this host: whether it carries packets of clients, whose source is not this host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity
from pylvs.doctor.survey import DOUBTS_AGAIN_S, DOUBTS_S, Seen, Sender, subjects, survey, unused_neighbour
from pylvs.doctor.wire.exchange import Exchange
from pylvs.model.director import Connection
from pylvs.model.errors import counted
from pylvs.model.service import Method, Protocol

MOST_ASKED = 8
SAMPLE = 5000  # entries of the connection table
WAITING = "SYN_RECV"


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield that the link discards packets of clients. Sends nothing unless all their handshakes are incomplete."""
    if not facts.has_tables:
        return
    healthy = [each for each in survey(facts).seen if _answers(each)][:MOST_ASKED]
    if healthy and only_waiting(islice(facts.director.connections_apart(), SAMPLE)):
        asked = _asked_back(healthy)
        if not any(asked):
            yield _discarded(healthy)


def _answers(seen: Seen) -> bool:
    """Return whether a server of direct routing on this host's link answers this host at the virtual address."""
    direct = seen.endpoint.destination.method is Method.ROUTE and seen.way.on_link
    return direct and seen.answered("rip_echo") and seen.answered("vip", "vip_echo")


def only_waiting(connections: Iterable[Connection]) -> bool:
    """Return whether there are connections of TCP, and all wait for the end of their handshake."""
    states = {each.state for each in connections if each.protocol is Protocol.TCP and each.client_port}
    return states == {WAITING}


def _asked_back(servers: Sequence[Seen]) -> list[bool]:
    """Return which servers ask for the link address of a host that this one pretends to be.

    A server has to ask before it can reply, so it has received the packet. Only its own address is probed: a request
    that has the virtual address as its sender would mislead other hosts.
    """
    pretended = {each.way.server: unused_neighbour(each) for each in servers}
    own = [address for address in pretended.values() if address is not None]
    with Exchange(own) as exchange:
        questions = []
        for seen in servers:
            sender = Sender(exchange, seen)
            source = pretended[seen.way.server]
            if source is not None:
                payload = exchange.echo(sender.new("unknown_source"))
                questions.append(sender.plain("unknown_source", source, seen.way.server, payload))
        exchange.ask(questions, DOUBTS_S, DOUBTS_AGAIN_S, whole=True)
        return [bool(exchange.answers.asked(address)) for address in own]


def _discarded(servers: Sequence[Seen]) -> Finding:
    device, count = servers[0].way.device, len({each.way.server for each in servers})
    name = device.name if device else ""
    return Finding(
        id="source_discarded",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"the link of {name} discards packets that do not come from this host's addresses",
        evidence=f"{counted(count, 'server')} asked: {servers[0].way.source} gets answers, another source does not;"
        " all connections wait in SYN_RECV",
        why="Direct routing forwards packets with the client's address as their source. The switch or hypervisor checks"
        " sources at this host's port.",
        fix="Switch the source check of this host's port off (port security, anti-spoofing, source/destination check).",
        about=subjects(servers),
    )
