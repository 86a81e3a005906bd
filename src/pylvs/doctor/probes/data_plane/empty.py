"""A director without a service: the table was cleared, or nothing has filled it. Clients still come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from pylvs.dataplane.devices.attach import attached
from pylvs.doctor.commands import named
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity
from pylvs.doctor.kernel.sniffer import Arrivals
from pylvs.doctor.running import process_of
from pylvs.model.addresses import Address, endpoint
from pylvs.model.service import is_probe_mark
from pylvs.netlink import socket_diag
from pylvs.netlink.links import AssignedAddress
from pylvs.netlink.socket_diag import TCP

NO_SERVICE = "clients without a service"  # the subject of clients that are refused; an empty table explains it
_SAMPLE = 5000  # entries of the connection table
_LOOK_S = 0.8
_SECONDARY = 0x01  # IFA_F_SECONDARY


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield that the table has no service, or lost one that clients ask for."""
    if not facts.has_tables or process_of(facts):
        return  # a daemon fills the table: its own findings tell what it lacks
    rows = [row for row in facts.director.services() if not is_probe_mark(row.service.key.mark)]
    if rows or not any(not each.device.startswith("lo") for each in attached(facts.director.state)):
        return
    former = formerly_served(facts)
    asked = [] if former else asked_for(facts)
    virtual = [each for each in facts.addresses if is_virtual(each)]
    yield of_table(former, asked, [each.address for each in virtual])


def formerly_served(facts: Facts) -> list[str]:
    """Return the addresses and ports of connections whose service is gone."""
    entries = islice(facts.director.connections_apart(), _SAMPLE)
    found = Counter(endpoint(each.virtual, each.virtual_port) for each in entries if each.client_port)
    return [name for name, _ in found.most_common(3)]


def asked_for(facts: Facts) -> list[str]:
    """Return the addresses and ports of this host at which clients connect now, and no application listens."""
    held = {each.address for each in facts.addresses if not each.address.is_loopback}
    sockets = socket_diag.listeners() or ()
    devices = [each for each in facts.devices if each.up and not each.loopback and each.has_unicast_address]
    with Arrivals(devices) as arrivals:
        seen = arrivals.openings(held, _LOOK_S)
    listening = [each for each in sockets if each.protocol == TCP]
    refused = [
        (address, port)
        for address, port in dict.fromkeys(seen)
        if not any(each.port == port and each.accepts(address) for each in listening)
    ]
    return [endpoint(address, port) for address, port in refused]


def is_virtual(held: AssignedAddress) -> bool:
    """Return whether an address looks like one of a service: alone, or beside another one of its network."""
    address = held.address
    if address.is_loopback or address.is_link_local:
        return False
    return held.prefix == address.max_prefixlen or bool(held.flags & _SECONDARY and address.version == 4)


def of_table(former: Sequence[str], asked: Sequence[str], virtual: Collection[Address]) -> Finding:
    """Return that the table is empty; `former`: what it served, `asked`: what clients ask for now."""
    evidence = "ipvsadm -Ln lists no service, and devices are attached"
    severity = Severity.INFO
    if former:
        severity, evidence = Severity.ERROR, f"{evidence}; connections to {', '.join(former)} are still in its table"
    elif asked:
        severity, evidence = Severity.ERROR, f"{evidence}; clients connect to {', '.join(asked)}, where nothing listens"
    elif virtual:
        severity = Severity.WARNING
        evidence += f"; this host has {named(virtual, 'address')}, which is not that of a host alone"
    return Finding(
        id="table_empty",
        severity=severity,
        layer=Layer.TABLE,
        title="the table of this director has no service",
        evidence=evidence,
        why="Packets of clients reach this host's own stack, which refuses them."
        if severity is not Severity.INFO
        else "It forwards nothing.",
        fix="Fill the table: ipvsadm -R with a saved one, ipvsadm -A, or pylvs run.",
        about=frozenset({*former, *map(str, virtual)}),
        explains=frozenset({NO_SERVICE}),
    )
