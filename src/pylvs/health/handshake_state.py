"""What the handshakes of clients mean for the servers of a service: their names in problems, and with handshake_share
their state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pylvs.health.events import (
    Event,
    HandshakesLow,
    HandshakesLowEnded,
    ServiceHandshakesLow,
    ServiceHandshakesLowEnded,
)
from pylvs.health.handshakes import FAILED_SHARE, NONE, Shaken, has_recovered, verdicts
from pylvs.health.state import ServerState, ServiceState
from pylvs.model.rows import Handshakes
from pylvs.model.service import DestinationKey

Judged = Shaken[DestinationKey]
LONGEST = 10  # times handshake_retry: a server that fails again and again is down so long


def judge(service: ServiceState, found: Judged, at: float, now: float) -> Iterator[Event]:
    """Judge by what clients did, and yield events. `at` is the wall clock, `now` the scheduler's time.

    Only servers that get new connections are compared.
    """
    minute, recent = (_serving(service, each) for each in (found.minute, found.recent))
    by_minute, by_recent = verdicts(minute), verdicts(recent)
    for key, server in service.servers.items():
        before, text = server.handshakes_low, by_minute.low.get(key) or by_recent.low.get(key) or ""
        if before and not text and key in minute and not has_recovered(key, recent):
            text = before  # too few clients came to show anything else
        server.handshakes_low = text
        if text and not before:
            yield server.event(HandshakesLow, text, at)
        elif before and not text:
            reason = f"completes {recent[key]}" if key in minute else "it gets no new connections"
            yield server.event(HandshakesLowEnded, reason, at)
    yield from _judge_whole(service, minute, by_minute.all_fail or by_recent.all_fail, at)
    yield from _take_out(service, (minute, recent), at, now)


def _serving(service: ServiceState, found: Mapping[DestinationKey, Handshakes]) -> Mapping[DestinationKey, Handshakes]:
    """Return those of servers that get new connections, and had handshakes."""
    return {
        key: handshakes
        for key, handshakes in found.items()
        if (server := service.servers.get(key)) is not None
        and handshakes.begun
        and server.up
        and server.weight()
        and not service.sorry
    }


def _judge_whole(
    service: ServiceState, minute: Mapping[DestinationKey, Handshakes], text: str, at: float
) -> Iterator[Event]:
    if any(server.handshakes_low for server in service.servers.values()):
        text = ""  # not all fail
    before, service.handshakes_low = service.handshakes_low, text
    if text and not before:
        yield ServiceHandshakesLow(at=at, service=service.wanted.name, reason=text)
    elif before and not text:
        reason = f"completes {sum(minute.values(), NONE)}" if minute else "it gets no new connections"
        yield ServiceHandshakesLowEnded(at=at, service=service.wanted.name, reason=reason)


def _take_out(
    service: ServiceState, windows: Iterable[Mapping[DestinationKey, Handshakes]], at: float, now: float
) -> Iterator[Event]:
    """Let servers that fail count as down, by handshake_share, the worst first; the quorum must be left."""
    wanted = service.wanted
    if not wanted.handshake_share:
        return
    low: dict[DestinationKey, tuple[float, str]] = {}  # share and text
    for serving in windows:
        found = verdicts(serving, wanted.handshake_share / 100, wanted.handshake_minimum).low
        low |= {key: (serving[key].share, text) for key, text in found.items()}
    for key, (_, text) in sorted(low.items(), key=lambda item: item[1][0]):
        server = service.servers[key]
        left = service.weight_up - server.counted_weight
        if left <= 0 or left < wanted.quorum:
            continue
        again = server.out_s and now - server.tried_at <= LONGEST * wanted.handshake_retry_s
        longest = LONGEST * wanted.handshake_retry_s
        server.out_s = min(2 * server.out_s, longest) if again else wanted.handshake_retry_s
        server.out_until = now + server.out_s
        service.out.add(key)
        yield from server.update(f"handshake_share: {text}", at)
        service.count((server,))


def may_fail(service: ServiceState, handshakes: Handshakes) -> bool:
    """Return whether a server that did so may have to be judged: this is quick."""
    return handshakes.share < max(FAILED_SHARE, service.wanted.handshake_share / 100)


def note_out(service: ServiceState) -> None:
    """Note which servers are out, after a reload that may have removed or renamed some."""
    service.out = {key for key, server in service.servers.items() if server.out_until is not None}


def is_judged(service: ServiceState) -> bool:
    """Return whether it must be judged even if no server fails: a server is named or out, or the service is named."""
    return bool(service.handshakes_low or service.out or any(each.handshakes_low for each in service.servers.values()))


def ended(service: ServiceState, now: float) -> list[ServerState]:
    """Return the servers whose time is up, or that handshake_share does not concern any more."""
    out = [service.servers[key] for key in service.out]
    return [server for server in out if now >= (server.out_until or 0) or not service.wanted.handshake_share]


def restore(service: ServiceState, server: ServerState, reason: str, at: float, now: float) -> Iterator[Event]:
    """Let a server count as up again, unless a check has failed."""
    server.out_until, server.tried_at = None, now
    service.out.discard(server.key)
    yield from server.update(f"handshake_share: {reason}", at)
    service.count((server,))
