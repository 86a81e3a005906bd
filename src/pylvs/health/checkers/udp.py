"""UDP_CHECK: no ICMP error answers a datagram; with `require_reply`, a datagram does."""

from __future__ import annotations

import os

from pylvs.health.checkers.deadline import Deadline
from pylvs.health.checkers.sockets import Endpoint, receive_datagram, send_datagram
from pylvs.health.probes import CheckContext, Outcome, Probe, quoted
from pylvs.model.checks import UdpCheck

_RANDOM_BYTES = 32
_DEFAULT_MAX_REPLY = 255  # max_reply_length


def probe(check: UdpCheck, context: CheckContext) -> Probe:
    """Return a probe that sends one datagram, and waits for a reply or an ICMP error."""
    endpoint = Endpoint(check.target)

    async def ask() -> Outcome:
        deadline = Deadline(check.pace.timeout_s)
        with endpoint.connected_datagram() as sock:
            send_datagram(sock, check.payload or os.urandom(_RANDOM_BYTES))
            return _outcome(check, await receive_datagram(sock, deadline), deadline)

    return ask


def _outcome(check: UdpCheck, data: bytes | None, deadline: Deadline) -> Outcome:
    """Return the outcome of an answer, None if there is none. Raises ProbeFailed."""
    if data is None and check.require_reply:
        raise deadline.expired("waiting for the answer")
    if data is None:
        return Outcome(True, f"no ICMP error within {deadline.seconds:g} s")
    if not check.require_reply:
        return Outcome(True, f"answered with {len(data)} bytes")
    # keepalived checks the length only if it compares the bytes, so without a pattern the default of 255 is no limit.
    limited = check.reply.value or check.max_reply_length != _DEFAULT_MAX_REPLY
    most = check.max_reply_length if limited else len(data)
    if not check.min_reply_length <= len(data) <= most:
        return Outcome(False, f"an answer of {len(data)} bytes, not {check.min_reply_length} to {most}")
    if not check.reply.matches(data):
        return Outcome(False, f"the answer begins {quoted(data)}, not {check.reply}")
    return Outcome(True, f"answered with {len(data)} bytes")
