"""A move of the table from or to the kernel's IPVS that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.dataplane.devices.move import unfinished
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity, here


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield a move that no process carries on."""
    if not facts.has_tables:
        return
    move = unfinished(facts.director.state)
    if move is None or move.process:
        return
    gives_up = move.serves == "ip_vs" and "--back" not in move.command
    yield here(
        id="move_unfinished",
        severity=Severity.WARNING,
        layer=Layer.HOST,
        title=f"{move.command} was interrupted, and {move.serves} serves",
        evidence="the pins of a gate before the packet path, which no process has locked",
        why="Edits of the table are refused until it is complete, also those of checks: dead servers stay.",
        fix="Complete it." + (" Or give it up: pylvs adopt --abort." if gives_up else ""),
        command=move.command,
    )
