"""Link addresses of neighbours: static entries that are wrong, and devices that take no part in ARP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.link_settings import link_settings
from pylvs.doctor.probes.real_server.facts import real_server
from pylvs.doctor.survey import askable, link_source
from pylvs.doctor.wire.exchange import Exchange
from pylvs.model.addresses import Address
from pylvs.netlink.links import Device
from pylvs.netlink.neighbours import permanent

_MOST = 64  # entries
_LIMIT_S, _AGAIN_S = 0.6, 0.2


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield wrong entries and silent devices, on a director and on a real server."""
    if not facts.has_tables and real_server(facts) is None:
        return
    devices = {each.index: each for each in facts.devices if askable(each)}
    yield from (_without_arp(each) for each in devices.values() if link_settings().is_without_arp(each.name))
    entries = [(devices[index], address, mac) for (index, address), mac in permanent().items() if index in devices]
    if entries:
        yield from _wrong(facts, entries[:_MOST])


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
