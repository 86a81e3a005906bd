"""`pylvs doctor`: print why clients get no answer, the likeliest cause first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from pylvs.cli.common import Paint, as_json, paint, state_dir
from pylvs.doctor.examination import examine
from pylvs.doctor.facts import LIMIT_S, Facts
from pylvs.doctor.finding import HERE, Finding, Severity
from pylvs.model.addresses import Address
from pylvs.model.errors import NotPermitted, counted
from pylvs.system.logs import one_line

EXIT_FOUND = 1
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def _parse_vips(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> tuple[Address, ...]:
    """Parse the virtual addresses. Raises click.UsageError."""
    found = []
    for word in words:
        try:
            found.append(ip_address(word))
        except ValueError:
            raise click.UsageError(f"{one_line(word)!r} is not an IP address; write 192.0.2.1") from None
    return tuple(found)


@click.command()
@click.argument("vips", nargs=-1, metavar="[VIP]...", callback=_parse_vips)
@click.option("--lab", metavar="NAME", default="", help="Examine a lab from outside: all its hosts at once.")
@click.option(
    "--limit",
    type=click.FloatRange(1, 600),
    default=LIMIT_S,
    show_default=True,
    metavar="SECONDS",
    help="End within this time; raise it on a very busy machine.",
)
@as_json
@state_dir
def doctor(vips: tuple[Address, ...], lab: str, limit: float, as_json: bool, state_dir: Path | None) -> Any:
    """Find out why clients get no answer, and what mends it. Probes, but changes nothing.

    Run it on a director, or on a real server. With VIPs, only their services are examined. With --lab, it runs in
    each host of a lab, and the findings have the names of hosts.
    """
    if os.geteuid():
        raise NotPermitted("probes need raw sockets and the tables; run as root")
    found = _of_lab(lab, vips, limit) if lab else examine(Facts(vips, state_dir, limit_s=limit))
    if as_json:
        click.echo(json.dumps({"findings": [each.as_json() for each in found]}, indent=2, ensure_ascii=False))
    else:
        for line in report(found, paint):
            click.echo(line)
    raise click.exceptions.Exit(EXIT_FOUND if found else 0)


def _of_lab(name: str, vips: tuple[Address, ...], limit_s: float) -> list[Finding]:
    from pylvs.doctor.lab import examine_lab  # late: only --lab needs it
    from pylvs.lab.hosts import checked_name
    from pylvs.lab.lab import open_lab

    return examine_lab(open_lab(checked_name(name)), vips, limit_s)


def report(findings: list[Finding], painted: Paint) -> Iterator[str]:
    """Yield the lines for a terminal."""
    for finding in findings:
        yield f"{painted(finding.severity.name.lower(), _COLOURS[finding.severity])}: {one_line(finding.title)}"
        yield f"  seen: {one_line(finding.evidence)}"
        yield f"  why:  {one_line(finding.why)}"
        yield f"  fix:  {one_line(finding.fix)}"
        if finding.fix_command is not None:
            where = "" if finding.fix_host in (None, HERE) else f"   # on {one_line(str(finding.fix_host))}"
            yield f"        {one_line(finding.fix_command)}{where}"
        yield f"  page: {finding.page}"
        yield ""
    yield counted(len(findings), "finding") if findings else "nothing found"
