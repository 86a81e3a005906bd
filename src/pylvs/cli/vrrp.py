"""`pylvs vrrp`: the state of virtual routers, its reasons, giving up mastership, the end; pylvs-vrrp replies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pylvs.cli.common import ago, as_json, at_clock, print_json, script_lines, seconds, state_dir
from pylvs.daemon.api.client import Client as Daemon
from pylvs.daemon.api.client import NoDaemon, NoReply, elsewhere
from pylvs.daemon.leftovers import stop_routers
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.errors import PylvsError
from pylvs.vrrp.client import Client
from pylvs.vrrp.ipc import NoRouters

HOLDS_BACK = "10m"
LONG_S = 10.0  # a wait whose end is printed, too
names = click.argument("names", metavar="[NAME]...", nargs=-1)


@click.group()
def vrrp() -> None:
    """Virtual routers: their status, why it changed, yield, resume, stop."""


def _client(directory: Path | None) -> Client:
    path = StateDirectory(directory).routers_path
    try:
        return Client(path)
    except NoRouters:
        start = "start pylvs run with a vrrp_instance"
        raise NoRouters(
            f"no virtual routers run at {path}; {start}, or {elsewhere() or 'name its --state-dir'}"
        ) from None


@vrrp.command()
@as_json
@state_dir
def status(as_json: bool, state_dir: Path | None) -> None:
    """Show who holds the virtual addresses, since when and why, what is tracked, and what was dropped."""
    with _client(state_dir) as client:
        reply = client.ask("status")
    if as_json:
        print_json(reply)
    else:
        click.echo("\n".join(lines(reply, time.time())))


def lines(reply: dict[str, Any], now: float) -> Iterator[str]:
    """Return the lines for a terminal."""
    process = reply["process"]
    punctual = f"real-time priority {process['realtime']}" if process["realtime"] else "no real-time priority"
    locked = "memory locked" if process["locked"] else "memory not locked"
    late = f"at most {process['longest_gap_ms']:g} ms late"
    yield f"virtual routers: process {process['pid']}, {punctual}, {locked}, {late}"
    if not process["helper_running"]:
        yield "no script runs and no mail is sent: the helper process has ended, and is started again"
    if reply["data_plane"]["up"] is None:
        yield f"whether services are forwarded here is unknown: {reply['data_plane']['reason']}"
    elif not reply["data_plane"]["up"]:
        yield f"services may not be forwarded here: {reply['data_plane']['reason']}"
    for instance in reply["instances"]:
        yield ""
        yield from _instance(instance, now)
    for group in reply["groups"]:
        yield ""
        yield f"group {group['name']}  {group['state']}: {', '.join(group['members'])}"
    if scripts := script_lines(reply.get("notify_scripts", {})):
        yield ""
        yield "notify scripts:"
        yield from (f"  {line}" for line in scripts)
    for session in reply["sessions"]:
        yield ""
        yield from _session(session, now)


def _session(session: dict[str, Any], now: float) -> Iterator[str]:
    since = f" since {ago(now - session['since'])}" if session["since"] else ""
    source = f" from {session['source']}" if session["source"] else ""
    counters = session["counters"]
    dropped = ", ".join(f"{count} {flaw}" for flaw, count in counters["dropped"].items())
    packets = f"{counters['sent']} sent, {counters['received']} received" + (f", dropped: {dropped}" if dropped else "")
    remote = session["remote_state"]
    if session["remote_diagnostic"] != "No Diagnostic":
        remote += f" ({session['remote_diagnostic']})"
    detection = f", detection {session['detection_ms']:g} ms" if session["detection_ms"] else ""
    yield f"BFD session {session['name']}  {session['state']}{since}, flaps {session['flaps']}"
    rows = [
        ("because", session["reason"]),
        ("error", session["error"]),
        ("kept", "the neighbor has disabled it; what tracks it stays as it was" if session["held"] else ""),
        ("neighbor", f"{session['neighbor']}{source}, {remote}"),
        ("timers", f"a packet each {session['interval_ms']:g} ms{detection}"),
        ("packets", packets),
    ]
    for title, text in rows:
        if text:
            yield f"  {title:<11}{text}"


def _instance(router: dict[str, Any], now: float) -> Iterator[str]:
    since = f" since {ago(now - router['since'])}" if router["since"] else ""
    priority = f"priority {router['priority']}"
    if router["priority"] != router["base_priority"]:
        priority += f" (configured {router['base_priority']})"
    yield f"{router['name']}  {router['state']}{since}, {priority}"
    rows = [("because", [router["why"]]), ("fault", router["faults"])]
    if router["state"] == "BACKUP":
        master = router["master"] or "no advertisement received"
        wait_s, at = router["master_down_s"], router.get("takes_over_at")
        takes_over = [f"{master}; this one takes over after {wait_s:.3g} s without an advertisement"]
        if at is not None and at - now > LONG_S:
            takes_over[0] += f", at {at_clock(at)}"
        if not router.get("preempt", True):
            takes_over.append("not before, at any priority (nopreempt)")
        elif router.get("copied_by") is not None:
            copied = router["copy_awaited"] or "nothing is known of them"
            until = f"not before its connections are here, at the latest at {at_clock(router['copied_by'])}"
            takes_over.append(f"or, being better, {until} (peer_wait): {copied}")
        elif router.get("preempts_at") is not None:
            takes_over.append(f"or, being better, not before {at_clock(router['preempts_at'])} (preempt_delay)")
        rows.append(("master", takes_over))
    rows.append(("conflict", [router.get("rival", "")]))
    if router["held_until"] is not None:
        rows.append(("holds back", [f"until {at_clock(router['held_until'])}, or pylvs vrrp resume"]))
    rows += [
        ("addresses", [", ".join(router["addresses"])]),
        ("device", [_advertising(router)]),
        ("tracks", [_track(each) for each in router["tracks"]]),
        ("differs", router.get("mismatches", [])),
        ("adverts", [_counted(router["counters"])]),
    ]
    for title, texts in rows:
        for text in filter(None, texts):
            yield f"  {title:<11}{text}"
            title = ""


def _advertising(router: dict[str, Any]) -> str:
    every = f"every {router['advert_interval_s']:g} s"
    return f"{router['interface']}, VRID {router['vrid']}, version {router['version']}, {every}"


def _track(track: dict[str, Any]) -> str:
    name = track["kind"] if track["kind"] == track["name"] else f"{track['kind']} {track['name']}".rstrip()
    number = track.get("number")
    if track.get("expired"):
        text = f"{name} is unknown"
    elif number is not None:
        text = f"{name} is {number}"
    else:
        text = f"{name} is {'not known yet' if track['up'] is None else 'up' if track['up'] else 'down'}"
    text += f" ({track['reason']})" if track["reason"] else ""
    return text + (f", weight {track['weight']}" if track["weight"] else "")


def _counted(counters: dict[str, Any]) -> str:
    dropped = ", ".join(f"{count} {flaw}" for flaw, count in counters["dropped"].items())
    text = f"{counters['sent']} sent, {counters['received']} received"
    text += f", dropped: {dropped}" if dropped else ""
    return f"{text}; became master: {counters['became_master']}"


@vrrp.command()
@click.argument("name", required=False)
@as_json
@state_dir
def why(name: str | None, as_json: bool, state_dir: Path | None) -> None:
    """Show which packet, timer, script or command caused the last transitions of NAME, or of each; the latest last."""
    with _client(state_dir) as client:
        reply = client.ask("why", name=name)
    if as_json:
        print_json(reply)
        return
    for router, transitions in reply.items():
        if not transitions:
            click.echo(f"{router}: nothing has happened yet")
        for each in transitions:
            click.echo(transition_line(router, each))


def transition_line(router: str, transition: dict[str, Any]) -> str:
    """Format time, router, states and reason."""
    reason = f"{transition['why']}: {transition['detail']}" if transition["detail"] else transition["why"]
    return f"{at_clock(transition['time'])} {router}: {transition['before']} -> {transition['state']}, because {reason}"


@vrrp.command(name="yield")
@names
@click.option("--for", "for_", default=HOLDS_BACK, show_default=True, help="do not take over before: 90s, 10m, 2h")
@state_dir
def yield_(names: tuple[str, ...], for_: str, state_dir: Path | None) -> None:
    """Give up mastership of NAME, or of all: another router takes over at once.

    Until the time is over these do not take over, even if no other router sends advertisements. `pylvs vrrp resume`
    ends that.
    """
    length_s = seconds("--for", for_)
    with _client(state_dir) as client:
        reply = client.ask("yield", names=list(names), seconds=length_s)
    until = at_clock(time.time() + length_s)
    for each in reply["names"]:
        click.echo(f"{each}: does not take over before {until}, or pylvs vrrp resume")


@vrrp.command()
@names
@state_dir
def resume(names: tuple[str, ...], state_dir: Path | None) -> None:
    """Undo `pylvs vrrp yield`: NAME, or all, may take over again."""
    with _client(state_dir) as client:
        reply = client.ask("unyield", names=list(names))
    for each in reply["names"]:
        click.echo(f"{each}: takes part again")


@vrrp.command()
@state_dir
def stop(state_dir: Path | None) -> None:
    """End the virtual routers: they send priority 0, give up their addresses, and their process ends.

    It ends those that a killed daemon left. A running daemon would start them again: stop that, or use yield.
    """
    state = StateDirectory(state_dir)
    try:
        Daemon(state_dir).ask("GET", "/v1/drains")
    except (NoDaemon, NoReply):
        if not state.path.is_dir() or not stop_routers(state, click.echo):
            click.echo("no virtual routers run here")
        return
    process = state.daemon_pid()
    raise PylvsError(f"pylvs run, process {process}, would start them again: use pylvs stop, or pylvs vrrp yield")
