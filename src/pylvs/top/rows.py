"""Services and servers as rows: the table joined with what the daemon's checks know of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pylvs.model.dataclass import dataclass
from pylvs.model.rows import Counters, DestinationRow, ServiceRow
from pylvs.model.service import METHOD_NAMES, Method
from pylvs.top.text import duration, safe

GOOD, WARNING, CRITICAL = range(3)
Ident = tuple[str, str]  # a service, and one of its servers or ""
_NOTHING = Counters()


@dataclass(frozen=True, slots=True)
class Row:
    """A service, or one of its servers. Rates are those of IPVS's estimator, a second."""

    service: str  # as the daemon names it, or its key in the table
    server: str = ""  # ADDRESS:PORT; "" for a service
    state: str = ""
    severity: int = GOOD
    reason: str = ""  # of the state
    how: str = ""  # the scheduler of a service, the forwarding method of a server
    weight: int = 0  # of a service: the sum
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    rates: Counters = _NOTHING
    counters: Counters = _NOTHING
    begun: int | None = None  # handshakes of the last minute; None: not known
    completed: int | None = None
    keys: tuple[str, ...] = ()  # of a service: its keys in the table
    configured: bool = False  # the daemon has it in its file, so its commands apply
    known: Mapping[str, Any] | None = None  # the daemon's reply about it
    servers: tuple[Row, ...] = ()

    @property
    def ident(self) -> Ident:
        """What identifies the row as long as the console runs."""
        return self.service, self.server

    @property
    def name(self) -> str:
        """The text of its first column."""
        return safe(self.server or self.service)


def merged(table: Iterable[ServiceRow], known: Iterable[Mapping[str, Any]] | None, now: float = 0) -> tuple[Row, ...]:
    """Return the rows of all services: first those that the daemon knows, then what else is in the table.

    `known` are the services of GET /v1/status at the time `now`; None without a daemon.
    """
    by_key = {str(row.service.key): row for row in table}
    rows = []
    for service in known or ():
        found = [by_key.pop(key) for key in service["keys"] if key in by_key]
        rows.append(_known_service(service, found, now))
    with_daemon = known is not None
    rows += [_of_the_table(key, row, with_daemon) for key, row in by_key.items()]
    return tuple(rows)


# --- of a daemon ---


def _known_service(service: Mapping[str, Any], found: Sequence[ServiceRow], now: float) -> Row:
    name = service["name"]
    listed = _by_name(service["servers"], found)
    sorry = service["sorry_server"]
    rows = [_known_server(name, each, listed.pop(each["server"], []), now) for each in service["servers"]]
    for other, destinations in listed.items():
        serves = sorry is not None and sorry["server"] == other
        state = "sorry" if serves else "foreign"
        rows.append(_server(name, other, destinations, state=state, severity=WARNING, reason=_SORRY if serves else ""))
    quorum = service["quorum"]
    down = sum(not each["up"] for each in service["servers"])
    texts = [f"quorum {quorum['weight']}, weight {quorum['weight_up']} since {duration(now - quorum['since'])}"]
    texts += [f"down: {down} of {len(service['servers'])}"] if down else []
    texts += [f"sorry server {sorry['server']} serves"] if sorry and sorry["in"] else []
    texts += [service["handshakes_low"]] if service["handshakes_low"] else []
    texts += ["checks suspended"] if service["suspended"] else []
    warned = down or (sorry and sorry["in"]) or service["handshakes_low"] or any(each.severity for each in rows)
    severity = CRITICAL if not quorum["up"] else WARNING if warned else GOOD
    return Row(
        service=name,
        state="up" if quorum["up"] else "LOST",
        severity=severity,
        reason="; ".join(texts),
        how=found[0].service.scheduler if found else "",
        keys=tuple(service["keys"]),
        configured=True,
        known=service,
        **_sums(found, rows),
    )


_SORRY = "the sorry server: it serves while the quorum is lost"


def _by_name(servers: Sequence[Mapping[str, Any]], found: Sequence[ServiceRow]) -> dict[str, list[DestinationRow]]:
    """Return the destinations by the names that the configuration has.

    Methods but NAT list a server with the port of the service (`Destination.listed_by`).
    """
    names = [each["server"] for each in servers]
    by_address: dict[str, list[str]] = {}
    for name in names:
        by_address.setdefault(name.rpartition(":")[0], []).append(name)
    listed: dict[str, list[DestinationRow]] = {}
    for row in found:
        for listing in row.destinations:
            name = str(listing.destination.key)
            if name not in names and listing.destination.method is not Method.MASQ:
                alike = by_address.get(name.rpartition(":")[0], [])
                name = alike[0] if len(alike) == 1 else name
            listed.setdefault(name, []).append(listing)
    return listed


