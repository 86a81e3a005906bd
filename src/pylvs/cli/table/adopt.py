"""`pylvs adopt`: take over the kernel's IPVS with its connections, and give them back."""

from __future__ import annotations

import click

from pylvs.daemon.state.owners import owner
from pylvs.dataplane.director import BpfDirector, open_director
from pylvs.ipvs.adopt import Adoption, give_up, planned, refusals
from pylvs.ipvs.back import Return
from pylvs.ipvs.kernel import KernelIpvs
from pylvs.ipvs.plan import Left, Plan
from pylvs.library.difference import difference
from pylvs.library.values import Service
from pylvs.model.errors import Busy, PylvsError, counted
from pylvs.model.rows import DestinationRow, ServiceRow


@click.command()
@click.option("--dry-run", is_flag=True, help="print what would be taken over and what cannot, and change nothing")
@click.option("--force", is_flag=True, help="leave behind what cannot be taken over")
@click.option("--abort", is_flag=True, help="remove what an interrupted pylvs adopt left; ip_vs serves")
@click.option("--back", is_flag=True, help="give table and connections back to ip_vs, and remove pylvs's tables")
def adopt(dry_run: bool, force: bool, abort: bool, back: bool) -> None:
    """Take over the kernel's IPVS of this network namespace: its table, and its live connections.

    From one moment on pylvs serves all packets, and then ip_vs has no services any more. An interrupted adoption is
    completed by the next call.
    """
    if dry_run + force + abort + back > 1:
        raise click.UsageError("--dry-run, --force, --abort and --back exclude each other")
    director = open_director()
    if abort:
        give_up(director)
        click.echo("ip_vs serves; pylvs has no tables of an adoption in this network namespace")
        return
    if back:
        _give_back(director)
        return
    with KernelIpvs() as kernel:
        if dry_run:
            found, lines, left = planned(kernel, director)
            _print_plan(found, len(lines), left)
            if refused := refusals(found, left):
                raise PylvsError(f"{counted(len(refused), 'reason')} against an adoption; --force leaves these behind")
            return
        outcome = Adoption(director, kernel).run(force)
    if outcome.was_interrupted:
        click.echo("an interrupted adoption is complete")
    click.echo(
        f"adopted: {counted(outcome.services, 'service')}, {counted(outcome.connections, 'connection')};"
        f" {outcome.late} of them changed while pylvs took over, which took {outcome.pause_s * 1000:.0f} ms"
    )
    for line in outcome.left.lines():
        click.echo(f"left behind: {line}")
    click.echo("pylvs serves; ip_vs has no services any more")


def _give_back(director: BpfDirector) -> None:
    if owned := owner(director.state.cookie):
        raise Busy(f"pylvs run, process {owned.process}, would make the tables again: pylvs stop --keep ends it")
    with KernelIpvs() as kernel:
        done = Return(director, kernel).run()
    if done.was_interrupted:
        click.echo("an interrupted return is complete")
    click.echo(
        f"given back: {counted(done.services, 'service')}, {counted(done.connections, 'connection')};"
        f" new ones waited for {done.pause_s * 1000:.0f} ms"
    )
    click.echo("ip_vs serves; pylvs has no tables in this network namespace any more")


def _print_plan(found: Plan, connections: int, left: Left) -> None:
    servers = sum(len(destinations) for _, destinations in found.rows)
    click.echo(
        f"ip_vs has {counted(len(found.rows), 'service')}, {counted(servers, 'server')},"
        f" {counted(connections, 'connection')}"
    )
    rows = (ServiceRow(service, tuple(map(DestinationRow, servers))) for service, servers in found.rows)
    if text := str(difference((), map(Service.from_model, rows))):
        click.echo(text)
    for note in found.notes:
        click.echo(f"different: {note}")
    for problem in found.problems:
        click.echo(f"cannot be taken over: {problem}")
    for line in left.lines():
        click.echo(f"left behind: {line}")
