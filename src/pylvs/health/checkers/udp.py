"""UDP_CHECK: no ICMP error comes back; with `require_reply`, an answer does."""

from __future__ import annotations

import os

from pylvs.health.checkers.registry import CheckContext
from pylvs.health.checkers.sockets import Deadline, Endpoint, receive_datagram, send_datagram
from pylvs.health.outcome import Outcome, Probe, ProbeFailed, quoted
from pylvs.model.checks import UdpCheck

_RANDOM_BYTES = 32
_USUAL_MOST = 255  # max_reply_length where nobody set it


def probe(check: UdpCheck, context: CheckContext) -> Probe:
    """Sends once, and hears until the answer, an error or the timeout."""
    endpoint = Endpoint(check.target)

    async def ask() -> Outcome:
        limit = Deadline(check.pace.timeout_s)
        try:
            with endpoint.correspondence() as sock:
                send_datagram(sock, check.payload or os.urandom(_RANDOM_BYTES))
                return _outcome(check, await receive_datagram(sock, limit, lambda data: True), limit)
        except ProbeFailed as error:
            return error.outcome()

    return ask


def _outcome(check: UdpCheck, data: bytes | None, limit: Deadline) -> Outcome:
    if data is None and check.require_reply:
        return limit.expired("waiting for the answer").outcome()
    if data is None:
        return Outcome(True, f"no ICMP error within {limit.seconds:g} s")
    if not check.require_reply:
        return Outcome(True, f"answered with {len(data)} bytes")
    # keepalived looks at lengths only where it compares the bytes, so its usual bound of 255 must not count before.
    most = check.max_reply_length if check.reply.value or check.max_reply_length != _USUAL_MOST else len(data)
    if not check.min_reply_length <= len(data) <= most:
        return Outcome(False, f"an answer of {len(data)} bytes, not {check.min_reply_length} to {most}")
    if not check.reply.matches(data):
        return Outcome(False, f"the answer begins {quoted(data)}, not {check.reply}")
    return Outcome(True, f"answered with {len(data)} bytes")
