"""A real server's devices: programs of other tools that take requests or replies, and queues that lose packets."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding
from pylvs.doctor.kernel.foreign_programs import at_tc, at_xdp, syn
from pylvs.doctor.probes.devices import foreign_finding, losses
from pylvs.doctor.probes.real_server.facts import listeners, real_server
from pylvs.netlink.socket_diag import TCP

_MOST_VIPS = 8
_WEB = 80


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield programs that do not let a request pass, and lossy queues."""
    server = real_server(facts)
    if server is None or server.guessed:
        return
    sockets = [each for each in listeners(facts) or () if each.protocol == TCP]
    for device in server.outward:
        yield from losses(device)
        for address in server.held()[:_MOST_VIPS]:
            port = next((each.port for each in sockets if each.accepts(address)), _WEB)
            frame = syn(device, address, port)
            for found in (*at_xdp(device, frame), *at_tc(device, frame, port, may_accept=not server.memory.tunnels)):
                yield foreign_finding(device, found, address)
