"""Traffic: what counters and the connection table show of clients' packets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import inf
from statistics import median
from time import monotonic, sleep

from pylvs.doctor.commands import edit_service
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity, server_subject
from pylvs.doctor.probes.table import NO_SERVER, first_of_each
from pylvs.model.addresses import Address, endpoint
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.director import Connection
from pylvs.model.errors import counted
from pylvs.model.routing import Network
from pylvs.model.rows import DestinationRow, ServiceRow, TableUse
from pylvs.model.service import Method, Protocol, ServiceFlag, Timeouts, is_probe_mark

_BETWEEN_S = 0.6  # two readings of counters
_SAMPLE, _SAMPLE_S = 20_000, 0.5  # entries of the connection table, and the time for them
_LEAST_GROWTH = 3  # packets between two readings
_LEAST_BEGUN, _RECENT_S = 3, 20.0  # connections that wait for the end of their handshake, not for longer
_WAITING = ("SYN_RECV", "SYNACK")
_JUST_NOW_S = 3.0
_PAST_S = 5.0  # since the last attempt: clients repeat a SYN after 1 s and 3 s
_IN_FLIGHT_S = 2.0  # a handshake takes a round trip, and ages are in whole seconds: a younger SYN may be answered yet
_LENGTHS = {"SYN_RECV": 60, "SYNACK": 120, "TIME_WAIT": 120, "CLOSE": 10, "CLOSE_WAIT": 60, "LAST_ACK": 30}
_LEAST_SILENT = 5  # packets to a server of NAT without a reply
_LEAST_ALIKE, _ALIKE_SHARE = 100, 0.9  # connections of one client
_FLOOD_LEAST, _FLOOD_SHARE = 1000, 0.7
_HASHES = ("sh", "mh")


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what traffic shows."""
    if not facts.has_tables:
        return
    read = facts.director.packet_counts
    before, since = read().reasons, monotonic()
    rows = [row for row in facts.services if not is_probe_mark(row.service.key.mark)]
    sample = list(_sampled(facts.director.connections_apart()))
    timeouts = facts.director.timeouts()
    found = [*of_connections(rows, sample, timeouts), *of_counters(rows)]
    found += beside_servers(rows, sample, [each.network for each in facts.addresses], timeouts)
    yield from first_of_each(found)
    sleep(max(_BETWEEN_S - (monotonic() - since), 0))
    after = read()
    grown = {name: count - before.get(name, 0) for name, count in after.reasons.items()}
    yield from of_growth(grown, facts.director.settings())
    if after.use is not None:
        yield from of_use(after.use)


def _sampled(connections: Iterable[Connection], now: Callable[[], float] = monotonic) -> Iterator[Connection]:
    """Yield connections until there are enough: their places are random, so the first ones are a sample."""
    end = now() + _SAMPLE_S
    for number, connection in enumerate(islice(connections, _SAMPLE)):
        yield connection
        if not number % 1000 and now() > end:
            return


@dataclass(slots=True)
class _Flows:
    """The connections of one server in the sample."""

    complete: int = 0
    newest_complete_s: float = inf  # since its last packet
    waiting_s: list[float] = field(default_factory=list)  # those that wait for the end of the handshake, the same

    def add(self, state: str, age_s: float) -> None:
        if state not in _WAITING:
            self.complete += 1
            self.newest_complete_s = min(age_s, self.newest_complete_s)
        elif age_s <= _RECENT_S:
            self.waiting_s.append(age_s)

    @property
    def are_incomplete(self) -> bool:
        """Return whether the last attempts failed. Ages are rounded, so half of them must be the last ones."""
        return len(self.waiting_s) >= _LEAST_BEGUN and median(self.waiting_s) < self.newest_complete_s

    @property
    def are_mixed(self) -> bool:
        """Return whether a connection was completed after one that waits."""
        return self.newest_complete_s <= _RECENT_S and self.newest_complete_s < max(self.waiting_s, default=0)

    @property
    def answers_now(self) -> bool:
        """Return whether a connection was completed just now, and none before it waits."""
        overdue = (age_s for age_s in self.waiting_s if age_s >= _IN_FLIGHT_S)
        return self.newest_complete_s <= min([_JUST_NOW_S, *overdue])


