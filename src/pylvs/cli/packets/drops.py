"""`pylvs drops`: what became of each packet that attached devices received, and why."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from pylvs.cli.common import as_json
from pylvs.dataplane.ends import report
from pylvs.model.errors import NotPermitted
from pylvs.model.rows import NOTE, VERDICTS
from pylvs.system import unix_http

_TOP = "\x1b[H\x1b[2J"  # clear the terminal
_PAUSE_S = 1.0
_NUMBERS = ("received", *VERDICTS, "difference")  # of a device
_SERVICES = 5  # of a reason, those with the most packets


@click.command()
@click.option("--watch", is_flag=True, help="again every second, with rates, until interrupted")
@as_json
def drops(watch: bool, as_json: bool) -> None:
    """Show what became of each packet that attached devices received: forwarded, passed, dropped or held, and why."""
    before: dict[str, Any] | None = None
    then = now = time.monotonic()
    while True:
        found = _report()
        if as_json:
            click.echo(json.dumps(found, indent=None if watch else 2))
        else:
            page = "\n".join(_page(found, before, now - then))
            click.echo(_TOP + page if watch and sys.stdout.isatty() else page)
        if not watch:
            return
        before, then = found, now
        time.sleep(_PAUSE_S)
        now = time.monotonic()


def _report() -> dict[str, Any]:
    """Return the counts; as a member of the daemon's group, what the daemon replies."""
    try:
        return report()
    except NotPermitted:
        found: dict[str, Any] = unix_http.read("/v1/drops")
        return found


def _page(found: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float) -> Iterator[str]:
    """Yield the lines of both tables; with `before` the second one has rates."""
    if not found["tables"]:
        yield "no tables in this network namespace: ipvsadm -A makes them"
        return
    yield from _columns([("device", *_NUMBERS), *map(_of_device, found["devices"])])
    former = {reason["reason"]: reason["count"] for reason in before["reasons"]} if before else {}
    width = max(len(reason["reason"]) for reason in found["reasons"])
    for verdict in (*VERDICTS, NOTE):
        counted = [reason for reason in found["reasons"] if reason["verdict"] == verdict and reason["count"]]
        if not counted:
            continue
        yield ""
        yield "notes" if verdict == NOTE else verdict
        for reason in sorted(counted, key=lambda reason: -int(reason["count"])):
            rate = (reason["count"] - former.get(reason["reason"], 0)) / seconds if before and seconds else 0.0
            rated = f"{rate:>11,.0f}/s" if before else ""
            yield f"{reason['count']:>12}{rated}  {reason['reason']:<{width}}  {reason['sentence']}"
            yield from _of_services(reason["services"], " " * (len(rated) + 14 + width + 2))


def _of_services(services: Sequence[Mapping[str, Any]], indent: str) -> Iterator[str]:
    """Yield the services with the most packets, a line each."""
    for service in services[:_SERVICES]:
        yield f"{indent}{service['service']}: {service['count']}"
    if len(services) > _SERVICES:
        others = services[_SERVICES:]
        yield f"{indent}{len(others)} more: {sum(service['count'] for service in others)}"


def _of_device(device: Mapping[str, Any]) -> tuple[str, ...]:
    return (device["device"], *("not known" if device[name] is None else str(device[name]) for name in _NUMBERS))


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows as text: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((first.ljust(widths[0]), *cells))
