"""The table: services that no server serves, and schedulers and settings that cannot work as meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby, islice
from operator import attrgetter

from pylvs.daemon.state.directory import StateDirectory, daemons_of
from pylvs.daemon.state.saved import load_owned
from pylvs.doctor.commands import edit_destination, edit_service, named, with_weights
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, here, server_subject
from pylvs.doctor.running import is_hanging, process_of
from pylvs.ipvsadm.options import service_option
from pylvs.model.client_rules import Action, ClientRule
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError, counted
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import NO_SCHEDULER, ServiceFlag, ServiceKey, Timeouts, is_probe_mark
from pylvs.system.namespaces import network_cookie

NO_SERVER = "packets without a server"  # the subject of the drop reason; what empties a service explains it
_MOST = 5  # findings of one kind
_WIDE_BITS = {4: 8, 6: 16}  # of a netmask of persistence: a network of this size has most clients
_SHORT_TCP_S = 30
_ONE_DESTINATION = ("dh", "lblc", "lblcr")  # they choose by the destination address


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong in the table itself."""
    if not facts.has_tables:
        return
    rows = [row for row in facts.services if not is_probe_mark(row.service.key.mark)]
    kept = kept_by_daemon(facts)
    found = first_of_each(of_rows(rows, full_servers(facts, rows), kept | left_by_daemon(facts)))
    explained = frozenset() if is_hanging(facts) else kept  # the daemon's status says why they have no server
    yield from (each for each in found if not (each.symptom and each.about & explained))
    yield from of_client_rules(facts.director.client_rules(), [row.service.key for row in rows], kept)
    yield from of_settings(facts.director.settings())
    if rows:
        yield from of_timeouts(facts.director.timeouts())


def of_client_rules(
    rules: Mapping[ServiceKey, Collection[ClientRule]], keys: Iterable[ServiceKey], kept: Collection[str] = ()
) -> Iterator[Finding]:
    """Yield services whose client rules deny every client; `kept` are those of a daemon, which has their rules."""
    for key in keys:
        own = rules.get(key, ())
        admitted = any(each.action is Action.ALLOW or each.rate for each in own)
        denied = next((each for each in own if not each.prefix.prefixlen and each.action is not Action.ALLOW), None)
        if denied is None or admitted:
            continue
        is_kept = str(key) in kept
        of_daemon = (
            "Allow the clients that shall connect, in client_rules of the file or by pylvs filter add --override."
        )
        yield here(
            id="all_clients_denied",
            layer=Layer.TABLE,
            title=f"the client rules of {key} deny every client",
            evidence=f"pylvs filter list: {denied}, and no rule that allows a client",
            why="The rule of the longest prefix decides, and no other one allows a client: each connection is refused.",
            fix=of_daemon if is_kept else "Allow the clients that shall connect, or delete the rule.",
            command=None if is_kept else f"pylvs filter del {service_option(key)} {denied.prefix}",
            about=[key.address],
        )