def of_connections(rows: Sequence[ServiceRow], sample: Sequence[Connection], timeouts: Timeouts) -> Iterator[Finding]:
    """Yield servers to which clients do not complete connections, and services with one client."""
    flows: dict[tuple[Address, int, Address], _Flows] = defaultdict(_Flows)
    clients: dict[tuple[Address, int, int], Counter[Address]] = defaultdict(Counter)
    for entry in sample:
        if entry.client_port and entry.protocol is Protocol.TCP:
            flow = flows[entry.virtual, entry.virtual_port, entry.destination]
            flow.add(entry.state, _age_s(entry, timeouts))
        if entry.client_port:
            clients[entry.virtual, entry.virtual_port, entry.protocol][entry.client] += 1
    for row in rows:
        key = row.service.key
        if key.mark or not key.port:
            continue
        if key.protocol is Protocol.TCP:
            servers = {server.destination.key.address for server in row.destinations}
            yield from _incomplete(str(key), {each: flows[key.address, key.port, each] for each in servers})
        yield from _one_client(row, clients[key.address, key.port, key.protocol])


def answering(facts: Facts) -> frozenset[Address]:
    """Return the real servers with which clients have completed connections just now, and wait for none since."""

    return frozenset(server for server, flow in _by_server(facts).items() if flow.answers_now)


def mixed(facts: Facts) -> Mapping[Address, int]:
    """Return the real servers that complete some of their connections, and how many others wait."""
    return {server: len(flow.waiting_s) for server, flow in _by_server(facts).items() if flow.are_mixed}


def _by_server(facts: Facts) -> Mapping[Address, _Flows]:
    def read() -> Mapping[Address, _Flows]:
        timeouts, flows = facts.director.timeouts(), defaultdict[Address, _Flows](_Flows)
        for entry in _sampled(facts.director.connections_apart()):
            if entry.client_port and entry.protocol is Protocol.TCP:
                flows[entry.destination].add(entry.state, _age_s(entry, timeouts))
        return flows

    return facts.once("flows by server", read)


def _age_s(entry: Connection, timeouts: Timeouts) -> float:
    """Return how long ago the last packet of a connection came."""
    lengths = {**_LENGTHS, "ESTABLISHED": timeouts.tcp_s, "FIN_WAIT": timeouts.tcp_fin_s}
    return lengths.get(entry.state, 0) - entry.expires_s


def beside_servers(
    rows: Sequence[ServiceRow], sample: Sequence[Connection], networks: Sequence[Network], timeouts: Timeouts
) -> Iterator[Finding]:
    """Yield services of NAT with clients on the link of their server, which replies to them directly."""
    by_nat = {
        (row.service.key.address, row.service.key.port, server.destination.key.address)
        for row in rows
        for server in row.destinations
        if server.destination.method is Method.MASQ
    }
    found = dict[Address, list[Connection]]()
    for entry in sample:
        key = entry.virtual, entry.virtual_port, entry.destination
        if entry.protocol is not Protocol.TCP or not entry.client_port or key not in by_nat:
            continue
        if any(entry.client in each and entry.destination in each for each in networks):
            found.setdefault(entry.client, []).append(entry)
    for client, entries in found.items():
        flow = _Flows()
        for each in entries:
            flow.add(each.state, _age_s(each, timeouts))
        waiting = [each for each in entries if each.state in _WAITING]
        if not waiting or (flow.complete and not flow.are_incomplete):
            continue
        first = min(waiting, key=lambda entry: entry.destination == entry.client)
        where = (
            "a real server of the service that it asks for"
            if first.destination == client
            else f"on the link of {first.destination}, which replies to it past this director"
        )
        yield Finding(
            id="client_beside_server",
            severity=Severity.WARNING,
            layer=Layer.REPLY,
            title=f"the client {client} is {where}",
            evidence=f"ipvsadm -Lnc: {counted(len(waiting), 'connection')} of {client} wait in {first.state}",
            why="NAT has to make the real server's address the virtual one again in each reply.",
            fix="Put clients into another network than the servers of NAT, or let them ask a server itself.",
            about=frozenset(
                server_subject(f"TCP {endpoint(each.virtual, each.virtual_port)}", each.destination) for each in waiting
            ),
        )


