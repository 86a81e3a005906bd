"""Servers of weight 0 that still get traffic, by persistence or by flows of UDP, although they do not answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, server_subject
from pylvs.doctor.probes.checks import Attempt, connect
from pylvs.doctor.probes.table import first_of_each
from pylvs.doctor.running import Status, status_of
from pylvs.model.addresses import Address
from pylvs.model.director import Connection
from pylvs.model.errors import counted
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import Protocol, ServiceFlag, Timeouts

_MOST = 4  # connections to servers
_SAMPLE = 20_000  # entries of the connection table
_RECENT_S = 10  # since the last packet of a flow
Quiesced = list[tuple[ServiceRow, DestinationRow]]


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield the servers of weight 0 that do not answer, and that clients still get."""
    if not facts.has_tables:
        return
    quiesced = [
        (row, server)
        for row in facts.services
        for server in row.destinations
        if not server.destination.weight and (server.persistent or server.active or server.inactive)
    ]
    if not quiesced:
        return
    settings = facts.director.settings()
    if not settings["expire_quiescent_template"]:
        yield from first_of_each(of_templates(quiesced, connect))
    down = down_by_checks(status_of(facts))
    if down:
        sample = list(islice(facts.director.connections_apart(), _SAMPLE))
        yield from first_of_each(of_flows(quiesced, sample, down, facts.director.timeouts()))


def of_templates(quiesced: Quiesced, connected: Callable[[str], Attempt]) -> Iterator[Finding]:
    """Yield the servers that persistent clients return to, and that do not accept a connection from here."""
    fed = [
        (row, server)
        for row, server in quiesced
        if server.persistent and ServiceFlag.PERSISTENT in row.service.flags and server.destination.key.port
    ]
    for row, server in fed[:_MOST]:
        key, name = row.service.key, str(server.destination.key)
        attempt = connected(name) if key.protocol is Protocol.TCP else Attempt("")
        if attempt.error:
            yield Finding(
                id="template_of_dead_server",
                severity=Severity.ERROR,
                layer=Layer.TABLE,
                title=f"persistent clients of {key} still get {name}, which has weight 0 and does not answer",
                evidence=f"ipvsadm -Ln --persistent-conn: {counted(server.persistent, 'template')} of {name};"
                f" a connection from here: {attempt.error}; net.ipv4.vs.expire_quiescent_template = 0",
                why="A template sends a client to its server until it expires, also if that has weight 0.",
                fix="Let templates of servers of weight 0 end.",
                fix_command="pylvs sysctl -w net.ipv4.vs.expire_quiescent_template=1",
                fix_host=HERE,
                about=frozenset({server_subject(str(key), server.destination.key.address)}),
            )


def down_by_checks(status: Status | None) -> frozenset[str]:
    """Return the servers that are in the table although their checks fail (inhibit_on_failure)."""
    servers = (each for service in (status or {"services": ()})["services"] for each in service["servers"])
    return frozenset(each["server"] for each in servers if each["in_table"] and not each["up"])


def of_flows(
    quiesced: Quiesced, sample: Iterable[Connection], down: Collection[str], timeouts: Timeouts
) -> Iterator[Finding]:
    """Yield the servers that are down, and whose flows of UDP continue."""
    alive: Counter[tuple[Address, int, Address]] = Counter(
        (each.virtual, each.virtual_port, each.destination)
        for each in sample
        if each.protocol is Protocol.UDP and each.client_port and each.expires_s >= timeouts.udp_s - _RECENT_S
    )
    for row, server in quiesced:
        key, address = row.service.key, server.destination.key.address
        flows = alive[key.address, key.port, address]
        if key.protocol is Protocol.UDP and flows and str(server.destination.key) in down:
            yield Finding(
                id="flows_of_dead_server",
                severity=Severity.ERROR,
                layer=Layer.TABLE,
                title=f"flows of UDP stay at {server.destination.key} of {key}, which is down",
                evidence=f"ipvsadm -Lnc: {counted(flows, 'flow')} had a packet within {_RECENT_S} s; its weight is 0",
                why="Weight 0 means no new connections, and each datagram keeps the old one alive.",
                fix="Remove inhibit_on_failure, so that the server leaves the table, and set expire_nodest_conn to 1.",
                about=frozenset({server_subject(str(key), address)}),
            )
