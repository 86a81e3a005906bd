"""`pylvs vrrp`: how virtual routers stand, why, and giving up mastership; asked of their own process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pylvs.cli.asking import ago, as_json, at_clock, state_dir
from pylvs.cli.servers import seconds

if TYPE_CHECKING:
    from pylvs.vrrp.client import Client

HOLDS_BACK = "10m"
names = click.argument("names", metavar="[NAME]...", nargs=-1)


@click.group()
def vrrp() -> None:
    """Virtual routers: how they stand, why, and giving up mastership."""


def _client(directory: Path | None) -> Client:
    from pylvs.daemon.state_dir import StateDirectory
    from pylvs.vrrp.client import Client

    return Client(StateDirectory(directory).routers_path)


@vrrp.command()
@as_json
@state_dir
def status(as_json: bool, state_dir: Path | None) -> None:
    """Who holds the virtual addresses, since when and why; what is tracked, and what was dropped."""
    with _client(state_dir) as client:
        told = client.ask("status")
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(told, time.time())))


def lines(told: dict[str, Any], now: float) -> Iterator[str]:
    """The page for people."""
    process = told["process"]
    punctual = f"real-time priority {process['realtime']}" if process["realtime"] else "no real-time priority"
    locked = "memory locked" if process["locked"] else "memory not locked"
    late = f"at most {process['longest_gap_ms']:g} ms late"
    yield f"virtual routers: process {process['pid']}, {punctual}, {locked}, {late}"
    if not process["aide"]:
        yield "no script is run and no mail is sent: the process that does that has gone, and is started again"
    if not told["data_plane"]["well"]:
        yield f"services may not be forwarded here: {told['data_plane']['words']}"
    for each in told["instances"]:
        yield ""
        yield from _instance(each, now)
    for group in told["groups"]:
        yield ""
        yield f"group {group['name']}  {group['state']}: {', '.join(group['members'])}"


def _instance(told: dict[str, Any], now: float) -> Iterator[str]:
    since = f" since {ago(now - told['since'])}" if told["since"] else ""
    priority = f"priority {told['priority']}"
    if told["priority"] != told["base_priority"]:
        priority += f" (configured {told['base_priority']})"
    yield f"{told['name']}  {told['state']}{since}, {priority}"
    rows = [("because", [told["why"]]), ("fault", told["faults"])]
    if told["state"] == "BACKUP":
        heard = told["master"] or "nobody is heard"
        takes_over = [f"{heard}; this one takes over after {told['master_down_s']:.3g} s without a word from it"]
        if not told.get("preempt", True):
            takes_over.append("not before, whatever its priority (nopreempt)")
        elif told.get("preempts_at") is not None:
            takes_over.append(f"or, being better, not before {at_clock(told['preempts_at'])} (preempt_delay)")
        rows.append(("master", takes_over))
    rows.append(("conflict", [told.get("rival", "")]))
    if told["held_until"] is not None:
        rows.append(("holds back", [f"until {at_clock(told['held_until'])}, or pylvs vrrp resume"]))
    rows += [
        ("addresses", [", ".join(told["addresses"])]),
        ("speaks", [f"{told['interface']}, VRID {told['vrid']}, version {told['version']}, every {_speed(told)}"]),
        ("tracks", [_track(each) for each in told["tracks"]]),
        ("differs", told.get("mismatches", [])),
        ("adverts", [_counted(told["counters"])]),
    ]
    for title, each in rows:
        for text in filter(None, each):
            yield f"  {title:<11}{text}"
            title = ""


def _speed(told: dict[str, Any]) -> str:
    return f"{told['advert_interval_s']:g} s"


def _track(told: dict[str, Any]) -> str:
    name = f"{told['kind']} {told['name']}".rstrip()
    number = told.get("number")
    if number is not None:
        text = f"{name} is {number}"
    else:
        text = f"{name} is {'not known yet' if told['well'] is None else 'well' if told['well'] else 'ill'}"
    text += f" ({told['words']})" if told["words"] else ""
    return text + (f", weight {told['weight']}" if told["weight"] else "")


def _counted(told: dict[str, Any]) -> str:
    dropped = ", ".join(f"{count} {flaw}" for flaw, count in told["dropped"].items())
    text = f"{told['sent']} sent, {told['received']} heard"
    text += f", dropped: {dropped}" if dropped else ""
    return f"{text}; {told['became_master']} times master"


@vrrp.command()
@click.argument("name", required=False)
@as_json
@state_dir
def why(name: str | None, as_json: bool, state_dir: Path | None) -> None:
    """Which packet, timer, script or word decided the last transitions of NAME, or of each; the last at the end."""
    with _client(state_dir) as client:
        told = client.ask("why", name=name)
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for router, transitions in told.items():
        if not transitions:
            click.echo(f"{router}: nothing has happened yet")
        for each in transitions:
            click.echo(transition_line(router, each))


def transition_line(router: str, told: dict[str, Any]) -> str:
    """One transition for people."""
    reason = f"{told['why']}: {told['detail']}" if told["detail"] else told["why"]
    return f"{at_clock(told['time'])} {router}: {told['before']} -> {told['state']}, because {reason}"


@vrrp.command(name="yield")
@names
@click.option("--for", "for_", default=HOLDS_BACK, show_default=True, help="do not take over before: 90s, 10m, 2h")
@state_dir
def yield_(names: tuple[str, ...], for_: str, state_dir: Path | None) -> None:
    """Give up mastership of NAME, or of all: another router takes over at once.

    Until the time is over these do not take over, even if no other router speaks; `pylvs vrrp resume` ends that.
    """
    length_s = seconds(for_)
    with _client(state_dir) as client:
        told = client.ask("yield", names=list(names), seconds=length_s)
    until = at_clock(time.time() + length_s)
    for each in told["names"]:
        click.echo(f"{each}: does not take over before {until}, or pylvs vrrp resume")


@vrrp.command()
@names
@state_dir
def resume(names: tuple[str, ...], state_dir: Path | None) -> None:
    """Take `pylvs vrrp yield` back: NAME, or all, may take over again."""
    with _client(state_dir) as client:
        told = client.ask("unyield", names=list(names))
    for each in told["names"]:
        click.echo(f"{each}: takes part again")
