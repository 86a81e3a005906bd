"""`pylvs drain`, `enable`, `disable`, `weight`, `check-now` and `history`: the operator's commands for real servers."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from pylvs.cli.common import as_json, asked, print_json, seconds, service, state_dir
from pylvs.cli.daemon import event_line
from pylvs.model.errors import PylvsError
from pylvs.model.service import MAX_WEIGHT
from pylvs.system.logs import one_line

# late: each command imports what it runs, so that the others start sooner

LOOK_EVERY_S = 0.3
LONGEST_NUMBER = 20  # digits
_STAYS = "it holds through reloads, until pylvs enable"

server = click.argument("server", metavar="SERVER[:PORT]")


def _print_servers(reply: dict[str, Any], what: str, remark: str = "") -> int:
    """Print what is in force, and return the exit status: 1 if a restart of the daemon would lose it."""
    for each in reply["servers"]:
        click.echo(f"{each['server']} of {each['service']}: {what}")
    if reply["not_kept"]:
        click.echo(f"pylvs: in force, but a restart of the daemon ends it: {one_line(reply['not_kept'])}", err=True)
        return 1
    if remark:
        click.echo(remark)
    return 0


def _words(server: str | None, service: str | None, **more: Any) -> dict[str, Any]:
    """Return the arguments of a request; without a server it is about all."""
    return {name: text for name, text in (("server", server), ("service", service)) if text is not None} | more


@click.command()
@server
@service
@click.option(
    "--deadline", help="give up after this time, with weight 0: 90s, 10m, 2h; a bare number: seconds; default: never"
)
@click.option("--force", is_flag=True, help="at the deadline take it out of the table, even with connections")
@click.option(
    "--active-only", is_flag=True, help="wait for active connections alone, not for finished ones that still time out"
)
@click.option("--no-wait", is_flag=True, help="do not wait for the end: the daemon continues by itself")
@state_dir
def drain(
    server: str,
    service: str | None,
    deadline: str | None,
    force: bool,
    active_only: bool,
    no_wait: bool,
    state_dir: Path | None,
) -> int:
    """Give SERVER no new connections; take it out of the table when its connections have ended.

    If this command is interrupted, the drain continues; `pylvs enable` ends it.
    """
    if force and deadline is None:
        raise click.UsageError("--force needs --deadline")
    limit = None if deadline is None else seconds("--deadline", deadline)
    words = _words(server, service, deadline_s=limit, force=force, active_only=active_only)
    begun = asked(state_dir, "POST", "/v1/drain", words)
    exit_status = _print_servers(begun, "weight 0, draining", _STAYS)
    if no_wait:
        return exit_status
    try:
        ended = _followed(begun, state_dir)
    except KeyboardInterrupt:
        click.echo("interrupted: the drain continues; pylvs enable ends it", err=True)
        raise
    left = f"{ended['active']} active and {ended['inactive']} inactive connections"
    if ended["stage"] == "removed":
        rest = f" with {ended['inactive']} inactive connections" if ended["inactive"] else ""
        click.echo(f"drained: out of the table{rest}")
    elif ended["stage"] == "forced":
        click.echo(f"out of the table with {left}")
    elif ended["stage"] == "late":
        raise PylvsError(f"{left} are left at the deadline; weight stays 0: drain again, disable or enable")
    else:
        raise PylvsError("the drain was cancelled")
    return exit_status


def _followed(drain: dict[str, Any], state_dir: Path | None) -> dict[str, Any]:
    """Poll until the drain is over; on a terminal, show a bar of the connections that have ended."""
    if not sys.stdout.isatty():
        while drain["stage"] == "waiting":
            time.sleep(LOOK_EVERY_S)
            drain = _asked_for(drain, state_dir)
        return drain
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), transient=True) as progress:
        bar = progress.add_task("waiting")
        while drain["stage"] == "waiting":
            left = drain["active"] + drain["inactive"]
            words = f"{drain['active']} active, {drain['inactive']} inactive"
            progress.update(bar, total=max(drain["most"], 1), completed=drain["most"] - left, description=words)
            time.sleep(LOOK_EVERY_S)
            drain = _asked_for(drain, state_dir)
    return drain


def _asked_for(drain: dict[str, Any], state_dir: Path | None) -> dict[str, Any]:
    drains: list[dict[str, Any]] = asked(state_dir, "GET", "/v1/drains")["drains"]
    # a restarted daemon knows only the drains that are not over
    return next((each for each in drains if each["number"] == drain["number"]), drain | {"stage": "called off"})


@click.command()
@server
@service
@state_dir
def enable(server: str, service: str | None, state_dir: Path | None) -> int:
    """Undo `drain` and `disable`: the checks decide again. A weight that was set stays."""
    return _print_servers(asked(state_dir, "POST", "/v1/enable", _words(server, service)), "enabled")


@click.command()
@server
@service
@state_dir
def disable(server: str, service: str | None, state_dir: Path | None) -> int:
    """Take SERVER out of the table; its checks continue."""
    return _print_servers(asked(state_dir, "POST", "/v1/disable", _words(server, service)), "disabled", _STAYS)


class _NegativeWeight(click.Command):
    """A command whose argument may be a negative number, which click would take for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Report a negative number as a wrong weight."""
        wrong = next((each for each in args if re.fullmatch(r"-\d+", each)), None)
        if wrong is not None and "--" not in args[: args.index(wrong)]:
            raise click.UsageError(_wrong_weight(wrong), ctx)
        return super().parse_args(ctx, args)


def _wrong_weight(text: str) -> str:
    return f"{text[:LONGEST_NUMBER]}: the weight must be a number from 0 to {MAX_WEIGHT} or auto"


@click.command(cls=_NegativeWeight)
@server
@click.argument("weight", metavar="N|auto")
@service
@state_dir
def weight(server: str, weight: str, service: str | None, state_dir: Path | None) -> int:
    """Give SERVER weight N instead of that of checks and configuration; with auto they decide again."""
    if weight != "auto" and not (weight.isascii() and weight.isdigit() and len(weight) <= LONGEST_NUMBER):
        raise click.UsageError(_wrong_weight(weight))
    number = None if weight == "auto" else int(weight)
    reply = asked(state_dir, "POST", "/v1/weight", _words(server, service, weight=number))
    remark = "" if number is None else "it holds through reloads, until pylvs weight SERVER auto"
    return _print_servers(reply, f"weight {weight}", remark)


@click.command(name="check-now")
@click.argument("server", metavar="[SERVER[:PORT]]", required=False)
@service
@as_json
@state_dir
def check_now(server: str | None, service: str | None, as_json: bool, state_dir: Path | None) -> None:
    """Run the checks of SERVER, or of all, at once, and print the results."""
    found = asked(state_dir, "POST", "/v1/check-now", _words(server, service))["servers"]
    if as_json:
        print_json(found)
        return
    for row in found:
        checks = "; ".join(f"{check['check']}: {check['reason']}" for check in row["checks"]) or "no checks"
        click.echo(f"{row['server']} of {row['service']}: {'up' if row['up'] else 'down'} ({checks})")


@click.command()
@server
@service
@as_json
@state_dir
def history(server: str, service: str | None, as_json: bool, state_dir: Path | None) -> None:
    """Print what happened to SERVER, with reasons, the latest last."""
    query = urlencode(_words(server, service), errors="backslashreplace")
    found = asked(state_dir, "GET", f"/v1/history?{query}")["events"]
    if as_json:
        print_json(found)
        return
    for each in found:
        click.echo(event_line(each))
