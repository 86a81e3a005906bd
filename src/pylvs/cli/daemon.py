"""`pylvs run`, `reload`, `status`, `events` and `metrics`: start the daemon, and ask it what it does."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pylvs import __version__
from pylvs.cli.common import (
    Paint,
    ago,
    as_json,
    asked,
    at_clock,
    facility,
    own_state_dir,
    paint,
    plain,
    script_lines,
    state_dir,
)
from pylvs.cli.directors.peer import lines as lines_of_peer
from pylvs.cli.monitoring import MonitoringCommand, checked
from pylvs.daemon import DEFAULT_FILE
from pylvs.model.errors import PylvsError, counted
from pylvs.system.logs import one_line

# late: each command imports what it runs, so that the others start sooner

WATCH_EVERY_S = 1.0
COLOURS = {"MASTER": "green", "FAULT": "red"}  # of virtual routers
LAST_EVENTS = 20  # that `status --history` prints
# Problems without a heading of their own.
_HOST_PROBLEMS = (
    *("failed", "api", "announce", "vip", "check_path", "prober", "metrics_address", "web"),
    *("dbus", "sync", "snmp", "state", "history"),
)
# `event_line` formats them; the reason has the override.
_OWN_FIELDS = ("event", "at", "instance", "service", "server", "reason", "override")
_CHANGING_FIELDS = ("state", "weight", "priority")  # an event with `before` has one of them, its new value
_FLAGS = ("initial", "ending", "removed", "silent", "log_all", "force", "active_only")  # printed where they are set
_TOP = "\033[H\033[J"  # to the top left, and clear


@click.command()
@click.option("-f", "--use-file", "file", default=DEFAULT_FILE, show_default=True, help="the configuration")
@click.option("-i", "--config-id", "ids", multiple=True, help="of lines that begin with @ID; may be given again")
@click.option("--strict", is_flag=True, help="refuse a file with any finding, at the start and at a reload")
@click.option("--no-vrrp", is_flag=True, help="services and checks alone")
@click.option("--no-checks", is_flag=True, help="no checks: every real server counts as up")
@click.option(
    "-I", "--dont-release-ipvs", "keep_table", is_flag=True, help="at the end leave the services in the table"
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="instead of the file's log_level"
)
@click.option("-s", "--namespace", default="", metavar="NAME", help="network namespace, instead of net_namespace")
@click.option("-p", "--pid", default="", metavar="FILE", help="PID file of the daemon; default: /run/keepalived.pid")
@click.option("-c", "--checkers-pid", default="", metavar="FILE", help="PID file of the checks; /run/checkers.pid")
@click.option("-r", "--vrrp-pid", default="", metavar="FILE", help="PID file of the virtual routers; /run/vrrp.pid")
@click.option("-S", "--log-facility", default="", metavar="FACILITY", help="log to syslog: 0 to 7, user or daemon")
@own_state_dir
def run(log_facility: str, **given: Any) -> None:
    """Reconcile the table with FILE and the health checks, in the foreground. SIGHUP reloads, SIGTERM ends.

    Exit status: 78 if it refuses the file, 1 for another failure.
    """
    from pylvs.cli import run_arguments

    run_arguments.start(log_facility=facility(log_facility) if log_facility else "", **given)


@click.command()
@click.option("--dry-run", is_flag=True, help="print what would change, and change nothing")
@click.option("--allow-empty", is_flag=True, help="accept a file without services, and empty the table")
@click.option("--force", is_flag=True, help="accept new errors and unknown words, without these parts")
@state_dir
def reload(dry_run: bool, allow_empty: bool, force: bool, state_dir: Path | None) -> None:
    """Let the daemon read its file again, as a whole or not at all; what did not change is not touched."""
    from pylvs.daemon.api.client import Client

    wanted = {"dry_run": dry_run, "allow_empty": allow_empty, "force": force}
    _, reply = Client(state_dir).ask("POST", "/v1/reload", wanted)
    _tell_findings(reply.get("findings", ()), reply.get("error", ""))
    if "error" in reply:
        raise PylvsError(reply["error"])
    for line in reply["differences"] or ["nothing would change" if dry_run else "nothing has changed"]:
        click.echo(line)
    routers = reply["virtual_routers"]
    table = reply["table"] or {"refused": [], "error": ""}
    for line in (*routers["warnings"], *table["refused"]):
        _tell(f"pylvs: {line}")
    if table["error"]:
        raise PylvsError(f"the configuration is in force, but not yet in the table: {table['error']}")
    if routers["problem"]:
        raise PylvsError(f"the configuration is in force, but not yet in the virtual routers: {routers['problem']}")
    if table["refused"]:
        refused = counted(len(table["refused"]), "edit")
        raise PylvsError(f"the configuration is in force, but the table refused {refused}")
    if reply["metrics_error"]:
        raise PylvsError(f"the configuration is in force, but metrics are not served: {reply['metrics_error']}")


def _tell_findings(encoded: Iterable[Mapping[str, Any]], error: str) -> None:
    """Print the findings, without that which the error names."""
    from pylvs.config.language.tree import Finding, Location, Severity
    from pylvs.config.repeats import folded

    findings = [
        Finding(
            Location(each["file"], each["line"], each["column"]),
            Severity(each["severity"]),
            each["text"],
            each["advice"],
        )
        for each in encoded
    ]
    for finding, more in folded(findings):
        if str(finding) not in error:
            _tell(str(finding))
        if more:
            _tell(more)


def _tell(text: str) -> None:
    click.echo(one_line(text), err=True)


@click.command(cls=MonitoringCommand)
@as_json
@click.option("--watch", is_flag=True, help="again every second, until interrupted")
@click.option("--history", is_flag=True, help=f"also the last {LAST_EVENTS} events")
@click.option(
    "--check", is_flag=True, help="one line and an exit status for monitoring: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN"
)
@state_dir
def status(as_json: bool, watch: bool, history: bool, check: bool, state_dir: Path | None) -> int:
    """Show the state of services, servers and checks, and what differs from the file."""
    if check:
        return _check(state_dir, as_json or watch or history)
    while True:
        reply = asked(state_dir, "GET", "/v1/status")
        last = _last_events(state_dir) if history else []
        if as_json:
            found = reply | {"last_events": last} if history else reply
            click.echo(json.dumps(found, indent=None if watch else 2, ensure_ascii=False))
        else:
            listed = ["", "last events:", *(f"  {event_line(each)}" for each in last)] if history else []
            page = "\n".join([*lines(reply, paint), *listed])
            click.echo(_TOP + page if watch and sys.stdout.isatty() else page)
        if not watch:
            return 0
        time.sleep(WATCH_EVERY_S)


def _check(state_dir: Path | None, with_others: bool) -> int:
    if with_others:
        raise click.UsageError("--check takes no other option than --state-dir, --namespace and --instance")
    exit_status, line = checked(state_dir)
    click.echo(line)
    return exit_status


def _last_events(state_dir: Path | None) -> list[dict[str, Any]]:
    from pylvs.daemon.api.client import Client

    with Client(state_dir).stream("GET", "/v1/events") as response:
        found = [json.loads(each) for each in response]
    return found[-LAST_EVENTS:]


def lines(reply: dict[str, Any], paint: Paint = plain) -> Iterator[str]:
    """Return the lines for a terminal."""
    now = reply["now"]
    up = f", up {ago(now - reply['started_at'])}" if reply["started_at"] else ", starting"
    read = f", {reply['files'][0]} read {ago(now - reply['loaded_at'])} ago" if reply["files"] else ""
    found = f", {counted(reply['findings'], 'finding')} (pylvs check)" if reply["findings"] else ""
    yield f"pylvs run {reply['version']}, process {reply['pid']}{up}{read}{found}"
    yield from _routers(reply["virtual_routers"], now, paint)
    if reply.get("peer"):
        yield from lines_of_peer(reply["peer"])
    for each in reply.get("announcements", []):
        yield f"{each['address']}: {each['state']}" + (f" ({each['reason']})" if each["reason"] else "")
    for service in reply["services"]:
        yield ""
        yield from _service(service, now, paint)
    table = reply["table"]
    problems = [table["error"]] if table["error"] else table["refused"]
    host = [
        each
        for each in reply.get("problems", [])
        if each["kind"] in _HOST_PROBLEMS or (each["kind"] == "table" and each["text"] != table["error"])
    ]
    texts = [f"{each['object']}: {each['text']}" if each["object"] else each["text"] for each in host]
    for title, items in (
        ("unknown", reply.get("unknown", [])),
        ("left out of the file", reply["errors"]),
        ("packets that do not come to the services", table["unattached"]),
        ("not in the table as wanted", problems),
        ("wrong on this host", texts),
        ("notify scripts", script_lines(reply.get("notify_scripts", {}))),
        ("differs from the file", reply["differs"]),
    ):
        if items:
            yield ""
            yield paint(f"{title}:", "yellow")
            yield from (f"  {line}" for line in items)


def _routers(routers: dict[str, Any], now: float, paint: Paint) -> Iterator[str]:
    if routers["problem"]:
        yield f"virtual routers: {routers['problem']}"
    path = routers.get("data_plane")
    if path and path["up"] is None:
        yield f"virtual routers: whether services are forwarded here is unknown: {path['reason']}"
    if routers["instances"]:
        states = [_router(each, now, paint) for each in routers["instances"]]
        yield f"virtual routers: {', '.join(states)} (pylvs vrrp status)"
    if routers["sessions"]:
        states = [_session(each, now) for each in routers["sessions"]]
        yield f"BFD sessions: {', '.join(states)} (pylvs vrrp status)"


def _session(session: dict[str, Any], now: float) -> str:
    since = f" since {ago(now - session['since'])}" if session["since"] else ""
    why = session["error"] or ("" if session["state"] == "Up" else session["reason"])
    return f"{session['name']} {session['state']}{since}" + (f" ({why})" if why else "")


def _router(router: dict[str, Any], now: float, paint: Paint) -> str:
    state = paint(router["state"], COLOURS[router["state"]]) if router["state"] in COLOURS else router["state"]
    return f"{router['name']} {state}" + (f" since {ago(now - router['since'])}" if router["since"] else "")


def _service(service: dict[str, Any], now: float, paint: Paint) -> Iterator[str]:
    quorum = service["quorum"]
    state = paint("up", "green") if quorum["up"] else paint("LOST", "red")
    text = f"{service['name']}  quorum {state} since {ago(now - quorum['since'])}"
    text += f" (weight {quorum['weight_up']}, quorum {quorum['weight']})"
    sorry = service["sorry_server"]
    if sorry:
        text += f", sorry server {sorry['server']}{' serves' if sorry['in'] else ''}"
    text += f", {low}" if (low := service.get("handshakes_low")) else ""
    yield text + (", checks suspended" if service["suspended"] else "")
    rows = [_server(each, now) for each in service["servers"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, server in zip(rows, service["servers"], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        doubtful = not server["checks"] or (server.get("handshakes") or {}).get("low")
        cells[1] = paint(cells[1], "yellow" if doubtful and server["up"] else "green" if server["up"] else "red")
        yield "  " + "  ".join(cells).rstrip()


def _server(server: dict[str, Any], now: float) -> tuple[str, str, str, str, str]:
    standing = "" if server["standing"] == "enabled" else f" {server['standing']}"
    state = ("up" if server["up"] else "down") if server["checks"] else "no check"
    state += ("" if server["checked"] else "?") + standing
    weight = f"weight {server['weight']}"
    if server["weight"] != server["configured_weight"]:
        weight += f" (configured {server['configured_weight']})"
    connected = f"active {server['active']} inactive {server['inactive']}"
    last = [
        f"{each['check']}: {'unknown: ' if each['inconclusive'] else ''}{each['reason']}"
        for each in server["checks"]
        if each["reason"]
    ]
    last += [f"{each}; left out" for each in server.get("checks_left_out", ())]
    handshakes = server.get("handshakes") or {"low": "", "out": False}
    if handshakes["low"] or handshakes["out"]:
        last.insert(0, handshakes["low"] or server["reason"])
    reason = f"since {ago(now - server['since'])}: {'; '.join(last) or server['reason']}"
    return server["server"], state, weight, connected, reason


@click.command()
@click.option("--follow", is_flag=True, help="then print new ones, until interrupted")
@as_json
@state_dir
def events(follow: bool, as_json: bool, state_dir: Path | None) -> None:
    """Print the last events of servers, quorums, weights, drains and reloads, with reasons.

    Without a daemon, the events of the last one.
    """
    from pylvs.daemon.api.client import Client, NoDaemon

    path = "/v1/events?follow=true" if follow else "/v1/events"
    try:
        with Client(state_dir).stream("GET", path, endless=follow) as response:
            for line in response:
                _print_event(json.loads(line), as_json)
    except NoDaemon:
        found = [] if follow else _saved_events(state_dir)
        if not found:
            raise
        for event in found:
            _print_event(event, as_json)
        _tell("pylvs: no pylvs run answers; these are the events of the last one")


def _saved_events(state_dir: Path | None) -> Sequence[Mapping[str, Any]]:
    from pylvs.daemon.notifications import REMEMBERED
    from pylvs.daemon.state.directory import StateDirectory
    from pylvs.daemon.state.history import History

    return History(StateDirectory(state_dir)).saved(REMEMBERED)


def _print_event(event: Mapping[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(event, ensure_ascii=False) if as_json else event_line(event))


def event_line(event: Mapping[str, Any]) -> str:
    """Return one event as a line: time, name, object, its other fields, reason."""
    changed = next((name for name in _CHANGING_FIELDS if "before" in event and name in event), "")
    formatted = (*_OWN_FIELDS, "before", changed) if changed else _OWN_FIELDS
    more = {name: value for name, value in event.items() if name not in formatted}
    words = [at_clock(event["at"]), event["event"].replace("_", " ")]
    words += [event["instance"]] if "instance" in event else []
    words += [f"{event['before']} -> {event[changed]}"] if changed else []
    words += [event["server"]] if "server" in event else []
    words += [f"of {event['service']}"] if "service" in event else []
    words += [
        f"{name}={_plain(value)}" for name, value in more.items() if value is not None and (value or name not in _FLAGS)
    ]
    return " ".join(words) + (f": {event['reason']}" if event.get("reason") else "")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@click.command()
@state_dir
def metrics(state_dir: Path | None) -> None:
    """Print the metrics once, in Prometheus's text format: the daemon's, or without one the table's alone."""
    from pylvs.daemon.api.client import Client, NoDaemon

    try:
        with Client(state_dir).stream("GET", "/metrics") as response:
            page = response.read().decode()
    except NoDaemon:
        if state_dir is not None:
            raise
        page = _of_the_table()
    click.echo(page, nl=False)


def _of_the_table() -> str:
    from pylvs.daemon.api.metrics import MetricsInput, exposition
    from pylvs.dataplane.director import open_director

    director = open_director()
    return exposition(MetricsInput(__version__, director.services(), director.packet_counts()))
