"""The operations of the API: status, metrics and events; servers (drain, weight ...); virtual routers; reload."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pylvs import __version__
from pylvs.daemon.api import replies
from pylvs.daemon.api.client_rules import RuleListing
from pylvs.daemon.api.counters import CountersReply, counters_encoded
from pylvs.daemon.api.encoding import (
    announcements_encoded,
    counts_of,
    leave_encoded,
    overridden,
    problems_encoded,
    routers_encoded,
    scripts_encoded,
    server_encoded,
    service_encoded,
)
from pylvs.daemon.api.metrics import CONTENT_TYPE, MetricsInput, Selection, exposition
from pylvs.daemon.api.metrics_port import Page
from pylvs.daemon.api.operation import Field, Given, Operation
from pylvs.daemon.api.schema import VERSION, AnyEvent, EventsReply
from pylvs.daemon.liveness import TABLE_THREAD
from pylvs.daemon.loading import Refused, errors
from pylvs.daemon.notifications import Subscriber, encode_event
from pylvs.daemon.problems import Problem, router_problems, service_problems
from pylvs.daemon.state.drains import Drain
from pylvs.health.engine import Engine
from pylvs.health.events import ServerName
from pylvs.health.state import ServiceSnapshot
from pylvs.model.addresses import Address
from pylvs.model.client_rules import MOST_RULES, ClientRule, prefix_of, rule_of
from pylvs.model.dataclass import replace
from pylvs.model.director import Connection
from pylvs.model.durations import MAX_DURATION_S
from pylvs.model.errors import Busy, InvalidOperation, NoSuchService, NoSuchTables
from pylvs.model.rows import ServiceRow, unattached
from pylvs.model.service import (
    MAX_WEIGHT,
    SERVER_PATTERN,
    DestinationKey,
    ServiceKey,
    Timeouts,
    is_probe_mark,
    server_named,
)
from pylvs.model.transfer import encode_connection, encode_row
from pylvs.model.wanted import METRIC_SERIES
from pylvs.system.http.lines import json_line
from pylvs.system.http.server import Response, Stream, json_response
from pylvs.system.namespaces import network_cookie
from pylvs.system.threads import to_thread

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

Read = TypeVar("Read")
TABLES_TIMEOUT_S = 10.0  # for reading the tables
STATUS_TABLES_S = 2.0  # the same for a status: with that of pylvs-vrrp, less than its client waits
LINES = "application/x-ndjson"
CONNECTIONS_AT_ONCE = 500  # of a listing: the table thread takes some milliseconds
RULES_AT_ONCE = 2000  # of a listing of client rules: a thread takes some milliseconds
RULES_OF_A_PAGE = 1000
LISTING_PAUSES, LISTING_PAUSE_S = 4, 0.5  # behind such a piece: so many times its duration, at most
CLIENT_POLL_S = 10.0  # without an event, for clients that have disconnected
_SERVER = Field(
    str,
    "ADDRESS or ADDRESS:PORT of the real server; without a port, each at this address",
    required=True,
    pattern=SERVER_PATTERN,
)
_ANY_SERVER = Field(str, "ADDRESS or ADDRESS:PORT of the real server; without it, every server", pattern=SERVER_PATTERN)
_SERVICE = Field(str, "the virtual server as status names it; without it, each that has the server")
_NAMED = {"server": _SERVER, "service": _SERVICE}
_DRAIN = {
    "deadline_s": Field(
        float,
        "seconds until it is given up, with weight 0; null waits for ever",
        nullable=True,
        limits=(0, MAX_DURATION_S),
    ),
    "force": Field(bool, "at the deadline, delete it from the table with its connections"),
    "active_only": Field(bool, "do not wait for inactive connections"),
}
_WEIGHT = {
    "weight": Field(
        int, f"0 to {MAX_WEIGHT}; null clears the override", required=True, nullable=True, limits=(0, MAX_WEIGHT)
    )
}
_WAIT = Field(bool, "false: reply as soon as the daemon has it; the table follows. true by default")
_NAME = Field(str, "of a virtual router; without it, all", nullable=True)
_SECONDS = Field(
    float,
    "seconds without a take-over, even if no other router advertises",
    required=True,
    limits=(0, MAX_DURATION_S),
)
_YIELD = {"name": _NAME, "seconds": _SECONDS}
_OF_SERVICE = Field(str, "the virtual server as status names it, or a key of it: TCP 192.0.2.1:80", required=True)
_RULES = {
    "service": _OF_SERVICE,
    "rules": Field(list, "client rules, each as pylvs filter add takes it", required=True),
    "wait": _WAIT,
}
_PREFIXES = {
    "service": _OF_SERVICE,
    "prefixes": Field(list, "prefixes of client rules of the operator", required=True),
    "wait": _WAIT,
}
_LEAVE = {"now": Field(bool, "withdraw at once, without the seconds of lower preference")}
_STOP = {"keep": Field(bool, "leave services and virtual routers for the next daemon")}
_RELOAD = {
    "dry_run": Field(bool, "return what would change, and change nothing"),
    "allow_empty": Field(bool, "run a file without services, which empties the table"),
    "force": Field(bool, "run a file with errors, without what is wrong in it"),
}


async def _of_tables(daemon: Supervisor, read: Callable[[], Read], timeout_s: float) -> Read | None:
    """Return what a call reads in the table thread, None if that is silent: the rest is known."""
    if TABLE_THREAD in daemon.liveness.silent():
        return None
    try:
        async with asyncio.timeout(timeout_s):
            return await daemon.table_thread.run(read)
    except TimeoutError:
        return None


async def status(daemon: Supervisor, _: Given) -> Response:
    rows = await _of_tables(daemon, daemon.reconciler.table.rows, STATUS_TABLES_S)
    unknown = daemon.liveness.silent()
    if rows is None:
        text = f"the table was not read within {STATUS_TABLES_S:g} s: connections are unknown"
        unknown.setdefault(TABLE_THREAD, text)
    snapshot = daemon.engine.snapshot()
    routers = await daemon.routers.status()
    problems = [*daemon.problems(), *router_problems(routers)]
    loaded, last = daemon.loaded, daemon.reconciler.last
    reply: replies.StatusReply = {
        "version": __version__,
        "schema": VERSION,
        "pid": os.getpid(),
        "now": time.time(),
        "ready": daemon.started_at > 0,
        "started_at": daemon.started_at or None,
        "loaded_at": daemon.loaded_at or None,
        "files": list(loaded.files),
        "findings": len(loaded.findings),
        "errors": [str(each) for each in errors(loaded)],
        "reloads": dict(daemon.reloads),
        "problems": [],
        "table": {
            "error": last.error,
            "refused": list(last.refused),
            "unattached": unattached(daemon.reconciler.table.director),
            "edits": dict(daemon.reconciler.edit_counts),
        },
        "notify_scripts": scripts_encoded(daemon.host.notify_scripts(), routers.get("notify_scripts", {})),
        "unknown": list(unknown.values()),
        "differs": await daemon.file_changes.since(daemon.loaded_at, loaded.files),
        "virtual_routers": routers_encoded(routers),
        "peer": cast("replies.PeerReply | None", daemon.peer.encoded()),
        "announcements": announcements_encoded(daemon.announcer.announcements()),
        "leave": leave_encoded(daemon.announcer.left(), daemon.announcer.withdrawn),
        "services": [],
    }
    reply["differs"] += daemon.services.rules.described()
    return await to_thread(_status_response, reply, snapshot, rows or (), problems, daemon.drains.all())


def _status_response(
    reply: replies.StatusReply,
    snapshot: Sequence[ServiceSnapshot],
    rows: Sequence[ServiceRow],
    problems: Sequence[Problem],
    drains: Sequence[Drain],
) -> Response:
    """Add what each service and file has, and return the response. A thread does it, as for the counters."""
    counts = counts_of(rows)
    reply["problems"] = problems_encoded([*service_problems(snapshot), *problems])
    reply["differs"] += overridden(snapshot, drains)
    if reply["leave"]:
        reply["differs"].append("this director has left: pylvs director join")
    reply["services"] = [service_encoded(each, counts) for each in snapshot]
    return json_response(reply)


async def metrics_page(daemon: Supervisor, selection: Selection | None = None) -> Page:
    """Return the page, with the selection of the configuration or another. A thread writes it: it may be large."""
    settings = daemon.engine.configuration.settings
    chosen = selection or Selection(settings.metrics_series, settings.metrics_services)
    table = daemon.reconciler.table
    rows = await _of_tables(daemon, table.rows, TABLES_TIMEOUT_S)
    read_packets = table.director.packet_counts
    packets = None if rows is None else await _of_tables(daemon, read_packets, TABLES_TIMEOUT_S)
    given = MetricsInput(
        __version__,
        rows,
        packets,
        daemon.engine.snapshot(),
        dict(daemon.reloads),
        daemon.loaded_at or None,
        len(errors(daemon.loaded)),
        dict(daemon.reconciler.edit_counts),
        await daemon.routers.status(),
        daemon.liveness.states(),
        prober=daemon.host.prober.counts(),
        scripts=daemon.host.script_counts(),
        notify_scripts=daemon.host.notify_scripts(),
        peer=daemon.peer.encoded(),
    )
    problems = (*service_problems(given.services), *daemon.problems(), *router_problems(given.routers))
    given = replace(given, problems=problems)
    return Page(await to_thread(exposition, given, chosen), has_table=packets is not None)


async def metrics(daemon: Supervisor, given: Given) -> Response:
    """Return the page. A query replaces the configured selection. Raises InvalidOperation."""
    series, services = (tuple(filter(None, given.get(name, "").split(","))) for name in ("series", "services"))
    for metric in series:
        if metric not in METRIC_SERIES:
            raise InvalidOperation(f"series: {metric} is not one of {', '.join(METRIC_SERIES)}")
    page = await metrics_page(daemon, Selection(series, services) if given else None)
    return Response(page.text.encode(), content_type=CONTENT_TYPE)


def _unread(daemon: Supervisor) -> Busy:
    unread = f"the table was not read within {TABLES_TIMEOUT_S:g} s; try again"
    return Busy(daemon.liveness.silent().get(TABLE_THREAD, unread))


async def counters(daemon: Supervisor, _: Given) -> Response:
    """Return the counters. Raises Busy without the table: clients take 0 for a number, and a reset."""
    rows = await _of_tables(daemon, daemon.reconciler.table.rows, TABLES_TIMEOUT_S)
    if rows is None:
        raise _unread(daemon)
    return await to_thread(_counters_response, daemon.engine.snapshot(), rows)


def _counters_response(snapshot: Sequence[ServiceSnapshot], rows: Sequence[ServiceRow]) -> Response:
    """Return the response. A thread makes it: a large table takes tenths of a second."""
    return json_response(counters_encoded(snapshot, rows))


def _in_namespace(wanted: str | None) -> None:
    """Raise NoSuchTables unless the tables are in the network namespace of this cookie. In the table thread."""
    if wanted is not None and str(network_cookie()) != wanted:
        raise NoSuchTables("the tables of this daemon are in another network namespace")


async def table(daemon: Supervisor, given: Given) -> Response:
    """Return the services with all that listings show. Raises Busy without the table."""
    cache = daemon.reconciler.table

    def read() -> tuple[list[ServiceRow], Timeouts, int]:
        _in_namespace(given.get("namespace"))
        return cache.rows(), cache.director.timeouts(), cache.director.table_size()

    found = await _of_tables(daemon, read, TABLES_TIMEOUT_S)
    if found is None:
        raise _unread(daemon)
    return await to_thread(_table_response, *found)


def _table_response(rows: Sequence[ServiceRow], timeouts: Timeouts, size: int) -> Response:
    reply: replies.ListingReply = {
        "size": size,
        "timeouts": [timeouts.tcp_s, timeouts.tcp_fin_s, timeouts.udp_s],
        "services": cast("list[replies.ListedService]", list(map(encode_row, rows))),
    }
    return json_response(reply)


async def connections(daemon: Supervisor, given: Given) -> Stream:
    """Send the connection table in pieces, each of which is read in the table thread. Raises Busy."""
    director = daemon.reconciler.table.director

    def read() -> Iterator[Connection]:
        _in_namespace(given.get("namespace"))
        return iter(director.connections() if director.edition() else ())

    found = await _of_tables(daemon, read, TABLES_TIMEOUT_S)
    if found is None:
        raise _unread(daemon)
    return Stream(_connection_lines(daemon, found), LINES)


async def _connection_lines(daemon: Supervisor, found: Iterator[Connection]) -> AsyncIterator[bytes]:
    """Yield lines. All such streams together take a fifth of a CPU: a table may have millions of connections."""

    def piece() -> bytes:
        return b"".join(map(json_line, map(encode_connection, islice(found, CONNECTIONS_AT_ONCE))))

    while True:
        async with daemon.listing:
            begin = time.monotonic()
            lines = await _of_tables(daemon, piece, TABLES_TIMEOUT_S)
            await asyncio.sleep(min(LISTING_PAUSES * (time.monotonic() - begin), LISTING_PAUSE_S))
        if lines is None:
            raise _unread(daemon)
        if not lines:
            return
        yield lines


async def show(daemon: Supervisor, given: Given) -> Response:
    """Return what `pylvs show --json` prints. Raises Busy without the table."""

    def read() -> dict[str, Any]:
        _in_namespace(given.get("namespace"))
        return daemon.host.overview()

    found = await _of_tables(daemon, read, TABLES_TIMEOUT_S)
    if found is None:
        raise _unread(daemon)
    return json_response(found)


async def drops(daemon: Supervisor, given: Given) -> Response:
    """Return what `pylvs drops --json` prints. Raises Busy without the table."""

    def read() -> dict[str, Any]:
        _in_namespace(given.get("namespace"))
        return daemon.host.ends()

    found = await _of_tables(daemon, read, TABLES_TIMEOUT_S)
    if found is None:
        raise _unread(daemon)
    return json_response(found)


async def services(daemon: Supervisor, _: Given) -> Response:
    """Reply at once, also while the table is locked or pylvs-vrrp hangs."""
    return await to_thread(_services_response, daemon.engine.snapshot())


def _services_response(snapshot: Sequence[ServiceSnapshot]) -> Response:
    reply: replies.ServicesReply = {"services": [service_encoded(each, {}) for each in snapshot]}
    return json_response(reply)


async def events(daemon: Supervisor, given: Given) -> Response | Stream:
    if not given.get("follow", False):
        return Response(b"".join(daemon.events.recent_lines()), content_type=LINES)
    subscriber = daemon.events.subscribe()
    return Stream(_followed(subscriber), LINES, subscriber.close)


async def _followed(subscriber: Subscriber) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(CLIENT_POLL_S):
                yield await subscriber.next_lines()
        except TimeoutError:
            yield b""


async def drain(daemon: Supervisor, given: Given) -> Response:
    deadline_s = given.get("deadline_s")
    server = server_named(given["server"])
    force, active_only = given.get("force", False), given.get("active_only", False)
    begun = daemon.drains.begin(server, given.get("service"), deadline_s, force, active_only)
    await daemon.reconciler.reconcile()
    return json_response(begun.encoded() | {"not_kept": await daemon.services.saved()})


async def all_drains(daemon: Supervisor, _: Given) -> Response:
    return json_response({"drains": [each.encoded() for each in daemon.drains.all()]})


async def check_now(daemon: Supervisor, given: Given) -> Response:
    server = server_named(given["server"]) if "server" in given else None
    found = await daemon.engine.check_now(server, given.get("service"))
    await daemon.reconciler.reconcile()
    reply: replies.ServersReply = {
        "servers": [{"service": each.service, **server_encoded(each, (), {})} for each in found]
    }
    return json_response(reply)


async def history(daemon: Supervisor, given: Given) -> Response:
    """Return the engine's events, those of former daemons, and changes of the table by other programs."""
    server, service = server_named(given["server"]), given.get("service")
    found = [encode_event(each) for each in daemon.engine.history(server, service)]
    begin = min((each["at"] for each in found), default=math.inf)
    others = [
        each
        for each in daemon.events.recent()
        if (each["event"] == "restored" or each["at"] < min(begin, daemon.began_at))
        and _is_about(each, server, service)
    ]
    return json_response({"events": sorted((*others, *found), key=itemgetter("at"))})


