"""`pylvs adopt`: take over the kernel's IPVS with its connections, and give them back."""

from __future__ import annotations

import click

from pylvs.cli.common import seconds
from pylvs.daemon.state.owners import owner
from pylvs.dataplane.director import BpfDirector, open_director
from pylvs.ipvs.adopt import Adoption, give_up, planned, refusals
from pylvs.ipvs.back import Return
from pylvs.ipvs.kernel import KernelIpvs
from pylvs.ipvs.plan import Left, Plan
from pylvs.ipvs.shadow import Shadow
from pylvs.library.difference import difference
from pylvs.library.values import Service
from pylvs.model.errors import Busy, PylvsError, counted
from pylvs.model.rows import DestinationRow, ServiceRow

EQUAL_SHARE = 0.9999  # of the decisions of a shadow; below it there is no adoption
_SHOWN = 20  # decisions that differ


@click.command()
@click.option("--dry-run", is_flag=True, help="print what would be taken over and what cannot, and change nothing")
@click.option("--force", is_flag=True, help="leave behind what cannot be taken over")
@click.option("--abort", is_flag=True, help="remove what an interrupted pylvs adopt left; ip_vs serves")
@click.option("--shadow", metavar="SECONDS", help="before, decide each packet beside ip_vs for this time, and compare")
@click.option("--back", is_flag=True, help="give table and connections back to ip_vs, and remove pylvs's tables")
def adopt(dry_run: bool, force: bool, abort: bool, back: bool, shadow: str | None) -> None:
    """Take over the kernel's IPVS of this network namespace: its table, and its live connections.

    From one moment on pylvs serves all packets, and then ip_vs has no services any more. An interrupted adoption is
    completed by the next call.
    """
    if (dry_run or force) + abort + back > 1 or (shadow and (abort or back)):
        raise click.UsageError("--abort and --back go with no other option")
    shadow_s = seconds("--shadow", shadow) if shadow else 0.0
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
            if shadow_s and not refusals(found, left):
                _shadow(director, kernel, shadow_s, force)
            if (refused := refusals(found, left)) and not force:
                raise PylvsError(f"{counted(len(refused), 'reason')} against an adoption; --force leaves these behind")
            return
        if shadow_s:
            _shadow(director, kernel, shadow_s, force)
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


def _shadow(director: BpfDirector, kernel: KernelIpvs, seconds_s: float, force: bool) -> None:
    """Print the comparison. Raises PylvsError, unless `force` is set, if too many decisions differ."""
    found = Shadow(director, kernel).run(seconds_s, force)
    click.echo(
        f"shadowed for {seconds_s:g} s: {counted(found.compared, 'packet')} compared,"
        f" {found.equal} decided as by ip_vs ({found.share:.3%})"
    )
    for number, text in (
        (found.by_turn, "not compared: they open connections, and the server depends on all connections before"),
        (found.ended, "not compared: their connections ended at this moment"),
        (found.lost, "not compared: they came too fast"),
    ):
        if number:
            click.echo(f"{counted(number, 'packet')} {text}")
    if found.refused:
        click.echo(f"{counted(found.refused, 'connection')} found no space in the table of pylvs")
    for text, number in found.differing.most_common(_SHOWN):
        click.echo(f"differs: {text}, {counted(number, 'time')}")
    if len(found.differing) > _SHOWN:
        click.echo(f"differs: {len(found.differing) - _SHOWN} more")
    if found.share < EQUAL_SHARE and not force:
        raise PylvsError(f"less than {EQUAL_SHARE:.2%} of the decisions are equal: nothing was changed; --force adopts")


def _give_back(director: BpfDirector) -> None:
    if owned := owner(director.state.cookie):
        raise Busy(f"pylvs run, process {owned.process}, would make the tables again: pylvs stop --keep ends it")
    with KernelIpvs() as kernel:
        done = Return(director, kernel).run()
    for role in done.sync_daemons:
        click.echo(f"the {role} sync daemon is stopped")
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
