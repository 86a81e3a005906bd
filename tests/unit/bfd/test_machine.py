"""The state machine of a BFD session: RFC 5880 sections 6.2 to 6.8, in injected time."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.bfd.machine import Action, Become, Machine, Send, Step, explain
from pylvs.bfd.packet import Diagnostic, Packet, State
from pylvs.model.bfd import BfdSession
from pylvs.model.dataclass import replace

NOW = 1000.0
MINE, THEIRS = 7, 9
SESSION = BfdSession(name="b", neighbor=ip_address("10.0.0.2"))


def session(**more: Any) -> BfdSession:
    return replace(SESSION, **more)


def packet(state: State, **more: Any) -> Packet:
    given: dict[str, Any] = {"multiplier": 3, "mine": THEIRS, "yours": MINE, "min_tx_us": 20_000, "min_rx_us": 30_000}
    return Packet(state=state, **(given | more))


def begun(**more: Any) -> Machine:
    return Machine.begin(session(**more), MINE, NOW)


def up(**more: Any) -> Machine:
    """A session that is up since NOW, after its poll sequence."""
    machine, _ = begun(**more).receive(NOW, packet(State.INIT), 0.0)
    machine, _ = machine.receive(NOW, packet(State.UP, final=True), 0.0)
    assert machine.state is State.UP
    assert not machine.polling
    return machine


def sent(actions: tuple[Action, ...]) -> list[Packet]:
    return [each.packet for each in actions if isinstance(each, Send)]


def became(actions: tuple[Action, ...]) -> list[Become]:
    return [each for each in actions if isinstance(each, Become)]


def wake_until(machine: Machine, end: float) -> tuple[Machine, list[tuple[float, Packet]]]:
    """Wake whenever it is due; return the packets with their times."""
    packets = []
    while machine.due is not None and machine.due < end:
        at = machine.due
        machine, actions = machine.wake(at, 0.0)
        packets += [(at, each) for each in sent(actions)]
    return machine, packets


# --- section 6.2 and the end of 6.8.6: every present state by every received one ---


@pytest.mark.parametrize(
    ("state", "remote", "expected"),
    [
        (State.ADMIN_DOWN, State.ADMIN_DOWN, State.ADMIN_DOWN),
        (State.ADMIN_DOWN, State.DOWN, State.ADMIN_DOWN),
        (State.ADMIN_DOWN, State.INIT, State.ADMIN_DOWN),
        (State.ADMIN_DOWN, State.UP, State.ADMIN_DOWN),
        (State.DOWN, State.ADMIN_DOWN, State.DOWN),
        (State.DOWN, State.DOWN, State.INIT),
        (State.DOWN, State.INIT, State.UP),
        (State.DOWN, State.UP, State.DOWN),
        (State.INIT, State.ADMIN_DOWN, State.DOWN),
        (State.INIT, State.DOWN, State.INIT),
        (State.INIT, State.INIT, State.UP),
        (State.INIT, State.UP, State.UP),
        (State.UP, State.ADMIN_DOWN, State.DOWN),
        (State.UP, State.DOWN, State.DOWN),
        (State.UP, State.INIT, State.UP),
        (State.UP, State.UP, State.UP),
    ],
)
def test_a_packet_leads_to_the_state_of_the_table(state: State, remote: State, expected: State) -> None:
    before = replace(begun(), state=state)
    machine, actions = before.receive(NOW, packet(remote), 0.0)
    assert machine.state is expected
    changes = became(actions)
    assert [(each.before, each.state, each.remote) for each in changes] == (
        [] if expected is state else [(state, expected, remote)]
    )
    if expected is State.DOWN and expected is not state:
        assert machine.diagnostic == Diagnostic.NEIGHBOR_DOWN
    if expected is not state:
        assert [each.state for each in sent(actions)] == [expected]  # section 6.8.7: at once


@pytest.mark.parametrize("state", [State.INIT, State.UP])
def test_the_detection_time_ends_a_session(state: State) -> None:
    machine = replace(begun(), state=state)
    machine, _ = machine.receive(NOW, packet(State.UP if state is State.UP else State.DOWN), 0.0)
    assert machine.state is state
    assert machine.expires_at == pytest.approx(NOW + 3 * 0.020)
    machine, actions = machine.wake(NOW + 0.0601, 0.0)
    assert machine.state is State.DOWN
    assert machine.diagnostic == Diagnostic.EXPIRED
    assert machine.yours == 0  # section 6.8.1
    assert [(each.before, each.diagnostic) for each in became(actions)] == [(state, Diagnostic.EXPIRED)]
    assert sent(actions)[0].state is State.DOWN


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_a_session_that_is_down_forgets_a_silent_neighbor(state: State) -> None:
    machine, _ = replace(begun(), state=state).receive(NOW, packet(State.UP), 0.0)
    assert machine.yours == THEIRS
    machine, actions = machine.wake(NOW + 10, 0.0)
    assert (machine.state, machine.yours, became(actions)) == (state, 0, [])


def test_two_machines_come_up_by_a_three_way_handshake() -> None:
    a, b = begun(), Machine.begin(SESSION, THEIRS, NOW)
    a, first = a.wake(NOW, 0.0)
    b, second = b.receive(NOW, sent(first)[0], 0.0)
    assert b.state is State.INIT
    a, third = a.receive(NOW, sent(second)[0], 0.0)
    assert a.state is State.UP
    b, _ = b.receive(NOW, sent(third)[0], 0.0)
    assert b.state is State.UP


# --- intervals ---


def test_a_session_that_is_not_up_sends_at_most_once_a_second() -> None:
    machine, packets = wake_until(begun(), NOW + 5.5)
    assert [at - NOW for at, _ in packets] == [0, 1, 2, 3, 4, 5]
    assert {each.min_tx_us for _, each in packets} == {1_000_000}
    assert machine.state is State.DOWN


def test_the_interval_is_the_longer_of_both_sides() -> None:
    machine = up()
    assert machine.interval_us == 30_000  # the neighbor's min_rx; the own min_tx is shorter
    machine, _ = machine.receive(NOW, packet(State.UP, min_rx_us=1), 0.0)
    assert machine.interval_us == 10_000


def test_the_detection_time_is_by_the_neighbors_multiplier() -> None:
    machine = up(min_rx_us=40_000, multiplier=7)
    assert machine.detection_us == 3 * 40_000
    machine, _ = machine.receive(NOW, packet(State.UP, multiplier=2, min_tx_us=50_000), 0.0)
    assert machine.detection_us == 2 * 50_000


def test_each_packet_postpones_the_end() -> None:
    machine = up()
    machine, _ = machine.receive(NOW + 0.05, packet(State.UP), 0.0)
    assert machine.expires_at == pytest.approx(NOW + 0.05 + 0.06)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_the_jitter_shortens_by_up_to_a_quarter(chance: float, multiplier: int) -> None:
    machine, _ = up(multiplier=multiplier).wake(NOW + 0.03, chance)
    assert machine.transmit_at is not None
    ratio = (machine.transmit_at - (NOW + 0.03)) / 0.030
    assert 0.75 - 1e-6 <= ratio <= (0.9 if multiplier == 1 else 1.0) + 1e-6


def test_a_shorter_interval_of_the_neighbor_counts_at_once() -> None:
    machine = replace(up(), sent_at=NOW, transmit_at=NOW + 0.03)
    machine, _ = machine.receive(NOW + 0.015, packet(State.UP, min_rx_us=1), 0.0)
    assert machine.transmit_at == NOW + 0.015


def test_a_neighbor_that_wants_no_packets_gets_none() -> None:
    machine, _ = up().receive(NOW, packet(State.UP, min_rx_us=0), 0.0)
    assert machine.transmit_at is None
    machine, actions = machine.receive(NOW, packet(State.UP, min_rx_us=0, poll=True), 0.0)
    assert [each.final for each in sent(actions)] == [True]


def test_a_neighbor_in_demand_mode_gets_no_periodic_packets_while_both_are_up() -> None:
    machine, _ = up().receive(NOW, packet(State.UP, demand=True), 0.0)
    assert machine.transmit_at is None
    machine, _ = machine.receive(NOW, packet(State.UP), 0.0)
    assert machine.transmit_at is not None
    assert not any(each.demand for _, each in wake_until(machine, NOW + 0.05)[1])


def test_a_passive_session_waits_for_the_neighbor() -> None:
    machine = begun(passive=True)
    assert machine.due is None
    machine, actions = machine.receive(NOW, packet(State.DOWN, yours=0), 0.0)
    assert [each.state for each in sent(actions)] == [State.INIT]
    machine, _ = machine.receive(NOW, packet(State.UP), 0.0)
    machine, actions = machine.wake(NOW + 10, 0.0)
    assert machine.state is State.DOWN
    assert sent(actions) == []
    assert machine.due is None


# --- poll sequences ---


def test_a_session_that_comes_up_agrees_on_its_interval_by_a_poll() -> None:
    machine, actions = begun().receive(NOW, packet(State.INIT), 0.0)
    assert machine.polling
    assert [each.poll for each in sent(actions)] == [False]  # only periodic packets poll
    assert sent(actions)[0].min_tx_us == 10_000
    machine, packets = wake_until(machine, NOW + 0.05)
    assert [each.poll for _, each in packets] == [True]
    machine, _ = machine.receive(NOW + 0.05, packet(State.UP, final=True), 0.0)
    assert not machine.polling


def test_a_poll_is_answered_at_once_and_without_a_poll() -> None:
    machine, _ = begun().receive(NOW, packet(State.INIT), 0.0)
    machine, actions = machine.receive(NOW, packet(State.UP, poll=True), 0.0)
    assert [(each.poll, each.final) for each in sent(actions)] == [(False, True)]
    assert machine.polling


@pytest.mark.parametrize("state", list(State))
def test_a_poll_is_answered_in_every_state(state: State) -> None:
    _, actions = replace(begun(), state=state).receive(NOW, packet(State.UP, poll=True), 0.0)
    assert [each.final for each in sent(actions)] == [True]


def test_a_longer_interval_is_in_force_after_the_final_packet() -> None:
    machine, _ = up(min_tx_us=40_000).reconfigure(NOW, session(min_tx_us=90_000), 0.0)
    assert machine.polling
    assert machine.packet().min_tx_us == 90_000
    assert machine.interval_us == 40_000
    machine, _ = machine.receive(NOW, packet(State.UP, final=True), 0.0)
    assert (machine.polling, machine.interval_us) == (False, 90_000)


def test_a_shorter_interval_is_in_force_at_once() -> None:
    machine, _ = up(min_tx_us=90_000).reconfigure(NOW, session(min_tx_us=40_000), 0.0)
    assert machine.polling
    assert machine.interval_us == 40_000


def test_a_shorter_interval_of_received_packets_counts_after_the_final_packet() -> None:
    machine, _ = up(min_rx_us=90_000).reconfigure(NOW, session(min_rx_us=40_000), 0.0)
    assert machine.packet().min_rx_us == 40_000
    assert machine.detection_us == 3 * 90_000
    machine, _ = machine.receive(NOW, packet(State.UP, final=True), 0.0)
    assert machine.detection_us == 3 * 40_000


def test_a_longer_interval_of_received_packets_counts_at_once() -> None:
    before = up(min_rx_us=40_000)
    machine, _ = before.reconfigure(NOW, session(min_rx_us=90_000), 0.0)
    assert machine.expires_at == pytest.approx(NOW + 3 * 0.090)


def test_a_change_during_a_poll_needs_another_one() -> None:
    machine, _ = up().reconfigure(NOW, session(min_tx_us=50_000), 0.0)
    machine, _ = machine.reconfigure(NOW, session(min_tx_us=80_000), 0.0)
    machine, _ = machine.receive(NOW, packet(State.UP, final=True), 0.0)
    assert machine.polling
    assert machine.interval_us == 30_000
    machine, _ = machine.receive(NOW, packet(State.UP, final=True), 0.0)
    assert (machine.polling, machine.interval_us) == (False, 80_000)


def test_a_reload_does_not_change_the_state() -> None:
    machine = up()
    other = session(multiplier=9, min_tx_us=1_000, min_rx_us=200_000, ttl=64)
    changed, actions = machine.reconfigure(NOW, other, 0.0)
    assert (changed.state, changed.mine, changed.yours) == (State.UP, MINE, THEIRS)
    assert became(actions) == []


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_leaving_sends_the_state_at_once(state: State) -> None:
    machine, actions = up().leave(NOW, state, Diagnostic.ADMIN_DOWN, 0.0)
    assert machine.state is state
    assert [(each.state, each.diagnostic) for each in sent(actions)] == [(state, Diagnostic.ADMIN_DOWN)]


# --- any events ---


@st.composite
def any_packets(draw: st.DrawFn) -> Packet:
    return packet(
        draw(st.sampled_from(State)),
        poll=draw(st.booleans()),
        final=draw(st.booleans()),
        demand=draw(st.booleans()),
        multiplier=draw(st.integers(1, 255)),
        min_tx_us=draw(st.sampled_from([0, 1, 10_000, 1_000_000, 0xFFFFFFFF])),
        min_rx_us=draw(st.sampled_from([0, 1, 10_000, 1_000_000, 0xFFFFFFFF])),
    )


EVENTS = st.one_of(
    any_packets(),
    st.just("wake"),
    st.builds(session, min_tx_us=st.sampled_from([1_000, 500_000]), min_rx_us=st.sampled_from([1_000, 500_000])),
)


@given(st.lists(st.tuples(st.floats(0, 2), EVENTS), max_size=40), st.booleans())
def test_any_events_keep_the_rules(events: list[tuple[float, Any]], passive: bool) -> None:
    machine, now = begun(passive=passive), NOW
    for pause, event in events:
        now += pause
        before = machine
        step: Step
        if isinstance(event, Packet):
            step = machine.receive(now, event, 0.5)
        elif isinstance(event, BfdSession):
            step = machine.reconfigure(now, replace(event, passive=passive), 0.5)
        else:
            step = machine.wake(now, 0.5)
        machine, actions = step
        for packet in sent(actions):
            assert packet.encoded()
            assert not (packet.poll and packet.final)
            assert packet.final == (isinstance(event, Packet) and event.poll)
            assert packet.state is State.UP or packet.min_tx_us >= 1_000_000
        assert [each.state for each in became(actions)] == (
            [machine.state] if machine.state is not before.state else []
        )
        assert machine.state is not State.UP or machine.expires_at is not None
        assert machine.transmit_at is None or machine.transmits
        if machine.polling:
            assert machine.state is State.UP


def test_a_state_is_explained() -> None:
    lost = Become(State.UP, State.DOWN, Diagnostic.NEIGHBOR_DOWN, State.ADMIN_DOWN)
    text = "Neighbor Signaled Session Down (AdminDown: Administratively Down)"
    assert explain(lost, Diagnostic.ADMIN_DOWN) == text
    assert explain(Become(State.UP, State.DOWN, Diagnostic.EXPIRED, State.UP), 0) == "Control Detection Time Expired"
    assert explain(Become(State.INIT, State.UP, Diagnostic.NONE, State.UP), 0) == "the neighbor is Up"
