"""`pylvs stop`: end the daemon with its virtual routers and services, or let the next daemon continue with them."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import click

from pylvs.cli.common import asked, state_dir, unit_directory
from pylvs.daemon.api.client import NoDaemon, NoReply, elsewhere
from pylvs.daemon.leftovers import end_leftovers, end_of, stop_routers
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.errors import Busy, PylvsError

# late: each command imports what it runs, so that the others start sooner

NOTHING = "nothing to stop: no pylvs run answers, and a killed one left nothing"
END_S = 1100.0  # notifications and a shutdown_script, which may take 1000 s; systemd has limits of its own
SYSTEMD_S = 10.0  # for its reply about a job
_PROCESS = frozenset(("MAINPID", "EXIT_CODE"))  # of the unit's process: it runs, or has ended
_CRASHES = ("exit-code", "signal", "core-dump", "watchdog", "oom-kill")  # values of SERVICE_RESULT


@click.command()
@click.option(
    "--keep", is_flag=True, help="leave services and virtual routers for the next daemon: no connection breaks"
)
@click.option("-I", "--dont-release-ipvs", "keep_table", is_flag=True, help="leave the services in the table")
@click.option(
    "--unit",
    metavar="UNIT",
    is_eager=True,  # before --state-dir
    help="for ExecStop= and ExecStopPost=: --keep, unless systemd stops UNIT for good",
)
@state_dir
def stop(keep: bool, keep_table: bool, unit: str | None, state_dir: Path | None) -> None:
    """End the daemon. Afterwards no virtual router runs here, and its services are not in the table.

    Without a daemon it ends what a killed one left.
    """
    if unit is not None:
        job = job_of(unit)
        if not job:
            return  # a crash: the next daemon continues; or the daemon has stopped in good order by itself
        keep = job != "stop"
        try:
            state_dir = state_dir or unit_directory(unit)
        except PylvsError as error:  # nothing to stop here; systemd sends SIGTERM to a process that is starting
            click.echo(str(error))
            return
    from pylvs.daemon import gone_namespaces

    gone_namespaces.collect()
    state = StateDirectory(state_dir)
    done = False
    if state.path.is_dir():
        done = _stop_daemon(state, keep)
        # For a unit that is stopping already, systemd does not run it again: the job may have become "stop" since.
        if not keep or (unit is not None and _reported_job(unit) == "stop"):
            done = _end_leftovers(state, keep_table) or done
    if not done and unit is None:
        click.echo("; ".join(filter(None, (NOTHING, elsewhere()))))


def job_of(unit: str) -> str:
    """Return the type of systemd's job for the unit: `stop`, `restart`; "" without one.

    A unit whose process crashed has no job. If systemd does not reply, its environment decides. It names a process for
    pylvs.service, and none for pylvs-cleanup.service, whose restart follows each crash of the daemon.
    """
    reported = _reported_job(unit)
    if reported is not None:
        return reported
    has_process = not _PROCESS.isdisjoint(os.environ)
    return "stop" if has_process and os.environ.get("SERVICE_RESULT") not in _CRASHES else ""


def _reported_job(unit: str) -> str | None:
    """Return the type of the job as systemd reports it; None without a reply."""
    command = ["systemctl", "list-jobs", "--no-legend", "--no-pager", "--full", unit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMD_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split() for line in done.stdout.splitlines()]
    return next((row[2] for row in rows if len(row) >= 4 and row[1] == unit), "")


def _stop_daemon(state: StateDirectory, keep: bool) -> bool:
    """Let the daemon stop, and wait for its end; return whether one ran. Raises PylvsError if it hangs."""
    pid = state.daemon_pid()
    end = end_of(pid) if pid else None
    try:
        replied = asked(state.path, "POST", "/v1/stop", {"keep": keep})["pid"]
    except NoDaemon:
        return False
    except NoReply as error:
        if not keep:  # they have a process of their own, which does not hang
            stop_routers(state, click.echo)
        raise PylvsError(f"{error}; kill it, and run pylvs stop again") from None
    if replied != pid or end is None:
        end = end_of(replied)
    if not end(END_S):
        raise PylvsError(f"pylvs run, process {replied}, does not end within {END_S:g} s; kill it")
    click.echo(f"pylvs run, process {replied}, has ended")
    return True


def _end_leftovers(state: StateDirectory, keep_table: bool) -> bool:
    """End what a killed daemon left; return whether there was anything. Raises PylvsError."""
    found: list[str] = []

    def report(text: str) -> None:
        found.append(text)
        click.echo(text)

    with suppress(FileNotFoundError):
        try:
            end_leftovers(state, report, keep_table)
        except Busy as busy:
            raise PylvsError(f"{busy}: it does not answer; kill it, and run pylvs stop again") from None
    return bool(found)