def first_of_each(found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield the findings; of one kind only the first ones: a table may have thousands of services."""
    kind = attrgetter("id")
    for _, group in groupby(sorted(found, key=kind), kind):
        yield from islice(group, _MOST)


def kept_by_daemon(facts: Facts) -> frozenset[str]:
    """Return the services that a running daemon keeps, as text of their keys: their servers follow the checks."""
    return facts.once("kept_by_daemon", _kept)


def _kept() -> frozenset[str]:
    found = set[str]()
    for state in daemons_of(network_cookie()):
        if state.daemon_pid():
            with suppress(PylvsError):  # the daemon's status names damaged files
                found.update(map(str, load_owned(state)))
    return frozenset(found)


def left_by_daemon(facts: Facts) -> frozenset[str]:
    """Return the services that a daemon which ended has left, as text of their keys: it has removed their servers."""
    with suppress(PylvsError):  # a damaged file; without the findings of the daemon they are no symptom
        if not process_of(facts):
            return frozenset(map(str, load_owned(StateDirectory(facts.state_dir))))
    return frozenset()


def unserved(rows: Iterable[ServiceRow], keys: Collection[str]) -> frozenset[str]:
    """Return which of these services have no server with a weight, and the subject of their packets."""
    empty = (row for row in rows if not any(each.destination.weight for each in row.destinations))
    found = frozenset(str(row.service.key) for row in empty) & frozenset(keys)
    return found | {NO_SERVER} if found else found


def full_servers(facts: Facts, rows: Iterable[ServiceRow]) -> frozenset[tuple[ServiceKey, str]]:
    """Return services and servers that get no new connections, because they have reached their upper threshold."""
    director, found = facts.director, set()
    for row in rows:
        key = row.service.key
        if any(each.destination.upper for each in row.destinations) and director.slot(key) is not None:
            slots = [slot for slot, *_ in director.reader.members(director.known(key)[1])]
            for server, slot in zip(row.destinations, slots, strict=False):
                if director.tables.conn_counts.get(slot, "overloaded"):
                    found.add((key, str(server.destination.key)))
    return frozenset(found)


def of_rows(
    rows: Iterable[ServiceRow],
    full: Collection[tuple[ServiceKey, str]] = (),
    kept: Collection[str] = (),
) -> Iterator[Finding]:
    """Yield what is wrong with services; `full` are their overloaded servers, and `kept` those of a daemon."""
    for row in rows:
        key = row.service.key
        usable = [
            each
            for each in row.destinations
            if each.destination.weight and (key, str(each.destination.key)) not in full
        ]
        if row.service.scheduler == NO_SCHEDULER:
            yield _no_scheduler(row)
        elif not usable:
            yield _no_server(row, str(key) in kept)
        yield from _scheduler(row, usable)
        yield from _persistence(row)


def _no_server(row: ServiceRow, kept: bool) -> Finding:
    """Return why a service has no usable server. For a service that a daemon keeps, its checks are the cause."""
    service, servers = row.service, row.destinations
    if not servers:
        return _unserved(
            row,
            kept,
            id="service_empty",
            title=f"{service.key} has no real server",
            evidence="the table has the service without a destination",
            fix="Add its real servers: ipvsadm -a. Or delete the service.",
        )
    positive = [each for each in servers if each.destination.weight]
    if not positive:
        return _unserved(
            row,
            kept,
            id="weights_zero",
            title=f"all real servers of {service.key} have weight 0",
            evidence=f"{counted(len(servers), 'destination')} with weight 0: {_names(servers)}",
            fix="Give the servers that shall serve a weight above 0.",
            command=with_weights(row, 1),
        )
    counts = ", ".join(
        f"{each.destination.key} has {each.active + each.inactive} of {each.destination.upper}"
        for each in islice(positive, 3)
    )
    return _unserved(
        row,
        kept=False,
        id="servers_overloaded",
        title=f"all real servers of {service.key} have reached their upper threshold",
        evidence=f"connections and -x: {counts}",
        fix="Raise the thresholds, or remove them, or add servers.",
        command=" && ".join(
            edit_destination(service, replace(each.destination, upper=0, lower=0)) for each in positive
        ),
    )


def _unserved(
    row: ServiceRow, kept: bool, *, id: str, title: str, evidence: str, fix: str, command: str | None = None
) -> Finding:
    key = str(row.service.key)
    return Finding(
        id=id,
        severity=Severity.ERROR,
        layer=Layer.TABLE,
        title=title,
        evidence=evidence,
        why="Each new connection is refused: port unreachable.",
        fix=fix,
        fix_command=None if kept else command,
        fix_host=None if kept or command is None else HERE,
        about=frozenset({key}),
        explains=_servers_of(row) | {NO_SERVER},
        symptom=kept,
    )


def _servers_of(row: ServiceRow) -> frozenset[str]:
    key = str(row.service.key)
    return frozenset(server_subject(key, each.destination.key.address) for each in row.destinations)


def _names(servers: Iterable[DestinationRow]) -> str:
    return named((each.destination.key for each in servers), "server")


def _no_scheduler(row: ServiceRow) -> Finding:
    service = row.service
    return _unserved(
        row,
        kept=False,
        id="no_scheduler",
        title=f"{service.key} has no scheduler",
        evidence=f"the table has scheduler {NO_SCHEDULER}",
        fix="Choose a scheduler; wlc is IPVS's default.",
        command=edit_service(replace(service, scheduler="wlc")),
    )


def _scheduler(row: ServiceRow, usable: Collection[DestinationRow]) -> Iterator[Finding]:
    """Yield schedulers that use one server only, although others could serve."""
    service, name = row.service, row.service.scheduler
    if len(usable) < 2:
        return
    weights = {each.destination.weight for each in usable}
    if name in _ONE_DESTINATION and not service.key.mark:
        yield _advice(
            row,
            id="one_destination_address",
            title=f"{name} sends all clients of {service.key} to one real server",
            evidence=f"scheduler {name}, one virtual address, and {counted(len(usable), 'server')} that could serve",
            why=f"{name} chooses by the destination address. Each packet of this service has the same one.",
            fix="Choose wlc, or sh for the same server for each client. dh and lblc are for firewall marks.",
            command=edit_service(replace(service, scheduler="wlc")),
        )
    if name == "fo" and len(weights) == 1:
        first, *others = [each.destination for each in usable]
        edits = (
            edit_destination(service, replace(each, weight=weight))
            for weight, each in enumerate(reversed([first, *others]), 1)
        )
        yield _advice(
            row,
            id="failover_without_order",
            title=f"all real servers of {service.key} have the same weight, and fo uses one alone",
            evidence=f"scheduler fo, weight {first.weight} of {_names(usable)}",
            why="fo sends all connections to the server of the highest weight. Among equals, the list's order decides.",
            fix="Give each server another weight: the highest is in use, the next one takes over. Or choose wlc.",
            command=" && ".join(edits),
        )
    if name == "ovf" and max(weights) == 1:
        yield _advice(
            row,
            id="overflow_of_one",
            title=f"ovf lets each real server of {service.key} have one active connection",
            evidence=f"scheduler ovf, weight 1 of {_names(usable)}",
            why="With ovf a weight is the number of active connections that a server takes. Others are refused.",
            fix="Set weights to what a server can serve at a time, as 1000. Or choose wlc.",
            command=edit_service(replace(service, scheduler="wlc")),
        )


def _persistence(row: ServiceRow) -> Iterator[Finding]:
    service = row.service
    if ServiceFlag.PERSISTENT not in service.flags:
        if service.engine:
            yield _advice(
                row,
                id="engine_without_persistence",
                title=f"{service.key} has persistence engine {service.engine}, but is not persistent",
                evidence=f"the table has --pe {service.engine} without -p",
                why="Messages of one call may reach different servers: the engine works for persistent services alone.",
                fix="Set a timeout of persistence.",
                command=edit_service(replace(service, flags=service.flags | ServiceFlag.PERSISTENT, timeout_s=300)),
            )
        return
    version = service.key.address.version
    bits = service.mask.bit_count() if version == 4 else service.mask
    if bits <= _WIDE_BITS[version] and not service.engine and len(row.destinations) > 1:
        yield _advice(
            row,
            id="persistence_mask_wide",
            title=f"persistence of {service.key} sends all clients of a /{bits} network to one real server",
            evidence=f"the service is persistent for {service.timeout_s} s, with a netmask of {counted(bits, 'bit')}",
            why="Clients of one network share a template, and so a server. This network has most clients.",
            fix="Leave out the netmask, so that each client has its own template.",
            command=edit_service(replace(service, netmask=-1)),
        )


def _advice(row: ServiceRow, *, id: str, title: str, evidence: str, why: str, fix: str, command: str) -> Finding:
    return here(
        id=id,
        severity=Severity.WARNING,
        layer=Layer.TABLE,
        title=title,
        evidence=evidence,
        why=why,
        fix=fix,
        command=command,
        about=[row.service.key],
    )


def of_settings(settings: Mapping[str, int]) -> Iterator[Finding]:
    """Yield the settings that drop packets of clients on purpose."""
    rate = settings["am_droprate"]
    if settings["drop_packet"] == 3 and rate > 0:
        yield Finding(
            id="drop_packet_on",
            severity=Severity.ERROR if rate == 1 else Severity.WARNING,
            layer=Layer.TABLE,
            title=f"drop_packet drops one of {rate} new connections"
            if rate > 1
            else "drop_packet drops all new connections",
            evidence=f"net.ipv4.vs.drop_packet = 3, net.ipv4.vs.am_droprate = {rate}",
            why="Clients see lost packets: this setting is for floods on machines that run out of memory.",
            fix="Switch it off.",
            fix_command="pylvs sysctl -w net.ipv4.vs.drop_packet=0",
            fix_host=HERE,
            explains=frozenset({"drop packet"}),
        )
    if settings["run_estimation"] == 0:
        yield Finding(
            id="counters_stand",
            severity=Severity.INFO,
            layer=Layer.ADVICE,
            title="the displayed counters do not change",
            evidence="net.ipv4.vs.run_estimation = 0",
            why="ipvsadm --stats and --rate show no traffic, although packets are forwarded.",
            fix="Switch the estimation on.",
            fix_command="pylvs sysctl -w net.ipv4.vs.run_estimation=1",
            fix_host=HERE,
        )


def of_timeouts(timeouts: Timeouts) -> Iterator[Finding]:
    """Yield a timeout that ends connections which wait for a few seconds only."""
    if timeouts.tcp_s < _SHORT_TCP_S:
        yield Finding(
            id="tcp_timeout_short",
            severity=Severity.WARNING,
            layer=Layer.TABLE,
            title=f"established connections end after {timeouts.tcp_s} s without a packet",
            evidence=f"ipvsadm -L --timeout: TCP {timeouts.tcp_s} s",
            why="The next packet of such a connection finds no entry, and the client waits or gets a reset.",
            fix="Set IPVS's defaults, or more than what clients wait between two requests.",
            fix_command="ipvsadm --set 900 120 300",
            fix_host=HERE,
        )
