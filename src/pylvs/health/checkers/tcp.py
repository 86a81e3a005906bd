"""TCP_CHECK: a TCP connection to the server succeeds."""

from __future__ import annotations

from pylvs.health.checkers.deadline import Deadline
from pylvs.health.checkers.sockets import Endpoint
from pylvs.health.probes import CheckContext, Outcome, Probe
from pylvs.model.checks import TcpCheck

_CONNECTED = Outcome(True, "connected")


def probe(check: TcpCheck, context: CheckContext) -> Probe:
    endpoint, timeout_s = Endpoint(check.target), check.pace.timeout_s

    async def ask() -> Outcome:
        (await endpoint.connected(Deadline(timeout_s))).close()
        return _CONNECTED

    return ask
