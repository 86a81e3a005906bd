"""Link addresses of neighbours: static entries that are wrong; devices and packet filters that stop ARP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.link_settings import link_settings
from pylvs.doctor.packet_filter.host import packet_filter
from pylvs.doctor.packet_filter.packet import Decision, Packet, Verdict
from pylvs.doctor.probes.real_server.facts import real_server
from pylvs.doctor.survey import askable, link_source
from pylvs.doctor.wire.exchange import Exchange
from pylvs.model.addresses import Address
from pylvs.netlink.links import Device
from pylvs.netlink.neighbours import permanent

_MOST = 64  # entries
_LIMIT_S, _AGAIN_S = 0.6, 0.2
_NEIGHBOUR = ip_address("198.18.200.77")


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield wrong entries and silent devices, on a director and on a real server."""
    if not facts.has_tables and real_server(facts) is None:
        return
    devices = {each.index: each for each in facts.devices if askable(each)}
    yield from (_without_arp(each) for each in devices.values() if link_settings().is_without_arp(each.name))
    entries = [(devices[index], address, mac) for (index, address), mac in permanent().items() if index in devices]
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
    """Yield rules that drop ARP for this host's addresses; real servers may drop it for virtual ones."""
    rules, server = packet_filter(facts), real_server(facts)
    if not any(rules.nft.base_chains(hook, ("arp",)) for hook in ("input", "output")):
        return
    silent = server.held() if server is not None and not facts.has_tables else ()
    own = [each for each in facts.addresses if each.address.version == 4 and each.index in devices]
    found: dict[str, list[tuple[Address, Decision]]] = {}
    for address, name in [(each.address, devices[each.index].name) for each in own if each.address not in silent]:
        for hook, packet in (
            ("input", Packet(_NEIGHBOUR, address, iif=name, arp=True)),
            ("output", Packet(address, _NEIGHBOUR, oif=name, arp=True, new=False)),
        ):
            decision = rules.decision([hook], packet, str(address))
            if decision.verdict is Verdict.DROP:
                found.setdefault(decision.text, []).append((address, decision))
    for text, dropped in found.items():
        yield _dropped(text, dict(dropped))


def _dropped(text: str, dropped: Mapping[Address, Decision]) -> Finding:
    named = any(each.named for each in dropped.values())
    commands = [each.remove if named else each.accept for each in dropped.values()]
    addresses = ", ".join(map(str, dropped))
    return Finding(
        id="arp_filtered",
        severity=Severity.ERROR,
        layer=Layer.LINK,
        title=f"the packet filter of this host drops ARP for {addresses}",
        evidence=text,
        why="No host learns the link address, so no packet arrives at this address.",
        fix="Remove the rule." if named else "Accept ARP for these addresses before it.",
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