def _is_about(event: Mapping[str, Any], server: DestinationKey | Address, service: str | None) -> bool:
    text = str(event.get("server", ""))
    if service is not None and event.get("service") != service:
        return False
    try:
        named = server_named(text)
    except InvalidOperation:
        return False
    return server in (named, named.address if isinstance(named, DestinationKey) else named)


def _override(
    name: str, help_: str, apply: Callable[..., tuple[ServerName, ...]], takes: Mapping[str, Field] = {}
) -> Operation:
    """Return the operation that calls a method of the engine, with the fields that it takes."""

    async def handle(daemon: Supervisor, given: Given) -> Response:
        values = {each: given[each] for each in takes}
        names = apply(daemon.engine, server_named(given["server"]), service=given.get("service"), **values)
        if given.get("wait", True):
            await daemon.reconciler.reconcile()  # without it, the change has woken the reconciler
        reply: replies.OverrideReply = {
            "servers": [{"service": service, "server": str(server)} for service, server in names],
            "not_kept": await daemon.services.saved(),
        }
        return json_response(reply)

    return Operation("POST", f"/v1/{name}", help_, handle, replies.OverrideReply, {**_NAMED, **takes, "wait": _WAIT})


async def client_rules(daemon: Supervisor, given: Given) -> Stream:
    """Send the client rules in the table, of one service or of all. Raises Busy, NoSuchService."""
    return Stream(_pieces((await _rules_in_table(daemon, given)).lines()), LINES)


