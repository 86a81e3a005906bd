"""`pylvs sync`: the sync daemons of this network namespace, and what they have counted."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from pylvs.cli.common import as_json
from pylvs.model.errors import needs_root
from pylvs.model.sync.daemons import MASTER, RunningDaemon
from pylvs.sync import control

# late: each command imports what it runs, so that the others start sooner


@click.command()
@as_json
def sync(as_json: bool) -> None:
    """Show the sync daemons, and what they have counted since their start. They count about once a second."""
    if os.geteuid():
        raise needs_root("the sync daemons")
    found = list(control.running())
    if as_json:
        click.echo(json.dumps([_plain(each) for each in found], indent=2))
        return
    if not found:
        click.echo("no sync daemon runs; ipvsadm --start-daemon starts one")
    for running in found:
        click.echo(_line(running))
        counts = control.counts(running.daemon.role)
        for name, meaning in _meanings(running.daemon.role).items():
            if counts.get(name):
                click.echo(f"  {name:<24} {counts[name]:>12}  {meaning}")


def _line(running: RunningDaemon) -> str:
    daemon = running.daemon
    owner = f", of {running.owner}" if running.owner else ""
    return (
        f"{daemon.role} sync daemon: interface {daemon.interface}, syncid {daemon.syncid}, group {daemon.group},"
        f" port {daemon.port}, ttl {daemon.ttl}, maxlen {running.maxlen}; process {running.pid}{owner}"
    )


def _plain(running: RunningDaemon) -> dict[str, Any]:
    return {
        **running.daemon.encoded(),
        "maxlen": running.maxlen,
        "process": running.pid,
        "owner": running.owner,
        "counts": control.counts(running.daemon.role),
    }


def _meanings(role: str) -> dict[str, str]:
    """Return what a daemon of a role counts, with the meanings."""
    if role == MASTER:
        from pylvs.sync import master

        return master.COUNTERS
    from pylvs.sync import backup, wire

    return {**wire.COUNTERS, **backup.COUNTERS, **backup.STORED}
