"""Rules of NAT on a real server: whether they send packets for a service where no application listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, here
from pylvs.doctor.packet_filter.host import packet_filter
from pylvs.doctor.packet_filter.packet import Packet, Translation
from pylvs.doctor.probes.checks import connect
from pylvs.doctor.probes.real_server.facts import REMOTE_LOGIN, RealServer, listeners, real_server
from pylvs.model.addresses import Address, endpoint
from pylvs.netlink.socket_diag import TCP, Listener

CLIENT = {4: ip_address("198.18.200.77"), 6: ip_address("2600:1f00::77")}
MOST_PORTS = 40
_CLIENT_PORT = 40000


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield rules that translate what comes to an address of a service, and lead nowhere."""
    server = real_server(facts)
    sockets = listeners(facts) if server is not None else None
    if server is None or sockets is None:
        return
    streams = [each for each in sockets if each.protocol == TCP and each.port != REMOTE_LOGIN]
    rules = packet_filter(facts)
    ports = sorted(rules.translated_ports() | {each.port for each in streams})[:MOST_PORTS]
    for address in server.held():
        found = dict[str, Finding]()
        client = next((each for each in server.known(address)), CLIENT[address.version])
        for port, other in translations(facts, server, client, address, ports):
            if other.text in found:
                continue
            if where := _nowhere(facts, server, address, streams, other):
                found[other.text] = _dead_end(address, port, other, where)
        yield from found.values()


def translations(
    facts: Facts, server: RealServer, client: Address, address: Address, ports: Iterable[int]
) -> Iterator[tuple[int, Translation]]:
    """Yield what rules of NAT make of a client's first packets to ports of an address, that come by each device."""
    rules = packet_filter(facts)
    for port in ports:
        for device in server.outward:
            other = rules.translation(Packet(client, address, TCP, _CLIENT_PORT, port, iif=device.name))
            if other is not None:
                yield port, other


def _nowhere(
    facts: Facts, server: RealServer, address: Address, streams: Sequence[Listener], other: Translation
) -> str:
    """Return where a translated packet arrives without an application, "" if there is one."""
    here = {each.address for each in facts.addresses}
    if other.address is None or other.address in here:
        targets = [other.address] if other.address else [*server.own(address.version), address]
        if any(each.port == other.port and any(map(each.accepts, targets)) for each in streams):
            return ""
        return f"port {other.port} of this host, where no application listens"
    # Without a named address, a rule to another host, such as a container that was stopped, may concern no service.
    if server.guessed or not connect(endpoint(other.address, other.port)).error:
        return ""
    return f"{endpoint(other.address, other.port)}, which does not accept a connection"


def _dead_end(address: Address, port: int, other: Translation, where: str) -> Finding:
    return here(
        id="server_nat_rule",
        layer=Layer.SERVER,
        title=f"a rule of NAT sends packets to {endpoint(address, port)} to {where}",
        evidence=other.text,
        why="The packet filter replaces their destination before an application sees them.",
        fix="Remove the rule.",
        command=other.remove,
        about=[address],
    )