async def client_rules_page(daemon: Supervisor, given: Given) -> Response:
    """Return a part of that. Raises Busy, NoSuchService."""
    listing = await _rules_in_table(daemon, given)
    start: int = given.get("start", 0)

    def page() -> Response:
        reply: replies.ClientRulesPage = {
            "total": listing.total,
            "start": start,
            "rules": list(islice(listing.lines(start), RULES_OF_A_PAGE)),
        }
        return json_response(reply)

    return await to_thread(page)


async def _rules_in_table(daemon: Supervisor, given: Given) -> RuleListing:
    """Return the client rules of one service or of all. Raises Busy, NoSuchService."""
    cache, service = daemon.reconciler.table, given.get("service")

    def read() -> dict[ServiceKey, tuple[ClientRule, ...]]:
        _in_namespace(given.get("namespace"))
        return cache.client_rules()

    found = await _of_tables(daemon, read, TABLES_TIMEOUT_S)
    if found is None:
        raise _unread(daemon)
    names = {key: each.name for each in daemon.engine.configuration.services for key in each.keys}
    chosen = {
        key: rules
        for key, rules in found.items()
        if service in (None, str(key), names.get(key)) and not is_probe_mark(key.mark)
    }
    if service is not None and not chosen:
        raise NoSuchService(f"{service}: no such service in the table")
    return RuleListing(chosen, {key: daemon.services.rules.of(key) for key in chosen}, names.keys())


