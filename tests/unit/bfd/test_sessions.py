"""BFD sessions of two hosts in simulated time: results, reloads, losses, and what is logged."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.bfd.packet import Packet, State
from pylvs.bfd.sockets import Datagram
from pylvs.model.bfd import BfdSession
from tests.unit.bfd.fake_wire import Host, Wire

A, B = "10.0.0.1", "10.0.0.2"
DETECTION_S = 0.05  # 5 packets of 10 ms


def to(neighbor: str, **more: Any) -> BfdSession:
    return BfdSession(name=more.pop("name", "b"), neighbor=ip_address(neighbor), **more)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def hosts(wire: Wire) -> tuple[Host, Host]:
    """Return two hosts whose session has been up for a second."""
    a, b = wire.host(A), wire.host(B)
    a.sessions.configure([to(B)])
    b.sessions.configure([to(A)])
    wire.loop.pass_(1)
    assert (a.state(), b.state()) == ("Up", "Up")
    return a, b


def test_a_session_comes_up_and_stays(hosts: tuple[Host, Host], wire: Wire) -> None:
    for host in hosts:
        assert host.results == [("b", True)]
        (status,) = host.sessions.status()
        assert status["detection_ms"] == 50.0
        assert status["interval_ms"] == 10.0
        assert status["flaps"] == 0
        assert not status["polling"]
        assert [each["state"] for each in host.events] == ["Up"]


def test_a_dead_neighbor_is_found_within_the_detection_time(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, b = hosts
    b.kill()
    wire.loop.pass_(DETECTION_S + 0.001)
    assert a.results[-1] == ("b", False)
    (status,) = a.sessions.status()
    assert (status["state"], status["diagnostic"]) == ("Down", "Control Detection Time Expired")
    assert status["flaps"] == 1
    assert a.lines[-1] == "warning: bfd_instance b: Up to Down: Control Detection Time Expired"


def test_a_session_comes_up_again(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, _ = hosts
    wire.cut = True
    wire.loop.pass_(5)
    wire.cut = False
    wire.loop.pass_(5)
    assert [up for _, up in a.results] == [True, False, True]
    assert {about for about, line in zip(a.about, a.lines, strict=True) if "Up" in line} == {"bfd_instance b"}


def test_a_neighbor_that_never_answers_is_down_after_the_time_of_its_first_packets(wire: Wire) -> None:
    a = wire.host(A)
    a.sessions.configure([to(B)])
    assert a.sessions.result("b").up is None
    wire.loop.pass_(4.9)
    assert a.results == []
    wire.loop.pass_(0.2)
    assert a.results == [("b", False)]
    assert a.sessions.result("b").detail == "the neighbor does not answer"


def test_a_session_that_its_neighbor_disables_keeps_its_result(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, b = hosts
    b.sessions.configure([])
    wire.loop.pass_(60)
    assert a.results == [("b", True), ("b", True)]
    (status,) = a.sessions.status()
    assert (status["state"], status["held"], status["up"]) == ("Down", True, True)
    assert a.sessions.result("b").detail == "the neighbor has disabled the session; this is its last state"
    b.sessions.configure([to(A)])
    wire.loop.pass_(5)
    assert (a.state(), a.sessions.status()[0]["held"]) == ("Up", False)


def test_a_neighbor_that_enables_the_session_again_must_come_up(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, b = hosts
    b.sessions.configure([])
    wire.loop.pass_(1)
    down = Packet(state=State.DOWN, multiplier=3, mine=5, min_tx_us=1_000_000, min_rx_us=1_000_000)
    a.take(3784, Datagram(ip_address(B), ip_address(A), 255, down.encoded()))
    wire.loop.pass_(5.1)
    assert a.results[-1] == ("b", False)


def test_a_process_that_stops_informs_its_neighbors_at_once(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, b = hosts
    b.sessions.stop()
    wire.loop.pass_(0.001)
    assert a.results[-1] == ("b", False)
    text = "Neighbor Signaled Session Down (Down: Administratively Down)"
    assert a.sessions.result("b").detail == text
    wire.loop.pass_(60)
    assert not b.sessions


def test_a_reload_without_a_change_does_nothing(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, b = hosts
    before = a.sessions.status()[0]["discriminator"]
    a.sessions.configure([to(B), to("10.0.0.9", name="other")])
    wire.loop.pass_(1)
    assert a.sessions.status()[0]["discriminator"] == before
    assert (a.results, b.results) == ([("b", True)], [("b", True)])


def test_a_reload_changes_timers_without_a_flap(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, b = hosts
    a.sessions.configure([to(B, min_tx_us=100_000, min_rx_us=200_000, multiplier=3, ttl=200)])
    wire.loop.pass_(3)
    ours, theirs = a.sessions.status()[0], b.sessions.status()[0]
    assert (ours["interval_ms"], ours["detection_ms"]) == (100, 1000)
    assert (theirs["interval_ms"], theirs["detection_ms"]) == (200, 300)
    assert (a.results, b.results) == ([("b", True)], [("b", True)])


def test_another_neighbor_is_another_session(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, b = hosts
    c = wire.host("10.0.0.3")
    c.sessions.configure([to(A)])
    a.sessions.configure([to("10.0.0.3")])
    wire.loop.pass_(5)
    assert (a.state(), b.state(), c.state()) == ("Up", "Down", "Up")
    assert b.sessions.result("b").up  # it was disabled


def test_packets_from_too_far_away_are_dropped_and_logged_once(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, _ = hosts
    wire.hops = 1
    wire.loop.pass_(1)
    assert a.state() == "Down"
    assert a.sessions.status()[0]["counters"]["dropped"]["ttl too low"] > 5
    lines = [line for line in a.lines if "dropped" in line]
    text = "packets from 10.0.0.2 are dropped: ttl too low: 254, not 255 or more; see max_hops"
    assert lines == [f"warning: bfd_instance b: {text}"]


def test_max_hops_allows_a_path_of_several_hops(wire: Wire) -> None:
    a, b = wire.host(A), wire.host(B)
    wire.hops = 3
    a.sessions.configure([to(B, min_ttl=252, multihop=True)])
    b.sessions.configure([to(A, min_ttl=252, multihop=True)])
    wire.loop.pass_(5)
    assert (a.state(), b.state()) == ("Up", "Up")
    assert list(a.receivers) == [4784]


def test_an_authenticated_packet_is_dropped_with_advice(hosts: tuple[Host, Host], wire: Wire) -> None:
    a, _ = hosts
    (status,) = a.sessions.status()
    packet = Packet(
        state=State.DOWN, multiplier=3, mine=5, yours=status["discriminator"], min_tx_us=1_000_000, min_rx_us=1
    )
    data = bytearray(packet.encoded() + b"\x01\x04\x01x")
    data[1] |= 0x04
    data[3] = 28
    for _ in range(3):
        a.take(3784, Datagram(ip_address(B), ip_address(A), 255, bytes(data)))
    wire.loop.pass_(0.01)
    assert a.state() == "Up"
    assert a.sessions.status()[0]["counters"]["dropped"] == {"authenticated": 3}
    assert a.lines[-1].endswith("dropped: authenticated; pylvs has no authentication of BFD: remove it at the neighbor")


@pytest.mark.parametrize(
    ("source", "destination", "yours"),
    [(B, A, 12345), ("10.0.0.3", A, 0)],
)
def test_a_packet_of_no_session_changes_nothing(
    hosts: tuple[Host, Host], wire: Wire, source: str, destination: str, yours: int
) -> None:
    a, _ = hosts
    packet = Packet(state=State.DOWN, multiplier=3, mine=5, yours=yours, min_tx_us=1, min_rx_us=1)
    a.take(3784, Datagram(ip_address(source), ip_address(destination), 255, packet.encoded()))
    wire.loop.pass_(0.01)
    assert a.state() == "Up"


def test_the_source_address_selects_among_sessions_with_one_neighbor(wire: Wire) -> None:
    a = wire.host(A)
    other = "10.0.0.7"
    a.sessions.configure([to(B, source=ip_address(A)), to(B, source=ip_address(other), name="c")])
    packet = Packet(state=State.DOWN, multiplier=3, mine=5, min_tx_us=1_000_000, min_rx_us=1_000_000)
    a.take(3784, Datagram(ip_address(B), ip_address(other), 255, packet.encoded()))
    wire.loop.pass_(0.01)
    assert (a.state("b"), a.state("c")) == ("Down", "Init")


def test_packets_that_waited_while_this_process_was_stopped_count_before_the_session_expires(
    hosts: tuple[Host, Host], wire: Wire
) -> None:
    a, _ = hosts
    machine = a.sessions._by_name["b"].machine
    packet = Packet(
        state=State.UP, multiplier=5, mine=machine.yours, yours=machine.mine, min_tx_us=10_000, min_rx_us=10_000
    )
    wire.cut = True
    wire.loop.pass_(DETECTION_S / 2)
    wire.loop._now += 1  # the timer is late, and the packet unread
    a.take(3784, Datagram(ip_address(B), ip_address(A), 255, packet.encoded()))
    a.sessions._wake(a.sessions._by_name["b"])
    assert a.state() == "Up"


def test_a_port_that_another_program_has_is_reported_and_tried_again(wire: Wire) -> None:
    a, b = wire.host(A), wire.host(B)
    a.port_taken = True
    text = "BFD: UDP port 3784 of IPv4 cannot be opened: Address already in use"
    assert a.sessions.configure([to(B)]) == [text]
    b.sessions.configure([to(A)])
    wire.loop.pass_(3)
    assert a.sessions.status()[0]["error"] == text
    assert a.lines == [f"error: {text}"]
    a.port_taken = False
    wire.loop.pass_(5)
    assert a.state() == "Up"
    assert "info: BFD: UDP port 3784 of IPv4 is open now" in a.lines


def test_a_failure_to_send_is_logged_once_and_shown(wire: Wire) -> None:
    a = wire.host(A)
    a.unreachable = True
    a.sessions.configure([to(B)])
    wire.loop.pass_(3.4)
    assert a.lines == ["warning: bfd_instance b: nothing can be sent: Network is unreachable"]
    (status,) = a.sessions.status()
    assert status["counters"]["send_errors"] == 4
    a.unreachable = False
    wire.loop.pass_(1)
    assert a.sessions.status()[0]["error"] == ""


def test_a_session_without_settings_is_never_known(wire: Wire) -> None:
    assert wire.host(A).sessions.result("unknown").up is None
