"""`pylvs lab`: clients, routers, directors and real servers on one machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from pylvs.lab.hosts import COMMAND, checked_name, environment
from pylvs.lab.lab import Lab, build, free_name, labs, open_lab, power_off, power_on, take_down
from pylvs.lab.network import DIRECTOR, Network, address_list, command_lines, draw
from pylvs.lab.plan import PEERS, ROUTING, TUNNELS, load_overrides
from pylvs.lab.processes import defer_signals
from pylvs.lab.topologies import TOPOLOGIES, design
from pylvs.model.errors import Busy, InvalidOperation, Unsupported

# late: each command imports what it runs, so that the others start sooner

WORDS = {"ignore_unknown_options": True, "allow_interspersed_args": False}
NAMES_TRIED = 10
TOPOLOGY = click.Choice(list(TOPOLOGIES))

ipv6_option = click.option("--ipv6", is_flag=True, help="IPv6 instead of IPv4.")
peer_option = click.option(
    "--peer", type=click.Choice(PEERS), help="ha: what the second director speaks VRRP with (pylvs)."
)


@click.group()
def lab() -> None:
    """Clients, routers, directors and real servers, each a network namespace with files of its own."""


@lab.command()
@click.argument("topology", type=TOPOLOGY)
@click.option("--servers", type=int, help="How many real servers (3).")
@click.option("--name", help="Letters and digits; without it d1, n1... by topology.")
@ipv6_option
@click.option("--plan", type=click.Path(path_type=Path), help="Addresses of your own: a TOML or JSON file.")
@click.option("--tun-type", type=click.Choice(TUNNELS), help="tun: what packets are wrapped in (ipip).")
@peer_option
@click.option("--routing", type=click.Choice(ROUTING), help="ecmp: the routing daemon of the directors (bird).")
@click.option("--bare", is_flag=True, help="Director and real servers have their addresses and nothing more.")
@click.option("--blank", is_flag=True, help="Director and real servers have not even addresses.")
def up(
    topology: str,
    servers: int | None,
    name: str | None,
    ipv6: bool,
    plan: Path | None,
    tun_type: str | None,
    peer: str | None,
    routing: str | None,
    bare: bool,
    blank: bool,
) -> None:
    """Make a lab and draw it.

    \b
    - dr                direct routing, all hosts on one switch
    - nat               the director is the servers' gateway
    - tun               real servers in other subnets
    - ha                two directors, one VIP
    - dr-behind-router  a router translates a public address to the VIP
    - dr-routed         the VIP in another subnet than the real servers
    - ecmp              four directors behind a router with ECMP
    """
    overrides = load_overrides(plan) if plan else {}
    if tun_type:
        overrides["tunnel"] = tun_type
    if peer:
        overrides["peer"] = peer
    if routing:
        overrides["routing"] = routing
    if servers is not None and "servers" in overrides:
        raise InvalidOperation(f"--servers {servers}: {plan} says already which servers there are")
    network = design(topology, 3 if servers is None else servers, 6 if ipv6 else 4, overrides)
    with defer_signals() as signals:
        made = _build(checked_name(name) if name else "", network, bare, blank)
        click.echo(draw(made.name, made.network), nl=False)
        click.echo(f"  try it: {COMMAND} lab exec {made.name} client -- curl -s http://VIP/")
        signals.ignore()  # the lab is complete: an exit status of a failure would be wrong


def _build(name: str, network: Network, bare: bool, blank: bool) -> Lab:
    """Build it under the given name or the first free one, which another process may take at the same moment."""
    for _ in range(NAMES_TRIED):
        known = name or free_name(TOPOLOGIES[network.topology].letter)
        try:
            return build(known, network, bare=bare, blank=blank)
        except Busy:
            if name:
                raise
    raise Busy("all default names are in use; choose one with --name")


def _the_only(name: str | None) -> str:
    """Return the given name, or that of the only lab."""
    if name:
        return checked_name(name)
    there = [each for each, _ in labs()]
    if len(there) == 1:
        return there[0]
    raise InvalidOperation(f"which lab? there are: {', '.join(there)}" if there else "there is no lab")


@lab.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="All labs.")
def down(name: str | None, everything: bool) -> None:
    """Remove a lab, half-made ones too, with all that runs in it. The name may be left out if there is only one."""
    names = [each for each, _ in labs()] if everything else [_the_only(name)]
    for lab_name in names:
        if not take_down(lab_name):
            raise InvalidOperation(f"there is no lab {lab_name}")
        click.echo(f"lab {lab_name} is gone")


@lab.command(name="list")
def list_labs() -> None:
    """All labs of this machine."""
    found = labs()
    if not found:
        click.echo("there is no lab; pylvs lab up dr makes one", err=True)
    for name, state in found:
        what = address_list(open_lab(name).network) if state == "up" else state
        click.echo(f"{name:<10} {what}")


@lab.command()
@click.argument("name", required=False)
def show(name: str | None) -> None:
    """Draw a lab again, with the commands that configured it."""
    opened = open_lab(_the_only(name))
    click.echo(draw(opened.name, opened.network), nl=False)
    if text := command_lines(opened.network):
        click.echo(f"\n{text}", nl=False)


@lab.command(name="exec", context_settings=WORDS)
@click.argument("name")
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command in a host: pylvs lab exec d1 client -- curl -s http://VIP/."""
    words = list(command[1:] if command[0] == "--" else command)
    if not words:
        raise click.UsageError("a command is missing")
    _become(name, host, words)


