"""A flood in the name of the neighbor ends no session, delays none, and costs a bounded number of reads."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface

import pytest

from pylvs.bfd.flood_guard import MOST, QUEUED, SLICE_S, FloodGuard, Known, session_filter
from pylvs.bfd.packet import Packet, State
from pylvs.bfd.sockets import Datagram
from pylvs.model.bfd import BfdSession
from tests import classic_bpf
from tests.unit.bfd.fake_wire import UDP_HEADER, Host, Wire

ENDS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}
A_SECOND, STEP_S, SECONDS = 20_000, 0.01, 2
generator = random.Random(5)


def packet(state: State, mine: int, yours: int = 0) -> bytes:
    return Packet(state=state, multiplier=3, mine=mine, yours=yours, min_tx_us=10**5, min_rx_us=10**5).encoded()


def number() -> int:
    return generator.randrange(1, 1 << 32)


KINDS: dict[str, Callable[[], bytes]] = {
    "garbage": lambda: generator.randbytes(24),
    "of other lengths": lambda: generator.randbytes(generator.randrange(48)),
    "an unknown discriminator": lambda: packet(State.UP, number(), number()),
    "a forged end": lambda: packet(State.DOWN, number()),
    "a forged end by the operator": lambda: packet(State.ADMIN_DOWN, number()),
}


def flooded(wire: Wire, target: Host, neighbor: str, kinds: list[str], seconds: float) -> Iterator[float]:
    """Let time pass in a flood in the name of the neighbor; yield after each step."""
    datagrams = [
        Datagram(ip_address(neighbor), target.address, 255, KINDS[kinds[each % len(kinds)]]()) for each in range(500)
    ]
    sent = 0
    for step in range(round(seconds / STEP_S)):
        for _ in range(round(A_SECOND * STEP_S)):
            target.take(3784, datagrams[sent % len(datagrams)])
            sent += 1
        wire.loop.pass_(STEP_S)
        yield step * STEP_S


@pytest.mark.parametrize(("kind", "family"), [*((kind, 4) for kind in KINDS), ("all", 6)])
def test_a_flood_ends_no_session(kind: str, family: int) -> None:
    wire, (here, there) = Wire(), ENDS[family]
    a, b = wire.host(here), wire.host(there)
    a.sessions.configure([BfdSession(name="b", neighbor=ip_address(there))])
    b.sessions.configure([BfdSession(name="b", neighbor=ip_address(here))])
    wire.loop.pass_(1)
    before = a.receivers[3784].read
    for _ in flooded(wire, a, there, [*KINDS] if kind == "all" else [kind], SECONDS):
        assert (a.state(), b.state()) == ("Up", "Up")
    assert (a.results, a.sessions.status()[0]["flaps"]) == ([("b", True)], 0)
    own = 1.4 * SECONDS / STEP_S  # packets of the neighbor: intervals are shortened by a quarter
    assert a.receivers[3784].read - before < own + (SECONDS / SLICE_S + 1) * 2 * (MOST + A_SECOND * STEP_S)
    assert len(a.lines) < 10


@pytest.mark.parametrize("kind", ["garbage", "an unknown discriminator"])
def test_a_session_comes_up_in_a_flood_of_packets_of_no_session(kind: str) -> None:
    wire, (here, there) = Wire(), ENDS[4]
    a, b = wire.host(here), wire.host(there)
    a.sessions.configure([BfdSession(name="b", neighbor=ip_address(there))])
    for at in flooded(wire, a, there, [kind], 4):
        if round(at, 2) == 1.5:
            b.sessions.configure([BfdSession(name="b", neighbor=ip_address(here))])
    assert (a.state(), b.state()) == ("Up", "Up")


def test_a_neighbor_that_detects_the_loss_of_our_packets_ends_the_session_at_once() -> None:
    """It has forgotten our discriminator, but still has its own."""
    wire, (here, there) = Wire(), ENDS[4]
    a, b = wire.host(here), wire.host(there)
    a.sessions.configure([BfdSession(name="b", neighbor=ip_address(there), multiplier=200)])
    b.sessions.configure([BfdSession(name="b", neighbor=ip_address(here), multiplier=200)])
    wire.loop.pass_(1)
    theirs = b.sessions.status()[0]["discriminator"]
    a.take(3784, Datagram(ip_address(there), a.address, 255, packet(State.DOWN, theirs ^ 1)))
    wire.loop.pass_(STEP_S)
    assert a.state() == "Up"
    assert "no discriminator of ours" in a.lines[-1]
    b.kill()
    a.take(3784, Datagram(ip_address(there), a.address, 255, packet(State.DOWN, theirs)))
    wire.loop.pass_(STEP_S)
    assert a.state() != "Up"


@pytest.mark.parametrize("family", [4, 6])
def test_the_filter_takes_packets_of_the_sessions(family: int) -> None:
    addresses = [ip_interface(f"{ENDS[family][0]}/24").network[each] for each in range(5)]
    sessions = [Known(addresses[1], 11), Known(addresses[2], 12, 92)]
    header = bytes(12 if family == 4 else 8)

    def passes(source: int, payload: bytes, beginning: bool = True) -> bool:
        ends = addresses[source].packed + addresses[0].packed
        program = session_filter(sessions, beginning)
        classic_bpf.check(program)
        return classic_bpf.run(program, UDP_HEADER + payload, header + ends) > 0

    assert passes(1, packet(State.UP, 5, 11), beginning=False)
    assert not passes(1, packet(State.UP, 5, 13))
    assert [passes(each, packet(State.DOWN, 5)) for each in range(5)] == [False, True, False, False, False]
    assert passes(2, packet(State.DOWN, 92))
    assert not passes(1, packet(State.DOWN, 5), beginning=False)
    assert not passes(1, packet(State.INIT, 5))
    right = packet(State.UP, 5, 11)
    for at, wrong in ((0, 0x40), (1, 0xC4), (1, 0xC1), (2, 0), (3, 23)):
        assert not passes(1, right[:at] + bytes([wrong]) + right[at + 1 :]), (at, wrong)
    assert not passes(1, right[:-1])
    assert not passes(1, right[:4] + bytes(4) + right[8:])


def test_the_filter_of_too_many_sessions_takes_more() -> None:
    many = [Known(ip_address(ENDS[4][1]), each) for each in range(1, 5000)]
    for count in (500, 1500, 5000):
        classic_bpf.check(session_filter(many[:count], beginning=True))
    assert classic_bpf.run(session_filter(many, beginning=True), UDP_HEADER + packet(State.UP, 5, 9999))


def test_the_guard_has_a_budget_for_each_level_and_does_not_count_the_queue() -> None:
    guard = FloodGuard()
    changes = [number for number in range(1, 10_000) if guard.count(7.0)]
    assert changes == [MOST, MOST + QUEUED + MOST]
    assert (guard.level, guard.due) == (2, 7.0 + SLICE_S)
    guard.wake(7.0 + SLICE_S / 2)
    assert guard.level == 2
    guard.wake(7.0 + SLICE_S)
    assert guard.level == 0
    guard.sessions = MOST
    assert not any(guard.count(9.0) for _ in range(2 * MOST)), "one a second of each, and more"


def test_an_empty_queue_counts_again() -> None:
    guard = FloodGuard()
    assert any(guard.count(7.0) for _ in range(MOST))
    guard.emptied()
    assert any(guard.count(7.0) for _ in range(MOST))
