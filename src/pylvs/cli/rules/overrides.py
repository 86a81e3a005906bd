"""`pylvs filter --override`: the operator's client rules, which a running daemon has."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pylvs.cli.common import asked
from pylvs.daemon.api.client import Client
from pylvs.daemon.state.directory import StateDirectory, daemons_of
from pylvs.daemon.state.owners import owner
from pylvs.library.keys import ServiceKey as LibraryKey
from pylvs.model.client_rules import ClientRule, rule_of
from pylvs.model.errors import PylvsError
from pylvs.model.service import ServiceKey
from pylvs.system.logs import one_line
from pylvs.system.namespaces import network_cookie


def change(directory: Path | None, key: ServiceKey, what: str, **fields: list[str]) -> int:
    """Change the operator's rules of a service; return the exit status, 1 if they hold in part only.

    Without a state directory the daemon is the one that has the service. Raises PylvsError.
    """
    reply = asked(
        directory or _daemon_of(key).path, "POST", f"/v1/client-rules/{what}", {"service": str(key), **fields}
    )
    if reply["problem"]:
        click.echo(f"pylvs: not in the table yet: {one_line(reply['problem'])}", err=True)
    if reply["not_kept"]:
        click.echo(f"pylvs: a restart of the daemon ends it: {one_line(reply['not_kept'])}", err=True)
    return 1 if reply["problem"] or reply["not_kept"] else 0


def listed(directory: Path | None, key: ServiceKey | None) -> dict[ServiceKey, list[ClientRule]]:
    """Return the operator's rules of a service, or of all. Raises PylvsError."""
    found = dict[ServiceKey, list[ClientRule]]()
    states = [StateDirectory(directory)] if directory else [_daemon_of(key)] if key else _running()
    for state in states:
        with Client(state.path).stream("GET", "/v1/client-rules") as response:
            if response.status != 200:
                raise PylvsError(json.loads(response.read())["error"])
            for line in map(json.loads, response):
                if line["origin"] == "operator":
                    found.setdefault(LibraryKey.parse(line["service"]).to_model(), []).append(
                        rule_of(line["rule"].split())
                    )
    return found if key is None else {key: found.get(key, [])}


def _daemon_of(key: ServiceKey) -> StateDirectory:
    found = owner(network_cookie(), {key})
    if found is None:
        raise PylvsError(f"{key}: no running pylvs run has this service in its file; leave out --override")
    return found.state


def _running() -> list[StateDirectory]:
    found = [state for state in daemons_of(network_cookie()) if state.daemon_pid()]
    if not found:
        raise PylvsError("no pylvs run has services here; leave out --override")
    return found