async def _pieces(lines: Iterator[replies.ClientRuleLine]) -> AsyncIterator[bytes]:
    """Yield lines; a thread encodes them, because there may be a million."""

    def piece() -> bytes:
        return b"".join(map(json_line, islice(lines, RULES_AT_ONCE)))

    while text := await to_thread(piece):
        yield text


def _parsed(texts: Sequence[str]) -> list[ClientRule]:
    return [rule_of(text.split()) for text in texts]


async def add_client_rules(daemon: Supervisor, given: Given) -> Response:
    rules = await to_thread(_parsed, given["rules"])
    return await _rules_changed(daemon, daemon.services.rules.add(given["service"], rules), given)


async def delete_client_rules(daemon: Supervisor, given: Given) -> Response:
    prefixes = [prefix_of(text) for text in given["prefixes"]]
    file = next(iter(daemon.loaded.files), "the configuration")
    name = daemon.services.rules.delete(given["service"], prefixes, file)
    return await _rules_changed(daemon, name, given)


async def replace_client_rules(daemon: Supervisor, given: Given) -> Response:
    rules = await to_thread(_parsed, given["rules"])
    return await _rules_changed(daemon, daemon.services.rules.replace(given["service"], rules), given)


async def _rules_changed(daemon: Supervisor, name: str, given: Given) -> Response:
    problem = ""
    if given.get("wait", True):
        last = await daemon.reconciler.reconcile()
        keys = daemon.engine.configuration.by_name()[name].keys
        refused = (text for text in last.refused if any(text.startswith(f"{key}: ") for key in keys))
        problem = last.error or next(refused, "")
    else:
        daemon.reconciler.wake()
    reply: replies.OperatorRulesReply = {
        "service": name,
        "rules": daemon.services.rules.count(name),
        "problem": problem,
        "not_kept": await daemon.services.saved(),
    }
    return json_response(reply)


