"""A real server's tunnels: whether packets are decapsulated, and those of which directors."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.probes.real_server.facts import RealServer, real_server
from pylvs.realserver import decapsulation
from pylvs.realserver.decapsulation import Counts


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with decapsulation."""
    server = real_server(facts)
    if server is None or not server.memory.tunnels:
        return
    gone = [text for good, text in decapsulation.status(server.memory) if not good]
    yield from (_gone(server, text) for text in gone)
    counted = [counts for _, counts in decapsulation.program_counts(server.memory) if counts is not None]
    if counted:
        yield from _counted(server, Counts(*map(sum, zip(*counted, strict=True))))


def _about(server: RealServer) -> frozenset[str]:
    return frozenset(map(str, server.vips))


def _gone(server: RealServer, text: str) -> Finding:
    vips = " ".join(map(str, server.vips))
    return Finding(
        id="server_not_decapsulating",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title="nothing decapsulates the director's packets",
        evidence=f"{text}; pylvs realserver has set up {', '.join(server.memory.tunnels)}",
        why="The kernel drops tunnelled packets that nothing decapsulates.",
        fix="Set decapsulation up again.",
        fix_command=f"pylvs realserver up {vips}",
        fix_host=HERE,
        about=_about(server),
    )


def _counted(server: RealServer, counts: Counts) -> Iterator[Finding]:
    if counts.foreign:
        accepted = ", ".join(server.memory.directors)
        yield Finding(
            id="server_tunnel_source",
            severity=Severity.WARNING if counts.unwrapped else Severity.ERROR,
            layer=Layer.SERVER,
            title="tunnelled packets come from an address that is not accepted as a director",
            evidence=f"{counts.foreign} were dropped, {counts.unwrapped} decapsulated; accepted is {accepted}",
            why="pylvs realserver up --director drops the tunnels of all other hosts.",
            fix="Add the director's address: pylvs realserver up VIP --director ADDRESS.",
            about=_about(server),
        )
    if counts.corrupt and counts.corrupt > counts.unwrapped:
        yield Finding(
            id="server_tunnel_checksum",
            severity=Severity.ERROR,
            layer=Layer.SERVER,
            title="tunnelled packets come with wrong checksums",
            evidence=f"{counts.corrupt} were dropped, {counts.unwrapped} decapsulated",
            why="The checksum of the GRE or GUE header, or of its UDP datagram, does not match.",
            fix="Find the device that changes them: switch off its checksum offload on the director.",
            about=_about(server),
        )