def _incomplete(key: str, flows: Mapping[Address, _Flows]) -> Iterator[Finding]:
    """Yield the servers whose connections do not get beyond the first packet.

    What was mended since shows when a client connects again. Until then the finding says how old it is.
    """
    for server in sorted((each for each, flow in flows.items() if flow.are_incomplete), key=str):
        others = sum(flow.complete for each, flow in flows.items() if each != server)
        waiting_s = flows[server].waiting_s
        newest_s = max(min(waiting_s), 0)
        past = newest_s >= _PAST_S
        yield Finding(
            id="handshake_incomplete",
            severity=Severity.WARNING if past else Severity.ERROR,
            layer=Layer.SERVER,
            title=f"clients of {key} did not complete connections to {server}, until {newest_s:.0f} s ago"
            if past
            else f"clients of {key} do not complete connections to {server}",
            evidence=f"ipvsadm -Lnc: the last {counted(len(waiting_s), 'connection')} to it wait in SYN_RECV, the"
            f" newest for {newest_s:.0f} s; {others} to other servers got further",
            why="The first packet is forwarded, and no second one comes: the client did not get the server's reply.",
            fix=f"Run pylvs doctor on {server}: it drops packets of these clients, or its reply is lost."
            + (" No client has tried since: if the cause was mended, connect once, and run it again." if past else ""),
            about=frozenset({server_subject(key, server)}),
            symptom=True,
        )


def _one_client(row: ServiceRow, clients: Counter[Address]) -> Iterator[Finding]:
    """Yield that a choice by the client's address chooses one server, because there is one client."""
    service, total = row.service, clients.total()
    usable = [each for each in row.destinations if each.destination.weight]
    persistent = ServiceFlag.PERSISTENT in service.flags and not service.engine
    by_hash = service.scheduler in _HASHES and ServiceFlag.SCHED_2 not in service.flags
    if total < _LEAST_ALIKE or len(usable) < 2 or not (persistent or by_hash):
        return
    ((client, count),) = clients.most_common(1)
    if count < _ALIKE_SHARE * total:
        return
    how = "persistence" if persistent else service.scheduler
    yield Finding(
        id="one_client_address",
        severity=Severity.WARNING,
        layer=Layer.TABLE,
        title=f"{how} sends nearly all connections of {service.key} to one real server",
        evidence=f"{count} of {counted(total, 'connection')} of a sample come from {client}",
        why="It chooses by the client's address. A proxy or NAT before this director gives all clients the same one.",
        fix="Leave out the persistence, or let the servers share sessions."
        if persistent
        else f"Hash the client's port, too: -b {service.scheduler}-port.",
        fix_command=None if persistent else edit_service(replace(service, flags=service.flags | ServiceFlag.SCHED_2)),
        fix_host=None if persistent else HERE,
        about=frozenset({str(service.key)}),
    )


def of_counters(rows: Iterable[ServiceRow]) -> Iterator[Finding]:
    """Yield the servers of NAT whose replies do not pass this host."""
    for row in rows:
        for server in row.destinations:
            if server.destination.method is Method.MASQ and _is_silent(server):
                yield _silent(row, server)


def _is_silent(server: DestinationRow) -> bool:
    return server.counters.in_packets >= _LEAST_SILENT and not server.counters.out_packets


def _silent(row: ServiceRow, server: DestinationRow) -> Finding:
    key, address = str(row.service.key), server.destination.key.address
    return Finding(
        id="nat_without_replies",
        severity=Severity.ERROR,
        layer=Layer.REPLY,
        title=f"no reply of {address} to clients of {key} passes this director",
        evidence=f"ipvsadm -Ln --stats: InPkts {server.counters.in_packets}, OutPkts 0",
        why="With NAT replies must pass here, where they get the virtual address. Clients drop others.",
        fix="Make this host the gateway of the server to the clients.",
        about=frozenset({server_subject(key, address)}),
        symptom=True,
    )