async def vrrp_status(daemon: Supervisor, _: Given) -> Response:
    return json_response(await daemon.routers.status())


async def vrrp_why(daemon: Supervisor, given: Given) -> Response:
    return json_response(await daemon.routers.request("why", name=given.get("name")))


async def vrrp_yield(daemon: Supervisor, given: Given) -> Response:
    seconds = float(given["seconds"])
    return json_response(await daemon.routers.request("yield", names=_names(given), seconds=seconds))


async def vrrp_resume(daemon: Supervisor, given: Given) -> Response:
    return json_response(await daemon.routers.request("unyield", names=_names(given)))


def _names(given: Given) -> list[str]:
    name = given.get("name")
    return [] if name is None else [name]


async def peer_copy(daemon: Supervisor, _: Given) -> Response:
    daemon.peer.ask()
    reply: replies.CopyReply = {"address": str(daemon.engine.configuration.settings.peer.address)}
    return json_response(reply)


async def director_leave(daemon: Supervisor, given: Given) -> Response:
    return _leave_response(daemon, await daemon.announcer.leave(given.get("now", False)))


async def director_join(daemon: Supervisor, _: Given) -> Response:
    return _leave_response(daemon, await daemon.announcer.join())


def _leave_response(daemon: Supervisor, not_kept: str) -> Response:
    reply: replies.LeaveReply = {
        "leave": leave_encoded(daemon.announcer.left(), daemon.announcer.withdrawn),
        "not_kept": not_kept,
    }
    return json_response(reply)


