"""`pylvs run` and `pylvs reload`: start the daemon, and let it read its file again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pylvs.cli.common import state_dir
from pylvs.daemon import DEFAULT_FILE, Options
from pylvs.model.errors import PylvsError
from pylvs.model.printing import one_line

SWITCH_S = 0.001  # how long the editor's thread may keep the event loop waiting


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
@state_dir
def run(
    file: str,
    ids: tuple[str, ...],
    strict: bool,
    no_vrrp: bool,
    no_checks: bool,
    keep_table: bool,
    log_format: Any,
    state_dir: Path | None,
) -> None:
    """Reconcile the table with FILE and the health checks, in the foreground. SIGHUP reloads, SIGTERM ends."""
    import asyncio
    import resource

    from pylvs.daemon.host import HostServices
    from pylvs.daemon.supervisor import Supervisor
    from pylvs.system import logs

    logs.set_up(log_format)
    sys.setswitchinterval(SWITCH_S)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each check that runs has a socket
    options = Options(file, ids, strict, not no_checks, not no_vrrp, keep_table, state_dir, log_format)
    asyncio.run(Supervisor(options, HostServices()).run())


@click.command()
@click.option("--dry-run", is_flag=True, help="print what would change, and change nothing")
@click.option("--allow-empty", is_flag=True, help="accept an empty configuration, and empty the table")
@click.option("--force", is_flag=True, help="accept a file with errors, without the wrong parts")
@state_dir
def reload(dry_run: bool, allow_empty: bool, force: bool, state_dir: Path | None) -> None:
    """Let the daemon read its file again, as a whole or not at all; what did not change is not touched."""
    from pylvs.daemon.api.client import Client

    wanted = {"dry_run": dry_run, "allow_empty": allow_empty, "force": force}
    _, reply = Client(state_dir).ask("POST", "/v1/reload", wanted)
    for finding in reply.get("findings", ()):
        position = f"{finding['file']}:{finding['line']}:{finding['column']}"
        advice = f"; {finding['advice']}" if finding["advice"] else ""
        _tell(f"{position}: {finding['severity']}: {finding['text']}{advice}")
    if "error" in reply:
        raise PylvsError(reply["error"])
    for line in reply["differences"]:
        click.echo(line)
    if not reply["differences"]:
        click.echo("nothing would change" if dry_run else "nothing has changed")
    routers = reply["virtual_routers"]
    for line in routers["warnings"]:
        _tell(f"pylvs: {line}")
    table = reply["table"] or {"refused": [], "trouble": ""}
    for line in table["refused"]:
        _tell(f"pylvs: {line}")
    if table["trouble"]:
        raise PylvsError(f"the configuration is in force, but not yet in the table: {table['trouble']}")
    if routers["trouble"]:
        raise PylvsError(f"the configuration is in force, but not yet in the virtual routers: {routers['trouble']}")
    if table["refused"]:
        raise PylvsError(f"the configuration is in force, but the table refused {len(table['refused'])} edits")


def _tell(text: str) -> None:
    click.echo(one_line(text), err=True)
