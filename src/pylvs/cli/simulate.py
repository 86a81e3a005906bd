"""`pylvs simulate`: show which server each client would get, and how the load spreads."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import click

from pylvs.ipvsadm.commands import Session
from pylvs.model.addresses import endpoint
from pylvs.model.errors import PylvsError, excerpt
from pylvs.model.service import Protocol, ServiceKey
from pylvs.reference.simulation import LARGEST_COUNT, PORTS, Clients, Simulation, Spread

WIDTH = 40  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"
SVG_BAR, SVG_LINE, SVG_LEFT, SVG_RIGHT = 400, 24, 260, 120  # pixels
SHOWN = 10  # clients of a service that are listed, unless all are asked for
EDITS = ("-A", "-E", "-D", "-a", "-e", "-d", "--set")
LONG_EDITS = ("--add-", "--edit-", "--delete-")
SERVICE_OPTIONS = ("-t", "-u", "-f", "--tcp-service", "--udp-service", "--sctp-service", "--fwmark-service")
ABOUT = (  # phrases in an error of ipvsadm, and the options whose value is wrong
    ("real server|Destination", ("-r", "--real-server")),
    ("weight", ("-w", "--weight")),
    ("threshold", ("-x", "-y", "--u-threshold", "--l-threshold")),
    ("Scheduler|scheduler", ("-s", "--scheduler")),
    ("virtual server|Service", SERVICE_OPTIONS),
)
PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol}


class BadInput(PylvsError):
    """A file that cannot be read as a simulation; the text begins with FILE:LINE:COLUMN."""


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8", errors="replace"))
@click.option("--clients", "networks", multiple=True, metavar="NETWORK", help="Clients, 10.1.0.0/24 for instance.")
@click.option("--count", type=click.IntRange(1, LARGEST_COUNT), help="So many of each network.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Random clients and ports; 0: the first addresses.")
@click.option("--ports", metavar="FIRST-LAST", help="Clients' own ports; default 32768-60999.")
@click.option("--to", "target", metavar="PROTOCOL:ADDRESS:PORT", help="tcp:192.0.2.1:80; default: every service.")
@click.option("--mark", type=click.IntRange(1), default=None, help="Firewall mark of the packets; with --to.")
@click.option("--short", is_flag=True, help="Each connection ends before the next begins; else all stay open.")
@click.option("--all", "everyone", is_flag=True, help="List all clients, not only the first ten.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--svg", type=click.File("w", encoding="utf-8", lazy=True), help="Write the picture to this file.")
def simulate(
    file: io.TextIOBase,
    networks: Sequence[str],
    count: int | None,
    seed: int,
    ports: str | None,
    target: str | None,
    mark: int | None,
    short: bool,
    everyone: bool,
    as_json: bool,
    svg: io.TextIOBase | None,
) -> None:
    """Read a table as ipvsadm-save -n writes it, open connections, and show who got which server.

    FILE may also have lines "clients NETWORK [count N] [ports A-B] [to PROTOCOL:ADDRESS:PORT] [mark N]"; "-" is
    stdin. Nothing of this machine is read or changed: the reference implementation decides.
    """
    simulation = Simulation(seed=seed, lasting=not short)
    name = str(getattr(file, "name", "-"))
    groups = read(file.read(), name, simulation)
    given = {"count": count, "ports": ports, "to": target, "mark": mark}
    words = [str(word) for setting in given.items() if setting[1] is not None for word in setting]
    for network in networks:
        groups.append(clients([network, *words]))
    if not groups:
        raise click.UsageError("no clients: give --clients NETWORK, or a line 'clients NETWORK' in the file")
    if not simulation.director.services():
        raise BadInput(f"{name}:1:1: no service; lines like '-A -t 192.0.2.1:80 -s rr' make one")
    spreads = [spread for spread in simulation.run(groups) if spread.answers]
    if not spreads:
        raise BadInput("none of these clients reaches a service; name one with --to PROTOCOL:ADDRESS:PORT")
    if svg is not None:
        svg.write(bars_svg(spreads))
    click.echo(json.dumps(as_values(spreads, seed), indent=1) if as_json else as_text(spreads, everyone))


def read(text: str, name: str, simulation: Simulation) -> list[Clients]:
    """Apply the edits of the table; return the clients. Raises BadInput."""
    groups = []
    for number, line in enumerate(text.split("\n"), 1):
        words, columns = _words(line)
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "clients":
            groups.append(clients(words[1:], f"{name}:{number}", columns[1:] or [len(line) + 1]))
        else:
            _edit(simulation, words, columns, name, number)
    return groups


def _words(line: str) -> tuple[list[str], list[int]]:
    """Return the words of a line and their columns, counted from 1, without a leading "ipvsadm"."""
    found = list(re.finditer(r"\S+", line))
    if found and found[0][0] == "ipvsadm":
        del found[0]
    return [match[0] for match in found], [match.start() + 1 for match in found]


def _edit(simulation: Simulation, words: list[str], columns: list[int], name: str, number: int) -> None:
    first = words[0]
    if first not in EDITS and not first.startswith(LONG_EDITS):
        raise BadInput(
            f"{name}:{number}:{columns[0]}: {excerpt(first)} is no line of ipvsadm-save, nor 'clients NETWORK'"
        )
    errors = io.StringIO()
    if not Session(simulation.director, io.StringIO(), io.StringIO(), errors).run(words).status:
        return
    error = next((line for line in errors.getvalue().splitlines() if line.strip()), "refused")
    options = [word for about, known in ABOUT if re.search(about, error) for word in known if word in words]
    wrong = words.index(options[0]) + 1 if options else 0
    wrong = wrong if wrong < len(words) else 0
    raise BadInput(f"{name}:{number}:{columns[wrong]}: {error.removeprefix('ipvsadm: ')}")


def clients(words: list[str], line: str = "", columns: Sequence[int] = ()) -> Clients:
    """Return the clients of "NETWORK [count N] [ports A-B] [to TARGET] [mark N]". Raises BadInput.

    Without a line of a file, each word is the value of the option with its keyword, the first one of --clients.
    """

    def bad(index: int, what: str) -> BadInput:
        if line:
            return BadInput(f"{line}:{columns[min(index, len(columns) - 1)]}: {what}")
        return BadInput(f"--{words[index - (index + 1) % 2] if index else 'clients'}: {what}")

    if not words:
        raise bad(0, "a network is missing; write clients 10.1.0.0/24")
    try:
        network: IPv4Network | IPv6Network = ip_network(words[0], strict=False)
    except ValueError:
        raise bad(0, f"{excerpt(words[0])} is no network; write 10.1.0.0/24 or 2001:db8::/64") from None
    given = _settings(words, bad)
    to: ServiceKey | None = given.get("to")
    mark: int = given.get("mark", 0)
    if mark and to is None:
        raise bad(len(words) - 2, "a mark needs a target; add to tcp:192.0.2.1:80")
    if to is not None and to.address.version != network.version:
        raise bad(0, f"{network} and {to.address} are of different address families")
    if to is not None and mark:
        to = ServiceKey(to.protocol, to.address, to.port, mark)
    return Clients(network, given.get("count", 0), to, given.get("ports", PORTS))


def _settings(words: list[str], bad: Callable[[int, str], BadInput]) -> dict[str, Any]:
    """Return the values of the keywords that follow the network."""
    given: dict[str, Any] = {}
    for index in range(1, len(words), 2):
        if index + 1 == len(words):
            raise bad(index, f"{excerpt(words[index])} lacks a value, or is none of: count, ports, to, mark")
        keyword, value = words[index : index + 2]
        if keyword not in READERS:
            raise bad(index, f"{excerpt(keyword)} is none of: count, ports, to, mark")
        try:
            given[keyword] = READERS[keyword](value)
        except ValueError as error:
            raise bad(index + 1, str(error)) from None
    return given


def _number(text: str, lowest: int, highest: int) -> int:
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise ValueError(f"{excerpt(text)} must be a number from {lowest} to {highest}")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    low, high = _number(first, 0, 65535), _number(last or first, 0, 65535)
    if low > high:
        raise ValueError(f"{excerpt(text)}: the first port is greater than the last")
    return low, high


def _target(text: str) -> ServiceKey:
    protocol, _, rest = text.partition(":")
    if protocol.lower() not in PROTOCOLS:
        raise ValueError(f"{excerpt(text)}: the protocol must be tcp, udp or sctp, as in tcp:192.0.2.1:80")
    host, _, port = (rest, "", "") if rest.endswith("]") or ":" not in rest else rest.rpartition(":")
    try:
        address = ip_network(host.removeprefix("[").removesuffix("]")).network_address
    except ValueError:
        raise ValueError(
            f"{excerpt(text)}: {excerpt(host)} is no address; write tcp:192.0.2.1:80 or tcp:[2001:db8::1]:80"
        ) from None
    if not port:
        raise ValueError(f"{excerpt(text)}: a port is missing; write {protocol}:{endpoint(address, 80)}")
    return ServiceKey(PROTOCOLS[protocol.lower()], address, _number(port, 1, 65535))


READERS: Mapping[str, Callable[[str], Any]] = {
    "count": lambda text: _number(text, 1, LARGEST_COUNT),
    "ports": _range,
    "to": _target,
    "mark": lambda text: _number(text, 1, 0xFFFFFFFF),
}


def as_text(spreads: list[Spread], everyone: bool) -> str:
    """Return the first clients of each service, and a bar for each server."""
    parts = []
    for spread in spreads:
        listed = spread.answers if everyone else spread.answers[:SHOWN]
        width = max(len(endpoint(each.client, each.port)) for each in listed)
        lines = [f"{spread.service}  {spread.scheduler}"]
        lines += [f"  {endpoint(each.client, each.port):{width}}  {each.server or 'refused'}" for each in listed]
        if len(listed) < len(spread.answers):
            lines.append(f"  ... and {len(spread.answers) - len(listed)} more (--all)")
        parts.append("\n".join([*lines, "", *bars(spread)]))
    return "\n\n".join(parts)


def _rows(spread: Spread) -> list[tuple[str, str, int]]:
    """Return name, weight and connections of each server; a last row has the refused connections."""
    rows = [(server, f"weight {spread.weights[server]}", got) for server, got in spread.servers.items()]
    return [*rows, ("refused", "", spread.refused)] if spread.refused else rows


def bars(spread: Spread) -> list[str]:
    """Return a line for each server, for a terminal: its bar, its connections, its share."""
    rows = _rows(spread)
    name_width = max(len(name) for name, _, _ in rows)
    weight_width = max(len(weight) for _, weight, _ in rows)
    most = max(got for _, _, got in rows) or 1
    lines = []
    for name, weight, got in rows:
        eighths = round(got / most * WIDTH * 8)
        bar = "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")
        share = got / len(spread.answers)
        lines.append(f"  {name:{name_width}}  {weight:{weight_width}}  {bar:{WIDTH}}  {got}  {share:.1%}")
    return lines


def bars_svg(spreads: list[Spread]) -> str:
    """Draw the same bars as SVG."""
    parts, y = [], 0
    for spread in spreads:
        y += SVG_LINE
        parts.append(f'<text x="4" y="{y}" font-weight="bold">{escape(f"{spread.service} {spread.scheduler}")}</text>')
        rows = _rows(spread)
        most = max(got for _, _, got in rows) or 1
        for name, weight, got in rows:
            y += SVG_LINE
            length = got / most * SVG_BAR
            parts.append(f'<text x="4" y="{y}">{escape(f"{name} {weight}")}</text>')
            parts.append(f'<rect x="{SVG_LEFT}" y="{y - 14}" width="{length:.1f}" height="18" fill="#4878a8"/>')
            share = f"{got} ({got / len(spread.answers):.1%})"
            parts.append(f'<text x="{SVG_LEFT + length + 6:.1f}" y="{y}">{share}</text>')
        y += SVG_LINE // 2
    size = f'width="{SVG_LEFT + SVG_BAR + SVG_RIGHT}" height="{y + SVG_LINE}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="14">'
    return "\n".join([head, *parts, "</svg>", ""])


def as_values(spreads: list[Spread], seed: int) -> dict[str, object]:
    """Return the same for `--json`, with all clients."""
    return {
        "seed": seed,
        "services": [
            {
                "service": spread.service,
                "scheduler": spread.scheduler,
                "servers": [
                    {"server": server, "weight": spread.weights[server], "connections": got}
                    for server, got in spread.servers.items()
                ],
                "refused": spread.refused,
                "clients": [
                    {"client": str(each.client), "port": each.port, "server": each.server} for each in spread.answers
                ],
            }
            for spread in spreads
        ],
    }
