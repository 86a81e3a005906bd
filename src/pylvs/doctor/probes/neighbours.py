"""Link addresses of neighbours: static entries that are wrong; devices and packet filters that stop ARP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.link_settings import link_settings
from pylvs.doctor.packet_filter.host import INPUT, OUTPUT, packet_filter
from pylvs.doctor.packet_filter.packet import ADVERTISEMENT, SOLICITATION, Decision, Packet, Verdict
from pylvs.doctor.probes.real_server.facts import real_server
from pylvs.doctor.survey import askable, link_source
from pylvs.doctor.wire.exchange import Exchange
from pylvs.model.addresses import Address
from pylvs.netlink.links import Device

_MOST = 64  # entries
_LIMIT_S, _AGAIN_S = 0.6, 0.2
_NEIGHBOUR, _NEIGHBOUR_6 = ip_address("198.18.200.77"), ip_address("fe80::77")
_ICMP6 = 58


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield wrong entries and silent devices, on a director and on a real server."""
    if not facts.has_tables and real_server(facts) is None:
        return
    devices = {each.index: each for each in facts.devices if askable(each)}
    yield from (_without_arp(each) for each in devices.values() if link_settings().is_without_arp(each.name))
    static = facts.static_neighbours.items()
    entries = [(devices[index], address, mac) for (index, address), mac in static if index in devices]
    if entries:
        yield from _wrong(facts, entries[:_MOST])
    yield from _filtered(facts, devices)


def _wrong(facts: Facts, entries: Sequence[tuple[Device, Address, bytes]]) -> Iterator[Finding]:
    with Exchange({each.address for each in facts.addresses}) as exchange:
        questions = [
            exchange.who_has(device, address, source)
            for device, address, _ in entries
            if (source := link_source(facts, device, address)) or address.version == 4
        ]
        exchange.ask(questions, _LIMIT_S, _AGAIN_S)
        for device, address, mac in entries:
            there = [reply.mac for reply in exchange.answers.macs(address)]
            if there and mac not in there:
                yield _static(device, address, mac, there[0])


def _filtered(facts: Facts, devices: Mapping[int, Device]) -> Iterator[Finding]:
    """Yield rules that drop ARP or neighbour discovery for this host's addresses.

    Real servers may drop it for virtual addresses.
    """
    rules, server = packet_filter(facts), real_server(facts)
    silent = server.held() if server is not None and not server.by_nat and not facts.has_tables else ()
    own = [each for each in facts.addresses if each.index in devices and not each.address.is_link_local]
    found: dict[str, list[tuple[Address, Decision]]] = {}
    for address, name in [(each.address, devices[each.index].name) for each in own if each.address not in silent][
        :_MOST
    ]:
        for hooks, packet in _asking(address, name):
            decision = rules.decision(hooks, packet, str(address))
            if decision.verdict is Verdict.DROP:
                found.setdefault(decision.text, []).append((address, decision))
    for text, dropped in found.items():
        yield _dropped(text, dict(dropped))


def _asking(address: Address, name: str) -> Iterator[tuple[Sequence[str], Packet]]:
    """Yield the packets by which neighbours learn the link address of an address, and the hooks that they pass."""
    if isinstance(address, IPv4Address):
        yield ("ingress", "input"), Packet(_NEIGHBOUR, address, iif=name, arp=True)
        yield ("output", "egress"), Packet(address, _NEIGHBOUR, oif=name, arp=True, new=False)
        return
    group = ip_address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[13:])
    for daddr in (group, address):
        yield INPUT, Packet(_NEIGHBOUR_6, daddr, _ICMP6, iif=name, icmp_type=SOLICITATION)
    yield OUTPUT, Packet(address, _NEIGHBOUR_6, _ICMP6, oif=name, new=False, icmp_type=ADVERTISEMENT)
    yield OUTPUT, Packet(address, group, _ICMP6, oif=name, icmp_type=SOLICITATION)
    yield INPUT, Packet(_NEIGHBOUR_6, address, _ICMP6, iif=name, new=False, icmp_type=ADVERTISEMENT)


def _dropped(text: str, dropped: Mapping[Address, Decision]) -> Finding:
    named = any(each.named for each in dropped.values())
    commands = [each.remove if named else each.accept for each in dropped.values()]
    addresses = ", ".join(map(str, dropped))
    by_arp = all(each.version == 4 for each in dropped)
    return Finding(
        id="arp_filtered" if by_arp else "discovery_filtered",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"the packet filter of this host drops {'ARP' if by_arp else 'neighbour discovery'} for {addresses}",
        evidence=text,
        why="No host learns the link address, so no packet arrives at this address.",
        fix="Remove the rule." if named else "Accept it for these addresses before that rule.",
        fix_command=" && ".join(dict.fromkeys(filter(None, commands))),
        fix_host=HERE,
        about=frozenset(map(str, dropped)),
    )


def _static(device: Device, address: Address, noted: bytes, real: bytes) -> Finding:
    return Finding(
        id="static_neighbour_wrong",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"a static neighbour entry of this host sends packets to {address} to a wrong link address",
        evidence=f"ip neigh show {address}: lladdr {noted.hex(':')} on {device.name}, but {real.hex(':')} answers",
        why="The kernel never asks for the link address of a permanent entry.",
        fix="Delete the entry.",
        fix_command=f"ip neigh del {address} dev {device.name}",
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _without_arp(device: Device) -> Finding:
    return Finding(
        id="device_without_arp",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"ARP is off for {device.name}",
        evidence=f"{device.name} has the flag NOARP",
        why="It neither answers ARP nor asks for link addresses: no other host reaches it, or is reached, by it.",
        fix="Switch ARP on.",
        fix_command=f"ip link set dev {device.name} arp on",
        fix_host=HERE,
        about=frozenset({device.name}),
    )
