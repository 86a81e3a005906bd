"""TCP_CHECK: a connection can be made, and is closed again."""

from __future__ import annotations

from pylvs.health.checkers.context import Context
from pylvs.health.checkers.failures import CheckFailed
from pylvs.health.checkers.sockets import Endpoint, Limit
from pylvs.health.outcome import Outcome, Probe
from pylvs.model.checks import TcpCheck

_CONNECTED = Outcome(True, "connected")


def probe(check: TcpCheck, context: Context) -> Probe:
    """Connects."""
    endpoint, timeout_s = Endpoint(check.target), check.pace.timeout_s

    async def ask() -> Outcome:
        try:
            (await endpoint.connected(Limit(timeout_s))).close()
        except CheckFailed as error:
            return error.outcome()
        return _CONNECTED

    return ask
