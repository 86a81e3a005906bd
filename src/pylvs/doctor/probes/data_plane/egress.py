"""Chains of nf_tables at egress of a director's devices. What TC forwards passes this hook of netfilter alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, server_subject
from pylvs.doctor.packet_filter.host import SENT_BY_TC, packet_filter
from pylvs.doctor.packet_filter.packet import Decision, Packet, Verdict
from pylvs.doctor.servers import Endpoint, endpoints, sources, ways_to
from pylvs.model.dataclass import replace
from pylvs.model.service import Method, TunnelKind
from pylvs.netlink.links import Device, Routes

_MOST_SENT = 64  # real servers
_CLIENT = {4: ip_address("198.18.200.77"), 6: ip_address("2600:1f00::77")}
_IPIP, _IPV6 = 4, 41
_OF_TUNNEL = {TunnelKind.GRE: 47, TunnelKind.GUE: 17}


def egress_findings(facts: Facts) -> Sequence[Finding]:
    """Return the rules of chains at egress that drop what the packet path sends; each explains its servers."""
    return facts.once("egress chains", lambda: list(_dropping(facts)) if facts.has_tables else [])


def _dropping(facts: Facts) -> Iterator[Finding]:
    rules = packet_filter(facts)
    if not rules.nft.base_chains("egress", ("netdev",)):
        return
    found = dict[str, Finding]()
    wanted = endpoints(facts.services)[:_MOST_SENT]
    ways = ways_to(facts, {endpoint.server for endpoint in wanted})
    with Routes() as routes:
        for endpoint in wanted:
            device = ways[endpoint.server].device
            if device is None:
                continue
            for packet in _leaving(facts, endpoint, device, routes):
                decision = rules.decision(SENT_BY_TC, packet, str(endpoint.service.address))
                if decision.verdict is Verdict.DROP:
                    first = found.setdefault(decision.text, _chain_drops(packet, endpoint, decision))
                    subject = server_subject(str(endpoint.listed), endpoint.server)
                    found[decision.text] = replace(first, explains=first.explains | {subject})
    yield from found.values()


def _leaving(facts: Facts, endpoint: Endpoint, device: Device, routes: Routes) -> Iterator[Packet]:
    """Yield what leaves for a real server, and for clients of NAT."""
    service, server, port = endpoint.service, endpoint.server, endpoint.destination.key.port
    client = _CLIENT[service.address.version]
    if endpoint.destination.method is Method.ROUTE:
        yield Packet(client, service.address, service.protocol, 40000, service.port, oif=device.name)
    elif endpoint.destination.method is Method.TUNNEL:
        source, _ = sources(facts, server, server, device.index)
        protocol = _OF_TUNNEL.get(endpoint.destination.tunnel.kind, _IPIP if service.address.version == 4 else _IPV6)
        yield Packet(source or server, server, protocol, 0, endpoint.destination.tunnel.port, oif=device.name)
    elif endpoint.destination.method is Method.MASQ:
        yield Packet(client, server, service.protocol, 40000, port, oif=device.name)
        back = routes.to(client)
        name = next((one.name for one in facts.devices if back and one.index == back.ifindex), "")
        for outer in [name] if name else [one.name for one in facts.devices if one.up and not one.loopback]:
            yield Packet(service.address, client, service.protocol, service.port, 40000, oif=outer, new=False)


def _chain_drops(packet: Packet, endpoint: Endpoint, decision: Decision) -> Finding:
    return Finding(
        id="egress_filtered",
        severity=Severity.ERROR,
        layer=Layer.ATTACHMENT,
        title=f"a chain of nf_tables on {packet.oif} drops what this director sends for {endpoint.service}",
        evidence=f"{decision.text}, for a packet from {packet.saddr} to {packet.daddr}",
        why="Packets that TC forwards pass no hook of netfilter but this one, behind the packet path.",
        fix="Remove the rule." if decision.remove else "Accept these packets before it.",
        fix_command=decision.remove or decision.accept,
        fix_host=HERE,
        about=frozenset({packet.oif, str(endpoint.service.address)}),
    )
