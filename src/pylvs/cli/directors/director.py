"""`pylvs director`: let this director leave its group behind a router, and join it again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from pylvs.cli.common import asked, state_dir
from pylvs.model.errors import PylvsError
from pylvs.system.logs import one_line

LOOK_EVERY_S = 0.3


@click.group()
def director() -> None:
    """This director in its group behind a router: leave it, and join it again."""


@director.command()
@click.option("--now", is_flag=True, help="withdraw at once, without the seconds of lower preference (announce_leave)")
@click.option("--no-wait", is_flag=True, help="do not wait for the end: the daemon continues by itself")
@state_dir
def leave(now: bool, no_wait: bool, state_dir: Path | None) -> int:
    """Let the router send packets to other directors: lower the preference of the addresses, then withdraw them.

    It holds through reloads and restarts of the daemon, until `pylvs director join`. Services stay in the table, so
    packets that still arrive are forwarded.
    """
    reply = asked(state_dir, "POST", "/v1/director/leave", {"now": now})
    exit_status = _reported(reply, "leaving: it holds through reloads and restarts, until pylvs director join")
    if no_wait:
        return exit_status
    left = reply["leave"]
    try:
        while left and not left["withdrawn"]:
            time.sleep(LOOK_EVERY_S)
            left = asked(state_dir, "GET", "/v1/status")["leave"]
    except KeyboardInterrupt:
        click.echo("interrupted: the director leaves all the same; pylvs director join ends that", err=True)
        raise
    if not left:
        raise PylvsError("the leave was ended by pylvs director join")
    click.echo("left: no address of this director is announced")
    return exit_status


@director.command()
@state_dir
def join(state_dir: Path | None) -> int:
    """End a leave: the addresses whose services serve are announced again."""
    return _reported(asked(state_dir, "POST", "/v1/director/join"), "joined: pylvs status has the addresses")


def _reported(reply: dict[str, Any], text: str) -> int:
    """Print the text, and return the exit status: 1 if a restart of the daemon would forget the command."""
    click.echo(text)
    if not reply["not_kept"]:
        return 0
    click.echo(f"pylvs: in force, but a restart of the daemon ends it: {one_line(reply['not_kept'])}", err=True)
    return 1