async def reload(daemon: Supervisor, given: Given) -> Response:
    try:
        done = await daemon.reload(**given)
    except Refused as refused:
        return _refused(refused)
    table = done.table
    return json_response(
        {
            "findings": [each.encoded() for each in done.findings],
            "differences": list(done.differences),
            "table": {"edits": table.edits, "refused": list(table.refused), "error": table.error} if table else None,
            "virtual_routers": {"warnings": list(done.routers.warnings), "problem": done.routers.error},
            "metrics_error": done.metrics_error,
        }
    )


def _refused(refused: Refused) -> Response:
    content = {"error": str(refused), "findings": [each.encoded() for each in refused.findings]}
    return json_response(content, HTTPStatus.CONFLICT)


async def differences(daemon: Supervisor, _: Given) -> Response:
    """Return what a reload would change, and change nothing."""
    try:
        done = await daemon.reload(dry_run=True)
    except Refused as refused:
        return _refused(refused)
    reply = {"findings": [each.encoded() for each in done.findings], "differences": list(done.differences)}
    return json_response(reply)


async def stop(daemon: Supervisor, given: Given) -> Response:
    """Reply before the end: the client waits for the process."""
    daemon.stop(keep=given.get("keep", False))
    reply: replies.StopReply = {"pid": os.getpid()}
    return json_response(reply)


