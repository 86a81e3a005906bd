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
from typing import TYPE_CHECKING, Any, cast

from pylvs import __version__
from pylvs.daemon.api import replies
from pylvs.daemon.api.client_rules import CLIENT_RULES
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
from pylvs.daemon.api.operation import LINES, WAIT, Field, Given, Operation
from pylvs.daemon.api.schema import VERSION, AnyEvent, EventsReply
from pylvs.daemon.api.tables import OF_TABLES, from_tables, of_tables, unread
from pylvs.daemon.liveness import TABLE_THREAD
from pylvs.daemon.loading import Refused, errors
from pylvs.daemon.notifications import Subscriber, encode_event
from pylvs.daemon.problems import Problem, router_problems, service_problems
from pylvs.daemon.state.drains import Drain
from pylvs.health.engine import Engine
from pylvs.health.events import ServerName
from pylvs.health.state import ServiceSnapshot
from pylvs.model.addresses import Address
from pylvs.model.dataclass import replace
from pylvs.model.director import Connection
from pylvs.model.durations import MAX_DURATION_S
from pylvs.model.errors import InvalidOperation
from pylvs.model.rows import ServiceRow, unattached
from pylvs.model.service import MAX_WEIGHT, SERVER_PATTERN, DestinationKey, Timeouts, server_named
from pylvs.model.transfer import encode_connection, encode_row
from pylvs.model.wanted import METRIC_SERIES
from pylvs.system.http.lines import json_line
from pylvs.system.http.server import Response, Stream, json_response
from pylvs.system.threads import to_thread

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

STATUS_TABLES_S = 2.0  # the same for a status: with that of pylvs-vrrp, less than its client waits
CONNECTIONS_AT_ONCE = 500  # of a listing: the table thread takes some milliseconds
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
_NAME = Field(str, "of a virtual router; without it, all", nullable=True)
_SECONDS = Field(
    float,
    "seconds without a take-over, even if no other router advertises",
    required=True,
    limits=(0, MAX_DURATION_S),
)
_YIELD = {"name": _NAME, "seconds": _SECONDS}
_LEAVE = {"now": Field(bool, "withdraw at once, without the seconds of lower preference")}
_STOP = {"keep": Field(bool, "leave services and virtual routers for the next daemon")}
_RELOAD = {
    "dry_run": Field(bool, "return what would change, and change nothing"),
    "allow_empty": Field(bool, "run a file without services, which empties the table"),
    "force": Field(bool, "run a file with errors, without what is wrong in it"),
}


async def status(daemon: Supervisor, _: Given) -> Response:
    rows = await of_tables(daemon, daemon.reconciler.table.rows, STATUS_TABLES_S)
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
    rows = await of_tables(daemon, table.rows)
    read_packets = table.director.packet_counts
    packets = None if rows is None else await of_tables(daemon, read_packets)
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


async def counters(daemon: Supervisor, given: Given) -> Response:
    """Return the counters. Raises Busy without the table: clients take 0 for a number, and a reset."""
    rows = await from_tables(daemon, daemon.reconciler.table.rows, given)
    return await to_thread(_counters_response, daemon.engine.snapshot(), rows)


def _counters_response(snapshot: Sequence[ServiceSnapshot], rows: Sequence[ServiceRow]) -> Response:
    """Return the response. A thread makes it: a large table takes tenths of a second."""
    return json_response(counters_encoded(snapshot, rows))


async def table(daemon: Supervisor, given: Given) -> Response:
    """Return the services with all that listings show. Raises Busy without the table."""
    cache = daemon.reconciler.table

    def read() -> tuple[list[ServiceRow], Timeouts, int]:
        return cache.rows(), cache.director.timeouts(), cache.director.table_size()

    found = await from_tables(daemon, read, given)
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
        return iter(director.connections() if director.edition() else ())

    found = await from_tables(daemon, read, given)
    return Stream(_connection_lines(daemon, found), LINES)


async def _connection_lines(daemon: Supervisor, found: Iterator[Connection]) -> AsyncIterator[bytes]:
    """Yield lines. All such streams together take a fifth of a CPU: a table may have millions of connections."""

    def piece() -> bytes:
        return b"".join(map(json_line, map(encode_connection, islice(found, CONNECTIONS_AT_ONCE))))

    while True:
        async with daemon.listing:
            begin = time.monotonic()
            lines = await of_tables(daemon, piece)
            await asyncio.sleep(min(LISTING_PAUSES * (time.monotonic() - begin), LISTING_PAUSE_S))
        if lines is None:
            raise unread(daemon)
        if not lines:
            return
        yield lines


async def show(daemon: Supervisor, given: Given) -> Response:
    """Return what `pylvs show --json` prints. Raises Busy without the table."""
    return json_response(await from_tables(daemon, daemon.host.overview, given))


async def drops(daemon: Supervisor, given: Given) -> Response:
    """Return what `pylvs drops --json` prints. Raises Busy without the table."""
    return json_response(await from_tables(daemon, daemon.host.ends, given))


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

    return Operation("POST", f"/v1/{name}", help_, handle, replies.OverrideReply, {**_NAMED, **takes, "wait": WAIT})


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
_ANYTHING = {"server": _ANY_SERVER, "service": _SERVICE}
ROUTES = (
    Operation("GET", "/v1/status", _STATUS_HELP, status, replies.StatusReply),
    Operation("GET", "/v1/events", _EVENTS_HELP, events, AnyEvent, {"follow": Field(bool, "true: new events")}, LINES),
    Operation("GET", "/v1/services", "Services and servers, without the table.", services, replies.ServicesReply),
    Operation("GET", "/v1/counters", "Connections, packets and bytes of the services.", counters, CountersReply),
    Operation("GET", "/v1/table", "The table, as ipvsadm lists it.", table, replies.ListingReply, OF_TABLES),
    Operation("GET", "/v1/connections", _CONNECTIONS_HELP, connections, replies.ConnectionLine, OF_TABLES, LINES),
    Operation("GET", "/v1/show", "As pylvs show --json.", show, replies.ShowReply, OF_TABLES),
    Operation("GET", "/v1/drops", "As pylvs drops --json.", drops, replies.DropsReply, OF_TABLES),
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
    *CLIENT_RULES,
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
