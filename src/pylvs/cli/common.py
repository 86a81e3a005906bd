"""Options and arguments that several commands have, requests to a running daemon, and the format of their output."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from pylvs.model.addresses import Address, parsed_endpoint
from pylvs.model.durations import MAX_DAYS, MAX_DURATION_S
from pylvs.model.errors import PylvsError

# late: each command imports what it runs, so that the others start sooner

Callback = TypeVar("Callback", bound=Callable[..., Any])

_ENTERED = "pylvs.entered"  # in the context's `meta`: --namespace selects the daemon
_STATE_DIR = click.Path(file_okay=False, readable=False, path_type=Path)  # members of monitor_group cannot read it
own_state_dir = click.option(
    "--state-dir",
    type=_STATE_DIR,
    help="the daemon's directory, with its socket and its state; default: one for each network namespace",
)


def _enter(context: click.Context, parameter: click.Parameter, name: str) -> None:
    if name:
        from pylvs.daemon.keepalived.placement import enter_named

        enter_named(name)
        context.meta[_ENTERED] = True


def _default_directory(context: click.Context, parameter: click.Parameter, given: Path | None) -> Path | None:
    instance = context.params.pop("instance", "")
    if instance:
        _check_instance(instance)
    if given is None and instance:
        from pylvs.daemon.state.directory import default_path

        return default_path(instance)
    # `pylvs stop --unit` finds the unit's directory itself, if it has something to stop at all.
    if given is None and _ENTERED not in context.meta and not context.params.get("unit"):
        return unit_directory()
    return given


def _check_instance(name: str) -> None:
    """Raise click.UsageError unless the configuration accepts this name of an instance."""
    from pylvs.config.schema.types import FILE_NAME

    if not FILE_NAME.match(name):
        text = f"--instance: '{name}' is not the name of an instance"
        raise click.UsageError(f"{text}; write a name without / that does not begin with a dot")


def unit_directory(unit: str = "") -> Path | None:
    """Return the state directory of the daemon of PYLVS_UNIT, else of this unit; None means the default one.

    Raises PylvsError.
    """
    name = os.environ.get("PYLVS_UNIT") or unit
    if not name:
        return None
    from pylvs.daemon.units import directory_of

    return directory_of(name)


def state_dir(command: Callback) -> Callback:
    """Add the options that select the daemon: its directory, or its network namespace and its instance."""
    for option in (
        click.option("--state-dir", type=_STATE_DIR, callback=_default_directory, help="the daemon's directory"),
        click.option("--instance", default="", metavar="NAME", is_eager=True, help="the daemon of this instance"),
        click.option(
            "--namespace",
            default="",
            metavar="NAME",
            is_eager=True,
            expose_value=False,
            callback=_enter,
            help="the daemon of this network namespace",
        ),
    ):
        command = option(command)
    return command


def facility(word: str) -> str:
    """Return the name of the syslog facility of --log-facility. Raises click.UsageError."""
    from pylvs.system.syslog import facility_of

    try:
        return facility_of(word)
    except ValueError as error:
        raise click.UsageError(f"--log-facility: {error}") from None


as_json = click.option("--json", "as_json", is_flag=True, help="for programs")
service = click.option("--service", help="the virtual server, as status names it; default: each that has the server")
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def asked(directory: Path | None, method: str, path: str, content: Any = None) -> Any:
    """Return the daemon's reply. Raises PylvsError with the daemon's error."""
    from pylvs.daemon.api.client import Client

    _, reply = Client(directory).ask(method, path, content)
    if isinstance(reply, dict) and "error" in reply:
        raise PylvsError(reply["error"])
    return reply


def print_json(value: Any) -> None:
    """Print a daemon's reply for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


Paint = Callable[[str, str], str]  # a text and the name of a colour


def plain(text: str, colour: str) -> str:
    """Return the text without a colour."""
    return text


def paint(text: str, colour: str) -> str:
    """Return the text in a colour, without if NO_COLOR is set; `click.echo` removes it where there is no terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def ago(seconds: float) -> str:
    """Return a duration in the largest unit of which it has at least two, else in seconds."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def script_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a line for each notify script that runs, waits, or had to be ended."""
    found = []
    for script in report.get("scripts", ()):
        how = (
            script["reason"] or f"{'runs' if script['state'] == 'running' else 'waits'} since {ago(script['seconds'])}"
        )
        found.append(f"{script['object']}: {script['keyword']} {script['script']} {how}")
    return found


def at_clock(moment: float) -> str:
    """Format a Unix time as local date and time, with the offset from UTC."""
    return datetime.fromtimestamp(moment).astimezone().isoformat(" ", "seconds")


def address_and_port(
    option: str, given: str, form: str = "192.0.2.1:80 or [2001:db8::1]:80", least: int = 1
) -> tuple[Address, int]:
    """Parse an address with a port, which is at least `least`; `form` has examples. Raises click.UsageError."""
    try:
        address, port = parsed_endpoint(given)
        if port < least:
            raise ValueError
        return address, port
    except ValueError:
        raise click.UsageError(f"{option}: {given!r} is no address with a port; write {form}") from None


def seconds(option: str, text: str) -> float:
    """Parse the length of time that an option has: `90`, `90s`, `10m`, `1.5h`, `2d`. Raises click.UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?", text.strip())
    if not found:
        raise click.UsageError(f"{option}: {text!r} is no length of time: write 90s, 10m, 1.5h")
    length_s = float(found[1]) * _UNITS_S[found[2] or ""]
    if length_s > MAX_DURATION_S:
        raise click.UsageError(f"{option} {text}: must be from 0 to {MAX_DAYS} days")
    return length_s
