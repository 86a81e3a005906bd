"""What pylvs takes over of the kernel's IPVS, and what it cannot, with reasons. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from pylvs.ipvs.kernel import KernelRow
from pylvs.ipvs.listing import Line
from pylvs.ipvs.messages import MASTER, SyncDaemon
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError, counted
from pylvs.model.marks import MarkRule
from pylvs.model.service import (
    SIP,
    Destination,
    Method,
    Protocol,
    ServiceFlag,
    Timeouts,
    TunnelKind,
    VirtualService,
    check_destination,
    check_service,
)
from pylvs.model.settings import SETTINGS, checked

_FTP = 21
# Settings of the kernel that have no effect on what pylvs does with packets, or that only its sync daemons use.
_WITHOUT_EFFECT = ("debug_level", "est_cpulist", "est_nice", "sync_qlen_max", "sync_sock_size", "conn_lfactor")
_DEFAULTS = {
    "backup_only": "0",
    "sync_persist_mode": "0",
    "sync_ports": "1",
    "sync_refresh_period": "0",
    "sync_retries": "0",
    "sync_threshold": "3\t50",
    "sync_version": "1",
}
# Programs that edit IPVS all the time: they would restore what an adoption takes away.
MANAGERS = ("keepalived", "ldirectord", "kube-proxy", "kube-router", "surealived", "cilium-agent")


@dataclass(frozen=True, slots=True)
class Content:
    """What the kernel's IPVS has at one moment, without its connections."""

    rows: Sequence[KernelRow]
    timeouts: Timeouts
    settings: Mapping[str, str]
    daemons: Sequence[SyncDaemon] = ()
    managers: Sequence[tuple[str, int]] = ()  # names and processes of programs that edit it
    has_ftp_module: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes pylvs's table. `problems` cannot be taken over, with reasons; `notes` is what will be different."""

    rows: tuple[tuple[VirtualService, tuple[Destination, ...]], ...]  # destinations in list order, the newest first
    timeouts: Timeouts
    settings: Mapping[str, int]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan(content: Content, schedulers: Collection[str], rules: Sequence[MarkRule]) -> Plan:
    """Return what is taken over; `rules` are pylvs's mark rules."""
    settings, notes = _settings(content.settings)
    problems = [*_of_host(content)]
    for row in content.rows:
        problems += _of_service(row, schedulers, rules, content.has_ftp_module)
    rows = tuple(row.wanted for row in content.rows)
    return Plan(rows, content.timeouts, settings, tuple(problems), tuple(notes))


def _settings(found: Mapping[str, str]) -> tuple[dict[str, int], list[str]]:
    settings, notes = {}, []
    for name, text in found.items():
        setting = None if name.startswith("sync_") else SETTINGS.get(name)
        if setting is None:
            if name not in _WITHOUT_EFFECT and text != _DEFAULTS.get(name, text):
                notes.append(f"net.ipv4.vs.{name} = {' '.join(text.split())}: pylvs adopt does not take it over")
            continue
        try:
            settings[name] = checked(setting, int(text))
        except (PylvsError, ValueError) as error:
            notes.append(f"{error}; pylvs keeps its own")
    if settings.get("conntrack"):
        notes.append("net.ipv4.vs.conntrack = 1: netfilter does not track what pylvs forwards")
    return settings, notes


def _of_host(content: Content) -> Iterator[str]:
    for name, process in content.managers:
        yield (
            f"{name}, process {process}, edits ip_vs and would add its services again: end it so that the table stays"
            f" (kill -KILL {process} does), and start pylvs run or pylvs keepalived afterwards"
        )
    for daemon in content.daemons:
        kind = "master" if daemon.state == MASTER else "backup"
        yield f"ip_vs runs a {kind} sync daemon on {daemon.interface}: stop it with ipvsadm --stop-daemon {kind}"


def _of_service(
    row: KernelRow, schedulers: Collection[str], rules: Sequence[MarkRule], has_ftp_module: bool
) -> Iterator[str]:
    kernel, service = row.service, row.service.service
    key = service.key
    try:
        check_service(service, schedulers)
    except PylvsError as error:
        yield str(error)
    if kernel.unknown_flags:
        yield f"{key}: flags {kernel.unknown_flags:#x}: pylvs does not know them"
    if key.mark and not any(rule.may_give(key.mark, key.address.version) for rule in rules):
        yield (
            f"{key}: pylvs has no rule that gives packets this mark, and sees them before netfilter does:"
            " run pylvs mark import, or pylvs mark add"
        )
    if key.port == _FTP and has_ftp_module and any(each.method == Method.MASQ for each in row.destinations):
        yield f"{key}: the module ip_vs_ftp rewrites FTP's control connections for NAT, and pylvs does not"
    for server in row.destinations:
        where = f"{key} -> {server.destination.key}"
        if server.method not in set(Method):
            yield f"{where}: forwarding method {server.method}: pylvs does not know it"
        elif server.method == Method.TUNNEL and server.tunnel_kind not in set(TunnelKind):
            yield f"{where}: tunnel type {server.tunnel_kind}: pylvs does not know it"
        else:
            try:
                check_destination(service, server.destination)
            except PylvsError as error:
                yield str(error)