@lab.command()
@click.argument("name")
@click.argument("host", required=False)
def shell(name: str, host: str | None) -> None:
    """A shell in a host (the director, the first of two, if none is named)."""
    directors = open_lab(checked_name(name)).network.role(DIRECTOR)
    _become(name, host or directors[0].name, [shutil.which("bash") or "/bin/sh"])


@lab.command()
@click.argument("name")
@click.argument("host")
@click.argument("state", type=click.Choice(["off", "on"]))
def power(name: str, host: str, state: str) -> None:
    """Power a director off without a shutdown, or on: it then boots as a machine does."""
    opened = open_lab(checked_name(name))
    directors = [each.name for each in opened.network.role(DIRECTOR)]
    if host not in directors:
        raise InvalidOperation(f"{host} is no director; only these can be switched: {', '.join(directors)}")
    power_off(opened, host)
    if state == "on":
        power_on(opened, host)


def _become(name: str, host: str, words: list[str]) -> None:
    """Replace this process by a command in a host."""
    inside = open_lab(checked_name(name)).host(host).inside()
    try:
        # By default nsenter changes to /. A command expects the working directory of its caller.
        words = [*inside[:-1], f"--wdns={os.getcwd()}", "--", *words]
    except FileNotFoundError:  # a folder that was removed
        words = [*inside, *words]
    try:
        os.execvpe(words[0], words, environment())
    except OSError as error:
        raise Unsupported(f"{words[0]}: {error.strerror}") from None


@lab.command()
@click.argument("topology", type=click.Choice(["dr", "nat", "tun", "ha"]), default="dr")
@ipv6_option
@peer_option
@click.option("--web", is_flag=True, help="Instead, serve the web page of a lab with traffic, until ctrl-C.")
def demo(topology: str, ipv6: bool, peer: str | None, web: bool) -> None:
    """A guided tour: makes a lab, shows what happens in it, and removes it."""
    if web and (topology, ipv6, peer) != ("dr", False, None):
        raise click.UsageError("--web is a demonstration of its own, with direct routing: leave out the others")
    from pylvs.lab import demo, demo_page

    if web:
        demo_page.page()
    else:
        demo.tour(topology, 6 if ipv6 else 4, {"peer": peer} if peer else None)
