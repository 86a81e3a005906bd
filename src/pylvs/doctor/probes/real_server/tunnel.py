"""A real server's tunnels: whether packets are decapsulated, and those of which directors."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.kernel.counters import counts
from pylvs.doctor.kernel.sniffer import Arrivals
from pylvs.doctor.probes.real_server.facts import RealServer, real_server
from pylvs.realserver import decapsulation
from pylvs.realserver.decapsulation import Counts


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what is wrong with decapsulation."""
    server = real_server(facts)
    if server is None or not server.memory.tunnels:
        return
    yield from _other_kind(facts, server)
    gone = [text for good, text in decapsulation.status(server.memory) if not good]
    yield from (_gone(server, text) for text in gone)
    counted = [each for _, each in decapsulation.program_counts(server.memory) if each is not None]
    if counted:
        yield from _counted(server, Counts(*map(sum, zip(*counted, strict=True))))


def _other_kind(facts: Facts, server: RealServer) -> Iterator[Finding]:
    """Yield that tunnels of another kind come in, if the kernel has counted packets that it could not deliver."""
    seen = counts(facts)
    if not any(seen.get(name, 0) for name in ("IpInUnknownProtos", "IcmpMsgOutType3", "Icmp6OutDestUnreachs")):
        return
    with Arrivals(server.outward) as arrivals:
        come = next(iter(arrivals.tunnels(server.held())), None)
    if come is None or come[0] in server.memory.tunnels:
        return
    kind, port = come[0].partition(":")[0], come[0].partition(":")[2]
    option = f" --tun-port {port}" if port else ""
    known = ", ".join(server.memory.tunnels)
    yield Finding(
        id="tunnel_kind_differs",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"the director {come[1]} sends tunnels of another kind, {come[0]}, than this real server decapsulates",
        evidence=f"a packet of {come[0]} to a virtual address came in now; set up is {known}",
        why="A real server decapsulates the kinds of tunnels that it is set up for, and drops others.",
        fix="Give both the same kind.",
        fix_command=f"pylvs realserver up {' '.join(map(str, server.vips))} --tun-type {kind}{option}",
        fix_host=HERE,
        about=_about(server),
    )


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


def _counted(server: RealServer, found: Counts) -> Iterator[Finding]:
    if found.foreign:
        accepted = ", ".join(server.memory.directors)
        yield Finding(
            id="server_tunnel_source",
            severity=Severity.WARNING if found.unwrapped else Severity.ERROR,
            layer=Layer.SERVER,
            title="tunnelled packets come from an address that is not accepted as a director",
            evidence=f"{found.foreign} were dropped, {found.unwrapped} decapsulated; accepted is {accepted}",
            why="pylvs realserver up --director drops the tunnels of all other hosts.",
            fix="Add the director's address: pylvs realserver up VIP --director ADDRESS.",
            about=_about(server),
        )
    if found.corrupt and found.corrupt > found.unwrapped:
        yield Finding(
            id="server_tunnel_checksum",
            severity=Severity.ERROR,
            layer=Layer.SERVER,
            title="tunnelled packets come with wrong checksums",
            evidence=f"{found.corrupt} were dropped, {found.unwrapped} decapsulated",
            why="The checksum of the GRE or GUE header, or of its UDP datagram, does not match.",
            fix="Find the device that changes them: switch off its checksum offload on the director.",
            about=_about(server),
        )