@dataclass(frozen=True, slots=True)
class Found:
    """The destination of a connection, and the template under which it is."""

    service: VirtualService
    destination: Destination | None  # None: the connection bypasses the service
    template: tuple[int, bytes, int, bytes, int] | None = None


@dataclass(slots=True)
class Left:
    """Connections that are not taken over, by reason."""

    counts: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        """Yield a line for each reason."""
        for reason, count in sorted(self.counts.items()):
            yield f"{counted(count, 'connection')}: {reason}"


NO_SERVER = "the server or its service was deleted; ip_vs drops their packets, too"
FTP_DATA = "FTP data that ip_vs_ftp expects; pylvs has no such module"
SIP_CALL = "templates of SIP calls; the next message of a call gets a new one"
RETIRED = "templates that ip_vs no longer uses"
UNKNOWN_STATE = "in a state that pylvs does not know"
HARMLESS = (NO_SERVER, RETIRED)  # clients notice nothing


class Resolver:
    """Finds the destinations of connections, which the kernel does not print, in a table."""

    def __init__(self, rows: Sequence[tuple[VirtualService, tuple[Destination, ...]]]) -> None:
        self._by_name: dict[tuple[int, bytes, int], tuple[VirtualService, tuple[Destination, ...]]] = {}
        self._by_mark: dict[tuple[int, int], tuple[VirtualService, tuple[Destination, ...]]] = {}
        for row in rows:
            key = row[0].key
            if key.mark:
                self._by_mark[key.mark, len(key.address.packed)] = row
            else:
                self._by_name[int(key.protocol), key.address.packed, key.port] = row

    def find(self, line: Line) -> Found | None:
        """Return what a connection or template belongs to; None without a destination in the table."""
        for service, destinations in self._candidates(line):
            destination = _server(line, service, destinations)
            if destination or (service.key.mark and not any(line.server) and not line.is_template):
                template = None if line.is_template else template_key(service, line)
                return Found(service, destination, template)
        return None

    def _candidates(self, line: Line) -> Iterator[tuple[VirtualService, tuple[Destination, ...]]]:
        """Yield the services that may have made it, the likeliest first (IPVS-SEMANTICS 1.2, 5.1)."""
        if line.is_template and not line.protocol:
            row = self._by_mark.get((int.from_bytes(line.virtual[:4], "big"), len(line.virtual)))
            yield from (row,) if row else ()
            return
        ports = [line.virtual_port, 0] if line.virtual_port else [0]
        if line.protocol == Protocol.TCP:
            ports.insert(1, _FTP)
        for port in ports:
            if row := self._by_name.get((line.protocol, line.virtual, port)):
                yield row
        yield from (row for (_, size), row in self._by_mark.items() if size == len(line.virtual))


def _server(line: Line, service: VirtualService, destinations: tuple[Destination, ...]) -> Destination | None:
    there = [each for each in destinations if each.key.address.packed == line.server]
    exact = [each for each in there if each.key.port == line.server_port]
    if exact:
        return exact[0]
    takes_any = line.is_template or bool(service.flags & ServiceFlag.PERSISTENT)
    return next((each for each in there if takes_any or not each.key.port), None)


def template_key(service: VirtualService, line: Line) -> tuple[int, bytes, int, bytes, int] | None:
    """Return the key of the template under which a connection of a service is (IPVS-SEMANTICS 5.1)."""
    key = service.key
    if not service.flags & ServiceFlag.PERSISTENT or service.engine:
        return None
    client = masked(line.client, service.mask)
    if key.mark:
        return 0, client, 0, key.mark.to_bytes(4, "big").ljust(len(line.client), b"\0"), 0
    port = key.port if key.port not in (0, _FTP) else 0
    return line.protocol, client, 0, line.virtual, port


def masked(client: bytes, mask: int) -> bytes:
    """Return a client's address under a service's mask: bits of IPv4, a prefix length of IPv6."""
    if len(client) == 4:
        return (int.from_bytes(client, "big") & mask).to_bytes(4, "big")
    bits = (1 << 128) - (1 << 128 - mask)
    return (int.from_bytes(client, "big") & bits).to_bytes(16, "big")


def why_left(line: Line, found: Found | None, knows_state: bool) -> str | None:
    """Return why a connection is not taken over; None if it is."""
    if line.is_retired:
        return RETIRED
    if line.engine == SIP and line.is_template:
        return SIP_CALL
    if not line.client_port and not line.is_template:
        return FTP_DATA
    if found is None:
        return NO_SERVER
    return None if line.is_template or knows_state else UNKNOWN_STATE