def _known_server(service: str, server: Mapping[str, Any], found: list[DestinationRow], now: float) -> Row:
    state, severity = _state(server)
    handshakes = server.get("handshakes")
    reasons = [f"since {duration(now - server['since'])}"]
    reasons += [handshakes["low"]] if handshakes and handshakes["low"] else []
    checks = [
        f"{each['check']}: {'unknown: ' if each['inconclusive'] else ''}{each['reason']}"
        for each in server["checks"]
        if each["reason"] and (each["inconclusive"] or each["good"] is not True)
    ]
    reasons += checks or ([server["reason"]] if server["reason"] else [])
    if handshakes and handshakes["low"] and severity == GOOD:
        severity = WARNING
    return _server(
        service,
        server["server"],
        found,
        state=state,
        severity=severity,
        reason=": ".join((reasons[0], "; ".join(reasons[1:]))) if reasons[1:] else reasons[0],
        weight=server["weight"],
        begun=handshakes["begun"] if handshakes else None,
        completed=handshakes["completed"] if handshakes else None,
        configured=True,
        known=server,
    )


def _state(server: Mapping[str, Any]) -> tuple[str, int]:
    """Return a word for the state of a server, and how severe it is."""
    standing = server["standing"]
    if standing != "enabled":
        return ("drained" if standing == "drained" else "disabled"), WARNING
    if not server["up"]:
        return "DOWN", CRITICAL
    if not server["checks"]:
        return "no check", GOOD
    if any(each["inconclusive"] for each in server["checks"]):
        return "unknown", WARNING
    if not server["weight"]:
        return "weight 0", WARNING
    return ("up" if server["checked"] else "up?"), GOOD


# --- of the table ---


def _of_the_table(key: str, row: ServiceRow, with_daemon: bool) -> Row:
    rows = []
    for listing in row.destinations:
        usable = listing.destination.weight > 0
        state, severity = ("in table", GOOD) if usable else ("weight 0", WARNING)
        name = str(listing.destination.key)
        rows.append(_server(key, name, [listing], state=state, severity=severity, weight=listing.destination.weight))
    usable = any(each.weight for each in rows)
    reason = "added by ipvsadm: no check" if with_daemon else "no daemon checks it"
    warned = any(each.severity for each in rows)
    return Row(
        service=key,
        state="in table" if usable else "EMPTY",
        severity=CRITICAL if not usable else WARNING if warned else GOOD,
        reason=reason if usable else "no server with a weight",
        how=row.service.scheduler,
        keys=(key,),
        **_sums([row], rows),
    )


def _server(service: str, name: str, found: Sequence[DestinationRow], **fields: Any) -> Row:
    fields.setdefault("weight", found[0].destination.weight if found else 0)
    return Row(
        service=service,
        server=name,
        how=METHOD_NAMES[found[0].destination.method] if found else "",
        active=sum(each.active for each in found),
        inactive=sum(each.inactive for each in found),
        persistent=sum(each.persistent for each in found),
        rates=_sum(each.rates for each in found),
        counters=_sum(each.counters for each in found),
        **fields,
    )


def _sums(found: Sequence[ServiceRow], servers: Sequence[Row]) -> dict[str, Any]:
    """Return the fields of a service that are sums: of its keys in the table, or of its servers."""
    seen = [each for each in servers if each.begun is not None]
    return {
        "weight": sum(each.weight for each in servers if each.state not in ("DOWN", "disabled")),
        "active": sum(each.active for each in servers),
        "inactive": sum(each.inactive for each in servers),
        "persistent": sum(each.persistent for each in servers),
        "rates": _sum(each.rates for each in found),
        "counters": _sum(each.counters for each in found),
        "begun": sum(each.begun or 0 for each in seen) if seen else None,
        "completed": sum(each.completed or 0 for each in seen) if seen else None,
        "servers": tuple(servers),
    }


def _sum(several: Iterable[Counters]) -> Counters:
    busy = [each for each in several if each != _NOTHING]
    return sum(busy[1:], Counters() + busy[0]) if busy else _NOTHING


@dataclass(frozen=True, slots=True)
class Totals:
    """What the top of the console shows of all services."""

    services: int = 0
    bad_services: int = 0
    servers: int = 0
    bad_servers: int = 0
    active: int = 0
    inactive: int = 0
    rates: Counters = _NOTHING


def totals(rows: Iterable[Row]) -> Totals:
    """Return the sums of all services. Bad are services without quorum or usable server, and servers that are down."""
    found = list(rows)
    servers = [each for row in found for each in row.servers]
    return Totals(
        len(found),
        sum(each.severity == CRITICAL for each in found),
        len(servers),
        sum(each.severity == CRITICAL for each in servers),
        sum(each.active for each in found),
        sum(each.inactive for each in found),
        _sum(each.rates for each in found),
    )
