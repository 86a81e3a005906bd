"""`pylvs realserver`: make this machine a real server, and end that."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from pylvs.model.errors import InvalidOperation
from pylvs.model.service import Tunnel, TunnelKind
from pylvs.realserver import vip

KINDS = click.Choice([kind.name.lower() for kind in TunnelKind])
PORT = click.IntRange(1, 65535)


@click.group()
def realserver() -> None:
    """Add the VIP to lo without ARP and decapsulate tunnels; restore the former state.

    For direct routing and tunnelling. NAT needs nothing but a default route through the director.
    """


@realserver.command()
@click.argument("vips", metavar="VIP...", nargs=-1, required=True)
@click.option("--tunnel", is_flag=True, help="Decapsulate packets that the director tunnels: --tun-type ipip.")
@click.option(
    "--tun-type", "kinds", type=KINDS, multiple=True, help="Decapsulate this kind of tunnel; may be repeated."
)
@click.option("--tun-port", "ports", type=PORT, multiple=True, help="Port that receives GUE; may be repeated.")
@click.option(
    "--director",
    "directors",
    metavar="ADDRESS[/LENGTH]",
    multiple=True,
    help="Drop tunnels that do not come from here; may be repeated. Default: accept all.",
)
@click.option(
    "--device", "devices", multiple=True, help="Device towards the director; default: all devices that are up."
)
@click.option("-q", "--quiet", is_flag=True, help="Do not say what was changed.")
def up(
    vips: tuple[str, ...],
    tunnel: bool,
    kinds: tuple[str, ...],
    ports: tuple[int, ...],
    directors: tuple[str, ...],
    devices: tuple[str, ...],
    quiet: bool,
) -> None:
    """Become a real server for these addresses. Twice is harmless.

    Tunnels are those of the director's ipvsadm, --tun-type and --tun-port. Each packet shows itself whether it has
    a checksum.
    """
    addresses = [vip.parse_vip(text) for text in vips]
    sources = [vip.parse_director(text) for text in directors]
    done = vip.up(addresses, _tunnels([*(["ipip"] if tunnel else []), *kinds], ports), devices, sources)
    if not quiet:
        _say(done, "all was so already")


def _tunnels(kinds: Sequence[str], ports: Sequence[int]) -> list[Tunnel]:
    """Return the tunnels. Raises InvalidOperation where GUE lacks a port, or a port lacks GUE."""
    wanted = list(dict.fromkeys(TunnelKind[name.upper()] for name in kinds))
    if ports and TunnelKind.GUE not in wanted:
        raise InvalidOperation(f"--tun-port {ports[0]}: only GUE has a port; add --tun-type gue")
    if TunnelKind.GUE in wanted and not ports:
        raise InvalidOperation("--tun-type gue: needs the director's tunnel port; add --tun-port PORT")
    plain = [Tunnel(kind) for kind in wanted if kind != TunnelKind.GUE]
    return plain + [Tunnel(TunnelKind.GUE, port) for port in dict.fromkeys(ports)]


@realserver.command()
@click.argument("vips", metavar="[VIP...]", nargs=-1)
@click.option("-q", "--quiet", is_flag=True, help="Do not say what was changed.")
def down(vips: tuple[str, ...], quiet: bool) -> None:
    """Restore what `up` changed; with addresses, those alone."""
    done = vip.down([vip.parse_vip(text) for text in vips])
    if not quiet:
        _say(done, "there was nothing to restore")


def _say(lines: list[str], otherwise: str) -> None:
    click.echo("\n".join(lines or [otherwise]))


@realserver.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(as_json: bool) -> None:
    """Check that everything `up` set is still in force; exit status 1 if not, or if this is no real server.

    It also checks ARP for addresses of lo that another tool added.
    """
    findings = vip.status()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=1))
    else:
        found = [f"{'ok ' if each.good else 'BAD'}  {each.subject:<20} {each.text}" for each in findings]
        _say(found, "not a real server: pylvs realserver up VIP... makes it one")
    if not findings or not all(each.good for each in findings):
        sys.exit(1)
