"""What the commands share that ask a running daemon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from pylvs.model.errors import PylvsError

state_dir = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="of the daemon: where it is asked, and what it keeps; default: one for each network namespace",
)
as_json = click.option("--json", "as_json", is_flag=True, help="for programs")
service = click.option("--service", help="the virtual server, as status names it; default: each that has the server")


def asked(directory: Path | None, method: str, path: str, content: Any = None) -> Any:
    """The daemon's answer. Raises PylvsError with its words where it says no."""
    from pylvs.daemon.api.client import Client

    _, told = Client(directory).ask(method, path, content)
    if isinstance(told, dict) and "error" in told:
        raise PylvsError(told["error"])
    return told


def ago(seconds: float) -> str:
    """A stretch of time in its largest unit that gives a whole number of at least two, or seconds."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def at_clock(moment: float) -> str:
    """A moment of the wall clock, as a log has it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