@dataclass(frozen=True, slots=True)
class _Drop:
    """What a drop reason means: a sentence on its effect, and what to do."""

    why: str
    fix: str
    setting: str = ""  # that mends it, unless it has this value


_DROPS = {
    "no destination": _Drop("Packets to a service without a usable server are refused.", "See ipvsadm -Ln."),
    "no route": _Drop("This host has no route to a real server, and tells the client.", "Add the route."),
    "unavailable": _Drop(
        "Clients of a deleted server get no answer until their connections expire; a flow of UDP never does.",
        "End the connections of deleted servers.",
        "expire_nodest_conn",
    ),
    "too big": _Drop(
        "Packets are longer than the path to a server, and senders go on: a filter drops the ICMP that tells them.",
        "Let ICMP type 3 code 4 (IPv6: type 2) pass to the clients, or lower the servers' MSS.",
    ),
    "mtu too small": _Drop("A path MTU leaves nothing inside the tunnel.", "Correct the MTU on the way to the server."),
    "fragment timeout": _Drop("Fragments are lost before this host.", "Let fragments pass before the director."),
    "fragment failed": _Drop("Packets could not be fragmented.", "Raise the MTU to the server."),
    "no headroom": _Drop("Packets have no space for a tunnel's header.", "pylvs attach DEVICE --mode tc."),
    "gso unsupported": _Drop("Large packets cannot be encapsulated.", "ethtool -K DEVICE gro off."),
    "missed tail call": _Drop("A part of the packet path is missing.", "Load it again: pylvs down, then the services."),
    "local refused": _Drop(
        "A real server is this host itself, which its forwarding method cannot reach.",
        "Add it by direct routing (-g), or leave it out.",
    ),
    "no connection": _Drop("Replies of NAT come whose connection has expired.", "Lengthen ipvsadm --set."),
    "no call id": _Drop("SIP persistence finds no Call-ID in these packets: they are no SIP.", "Leave out --pe."),
    "source routed": _Drop("Packets have a source route.", "Find their sender."),
    "truncated": _Drop("Packets are too short for a header of their protocol.", "Find their sender."),
}


def of_growth(grown: Mapping[str, int], settings: Mapping[str, int]) -> Iterator[Finding]:
    """Yield the drop reasons that counted packets just now."""
    for name, drop in _DROPS.items():
        if grown.get(name, 0) < _LEAST_GROWTH:
            continue
        mends = bool(drop.setting) and not settings[drop.setting]
        yield Finding(
            id="packets_dropped",
            severity=Severity.WARNING,
            layer=Layer.TABLE,
            title=f"packets are dropped: {name}",
            evidence=f"{counted(grown[name], 'packet')} within {_BETWEEN_S:g} s, by the counter '{name}' of pylvs show",
            why=drop.why,
            fix=drop.fix,
            fix_command=f"pylvs sysctl -w net.ipv4.vs.{drop.setting}=1" if mends else None,
            fix_host=HERE if mends else None,
            about=frozenset({NO_SERVER if name == "no destination" else name}),
            symptom=not mends,
        )


def of_use(use: TableUse) -> Iterator[Finding]:
    """Yield that most connections are half-open."""
    if use.half_open >= _FLOOD_LEAST and use.half_open_share >= _FLOOD_SHARE:
        yield Finding(
            id="half_open",
            severity=Severity.WARNING,
            layer=Layer.SERVER,
            title=f"{use.half_open_share:.0%} of all connections are half-open",
            evidence=f"pylvs show: connections {use.used}, half-open {use.half_open}",
            why="Either clients send a flood of SYNs, or no server replies to them.",
            fix="See which by ipvsadm -Lnc: many addresses with one connection each are a flood.",
            symptom=True,
        )