_STATUS_HELP = "The state of services, servers, checks and virtual routers, and what differs from the file."
_EVENTS_HELP = "The last events; with follow, new events until the client disconnects. A JSON object a line."
_CONNECTIONS_HELP = "The connection table, a JSON array a line."
_SELECTION = {
    "series": Field(str, f"of {', '.join(METRIC_SERIES)}, with commas between; without it, all"),
    "services": Field(str, "shell patterns of virtual servers, with commas between; without it, all"),
}
_OF_TABLES = {"namespace": Field(str, "404 unless the tables are in the network namespace of this SO_NETNS_COOKIE")}
_CLIENT_RULES_HELP = "The client rules of the services in the table. A JSON object a line."
_LISTED_RULES = {
    "service": Field(
        str, "a virtual server as status names it, or one of the table: TCP 192.0.2.1:80; without it, all"
    ),
    **_OF_TABLES,
}
_ANYTHING = {"server": _ANY_SERVER, "service": _SERVICE}
ROUTES = (
    Operation("GET", "/v1/status", _STATUS_HELP, status, replies.StatusReply),
    Operation("GET", "/v1/events", _EVENTS_HELP, events, AnyEvent, {"follow": Field(bool, "true: new events")}, LINES),
    Operation("GET", "/v1/services", "Services and servers, without the table.", services, replies.ServicesReply),
    Operation("GET", "/v1/counters", "Connections, packets and bytes of the services.", counters, CountersReply),
    Operation("GET", "/v1/table", "The table, as ipvsadm lists it.", table, replies.ListingReply, _OF_TABLES),
    Operation("GET", "/v1/connections", _CONNECTIONS_HELP, connections, replies.ConnectionLine, _OF_TABLES, LINES),
    Operation("GET", "/v1/show", "As pylvs show --json.", show, replies.ShowReply, _OF_TABLES),
    Operation("GET", "/v1/drops", "As pylvs drops --json.", drops, replies.DropsReply, _OF_TABLES),
    Operation("GET", "/metrics", "The numbers, in Prometheus's text format.", metrics, str, _SELECTION, CONTENT_TYPE),
    Operation(
        "POST",
        "/v1/drain",
        "Weight 0, then out of the table when unused.",
        drain,
        replies.DrainReply,
        {**_NAMED, **_DRAIN},
    ),
    Operation(
        "GET", "/v1/drains", "The drains that wait, and the last that are over.", all_drains, replies.DrainsReply
    ),
    _override("enable", "Revert drain and disable.", Engine.enable),
    _override("disable", "Out of the table until it is enabled; its checks go on.", Engine.disable),
    _override("weight", "This weight, instead of that of checks and configuration.", Engine.set_weight, _WEIGHT),
    Operation(
        "GET", "/v1/client-rules", _CLIENT_RULES_HELP, client_rules, replies.ClientRuleLine, _LISTED_RULES, LINES
    ),
    Operation(
        "GET",
        "/v1/client-rules/page",
        f"The same in pages, of {RULES_OF_A_PAGE} rules.",
        client_rules_page,
        replies.ClientRulesPage,
        {**_LISTED_RULES, "start": Field(int, "the first rule of the page, from 0", limits=(0, MOST_RULES))},
    ),
    Operation(
        "POST",
        "/v1/client-rules/add",
        "Add client rules of the operator, which hold beside those of the file.",
        add_client_rules,
        replies.OperatorRulesReply,
        _RULES,
    ),
    Operation(
        "POST",
        "/v1/client-rules/delete",
        "Delete client rules of the operator.",
        delete_client_rules,
        replies.OperatorRulesReply,
        _PREFIXES,
    ),
    Operation(
        "POST",
        "/v1/client-rules/replace",
        "Let these be all client rules of the operator; an empty list ends them.",
        replace_client_rules,
        replies.OperatorRulesReply,
        _RULES,
    ),
    Operation(
        "POST",
        "/v1/check-now",
        "Check at once; the servers' state after that.",
        check_now,
        replies.ServersReply,
        _ANYTHING,
    ),
    Operation("GET", "/v1/history", "The last events of a server, oldest first.", history, EventsReply, _NAMED),
    Operation("GET", "/v1/differences", "What a reload would change.", differences, replies.DifferencesReply),
    Operation("GET", "/v1/vrrp", "The state of virtual routers.", vrrp_status, replies.VrrpReply),
    Operation(
        "GET", "/v1/vrrp/why", "The reasons of their last transitions.", vrrp_why, replies.WhyReply, {"name": _NAME}
    ),
    Operation(
        "POST",
        "/v1/vrrp/yield",
        "Give up mastership; another router takes over.",
        vrrp_yield,
        replies.NamesReply,
        _YIELD,
    ),
    Operation("POST", "/v1/vrrp/resume", "Let them take over again.", vrrp_resume, replies.NamesReply, {"name": _NAME}),
    Operation("POST", "/v1/peer/copy", "Copy all connections of the other director.", peer_copy, replies.CopyReply),
    Operation(
        "POST",
        "/v1/director/leave",
        "Lower the preference of the addresses, then withdraw them, until join.",
        director_leave,
        replies.LeaveReply,
        _LEAVE,
    ),
    Operation("POST", "/v1/director/join", "Announce the addresses again.", director_join, replies.LeaveReply),
    Operation(
        "POST", "/v1/stop", "End the daemon in good order.", stop, replies.StopReply, _STOP, outlives_client=True
    ),
    Operation(
        "POST",
        "/v1/reload",
        "Read the file again and run it, as a whole or not at all.",
        reload,
        replies.ReloadReply,
        _RELOAD,
    ),
)
