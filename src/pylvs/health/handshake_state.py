"""What the handshakes of clients mean for the servers of a service: their names in problems, and with handshake_share
their state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pylvs.health.events import (
    Event,
    HandshakesLow,
    HandshakesLowEnded,
    ServiceHandshakesLow,
    ServiceHandshakesLowEnded,
)
from pylvs.health.handshakes import NONE, verdicts
from pylvs.health.state import ServerState, ServiceState
from pylvs.model.rows import Handshakes
from pylvs.model.service import DestinationKey

LONGEST = 10  # times handshake_retry: a server that fails again and again is down so long


def judge(service: ServiceState, found: Mapping[DestinationKey, Handshakes], at: float, now: float) -> Iterator[Event]:
    """Note the handshakes of the last minute, and yield events. `at` is the wall clock, `now` the scheduler's time.

    Only servers that get new connections are compared.
    """
    for key, server in service.servers.items():
        server.handshakes = found.get(key, NONE)
    serving = {
        key: server.handshakes
        for key, server in service.servers.items()
        if server.handshakes.begun and server.up and server.weight() and not service.sorry
    }
    verdict = verdicts(serving)
    for key, server in service.servers.items():
        before, server.handshakes_low = server.handshakes_low, verdict.low.get(key, "")
        if server.handshakes_low and not before:
            yield server.event(HandshakesLow, server.handshakes_low, at)
        elif before and not server.handshakes_low:
            reason = f"completes {serving[key]}" if key in serving else "it gets no new connections"
            yield server.event(HandshakesLowEnded, reason, at)
    failed, service.handshakes_low = service.handshakes_low, verdict.all_fail
    if verdict.all_fail and not failed:
        yield ServiceHandshakesLow(at=at, service=service.wanted.name, reason=verdict.all_fail)
    elif failed and not verdict.all_fail:
        reason = f"completes {sum(serving.values(), NONE)}" if serving else "no new connections"
        yield ServiceHandshakesLowEnded(at=at, service=service.wanted.name, reason=reason)
    yield from _take_out(service, serving, at, now)


def _take_out(
    service: ServiceState, serving: Mapping[DestinationKey, Handshakes], at: float, now: float
) -> Iterator[Event]:
    """Let servers that fail count as down, by handshake_share, the worst first; the quorum must be left."""
    wanted = service.wanted
    if not wanted.handshake_share:
        return
    low = verdicts(serving, wanted.handshake_share / 100, wanted.handshake_minimum).low
    for key in sorted(low, key=lambda key: serving[key].share):
        server = service.servers[key]
        left = service.weight_up - server.counted_weight
        if left <= 0 or left < wanted.quorum:
            continue
        again = server.out_s and now - server.tried_at <= LONGEST * wanted.handshake_retry_s
        longest = LONGEST * wanted.handshake_retry_s
        server.out_s = min(2 * server.out_s, longest) if again else wanted.handshake_retry_s
        server.out_until = now + server.out_s
        service.out.add(key)
        yield from server.update(f"handshake_share: {low[key]}", at)
        service.count((server,))


def ended(service: ServiceState, now: float) -> list[ServerState]:
    """Return the servers whose time is up, or that handshake_share does not concern any more."""
    found = [service.servers[key] for key in service.out if key in service.servers]
    service.out &= service.servers.keys()
    return [
        server
        for server in found
        if server.out_until is None or now >= server.out_until or not service.wanted.handshake_share
    ]


def restore(service: ServiceState, server: ServerState, reason: str, at: float, now: float) -> Iterator[Event]:
    """Let a server count as up again, unless a check has failed."""
    server.out_until, server.tried_at = None, now
    server.handshakes = NONE
    service.out.discard(server.key)
    yield from server.update(f"handshake_share: {reason}", at)
    service.count((server,))
