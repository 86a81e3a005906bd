"""Virtual addresses: whether packets to them reach this host."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.dataplane.devices.host import absent
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.virtual_routers import standby_of
from pylvs.model.addresses import command_to_add


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield the virtual addresses that this host does not have."""
    if not facts.has_tables:
        return
    standby = standby_of(facts)
    for address, device in absent(each for each in facts.virtual_addresses if each not in standby).items():
        yield Finding(
            id="vip_missing",
            severity=Severity.ERROR,
            layer=Layer.ADDRESS,
            title=f"{address} is not an address of this host",
            evidence=f"no device has {address}, no local route leads to it, and no virtual router is master of it",
            why="No host answers ARP or ND for it, so no packet of a client arrives.",
            fix="Add the address, or let VRRP add it.",
            fix_command=command_to_add(address, device),
            fix_host=HERE,
            about=frozenset({str(address)}),
        )
