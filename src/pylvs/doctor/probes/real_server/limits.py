"""Rules of a real server that drop a part of the packets: those that exceed a rate or a number, or some at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.packet_filter.host import INPUT, OUTPUT, PacketFilter, packet_filter
from pylvs.doctor.packet_filter.packet import Decision, Packet, Verdict
from pylvs.doctor.probes.data_plane.empty import NO_SERVICE
from pylvs.doctor.probes.real_server.facts import REMOTE_LOGIN, RealServer, listeners, real_server
from pylvs.doctor.probes.real_server.translation import CLIENT
from pylvs.model.addresses import Address, endpoint
from pylvs.model.dataclass import replace
from pylvs.model.errors import counted
from pylvs.netlink.socket_diag import TCP

ID = "server_rate_limit"
_MOST_PORTS = 20
_FEW = 10  # connections a second, or at a time: a page of one browser needs as many
_OTHER_PORT = 9  # discard: no service has it


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield the rules with a limit that has dropped packets of clients, or that few clients exceed."""
    server = real_server(facts)
    if server is None or server.guessed:
        return
    rules, found = packet_filter(facts), set[str]()
    for address in server.held():
        served = [each for each in listeners(facts) or () if each.accepts(address) and each.port != REMOTE_LOGIN]
        for port in [each.port for each in served if each.protocol == TCP][:_MOST_PORTS]:
            for packet in _packets(server, address, port):
                drop = above_limits(rules, packet, address)
                if drop is not None and drop.text not in found and _matters(rules, packet, drop):
                    found.add(drop.text)
                    yield finding(address, port, drop, reply=not packet.new)


def above_limits(rules: PacketFilter, packet: Packet, address: Address) -> Decision | None:
    """Return the drop of packets like this one that exceed a limit; None if they pass, or if each is dropped."""
    hooks = INPUT if packet.new else OUTPUT
    excess = rules.decision(hooks, replace(packet, exceeds=True), str(address))
    if excess.verdict is not Verdict.DROP or not excess.limits:
        return None
    return None if rules.decision(hooks, packet, str(address)).verdict is Verdict.DROP else excess


def _packets(server: RealServer, address: Address, port: int) -> Iterator[Packet]:
    """Yield the first packets of clients to a port, by each device, and the replies."""
    for device in server.outward:
        for client in (*server.known(address)[:1], CLIENT[address.version]):
            yield Packet(client, address, TCP, 40000, port, iif=device.name)
            yield Packet(address, client, TCP, port, 40000, oif=device.name, new=False)


def _matters(rules: PacketFilter, packet: Packet, drop: Decision) -> bool:
    """Return whether a rule has dropped packets of the service, or is so low that few clients exceed it.

    The counter of a rule that drops other packets as well does not show whose it has dropped.
    """
    if min(each.most for each in drop.limits) < _FEW:
        return True
    if any(each.text in drop.text for each in drop.limits):
        return bool(drop.packets)
    other = replace(packet, exceeds=True)
    other = replace(other, dport=_OTHER_PORT) if packet.new else replace(other, sport=_OTHER_PORT)
    hooks = INPUT if packet.new else OUTPUT
    return bool(drop.packets) and rules.decision(hooks, other).text != drop.text


def finding(
    address: Address, port: int, drop: Decision, unanswered: Sequence[str] = (), reply: bool = False
) -> Finding:
    """Return that a rule drops what exceeds a limit; `unanswered`: what came in now without a reply."""
    number = [f"it counted {counted(drop.packets, 'packet')}"] if drop.packets else []
    by_chance, way = all(not each.most for each in drop.limits), "from" if reply else "to"
    return Finding(
        id=ID,
        severity=Severity.WARNING,
        layer=Layer.SERVER,
        title=f"the packet filter of this real server drops a part of the packets {way} {endpoint(address, port)}, "
        + ("at random" if by_chance else "those above a limit"),
        evidence="; ".join([*_texts(drop), *number, *unanswered]),
        why="Connections wait or fail while it drops their packets, and others are answered.",
        fix="Remove the rule."
        if by_chance
        else "Raise the limit, or leave the service out of it: all clients come to this address.",
        fix_host=HERE,
        about=frozenset({str(address)}),
        explains=frozenset({NO_SERVICE}),
    )


def _texts(drop: Decision) -> Iterator[str]:
    """Return the rule that drops, and the ones with the limits, if these are others."""
    own = [each.condition for each in drop.limits if each.text in drop.text and each.condition]
    yield ", by ".join([drop.text, *own])
    for limit in dict.fromkeys(each for each in drop.limits if each.text not in drop.text):
        yield f"before it, {limit.text}" + (f", by {limit.condition}" if limit.condition else "") + ", accepts some"
