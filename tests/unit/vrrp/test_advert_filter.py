"""Which advertisements the kernel passes: the filter on a socket, and when it is restricted."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pylvs.system.sockets import attach
from pylvs.vrrp.advert_filter import (
    FOREIGN_S,
    MOST_FOREIGN,
    MOST_IN_SLICE,
    MOST_MASTERS,
    MOST_RELEVANT,
    SLICE_S,
    Admission,
    FloodGuard,
    Relevant,
    program,
)
from pylvs.vrrp.protocol.adverts import AH_BYTES, AdvertEncoder
from pylvs.vrrp.sockets import vrid_of
from tests.unit.vrrp.instances import HERE, SEALED, SECOND, THERE


class Filtered:
    """A datagram socket with a filter: its data are those of a raw IPv4 socket."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.here.setblocking(False)

    def passes(self, packet: bytes) -> bool:
        self.there.send(packet)
        try:
            return self.here.recv(2000) == packet
        except BlockingIOError:
            return False

    def admit(self, vrids: Mapping[int, Admission], foreign: bool, offset: int = 0) -> None:
        attach(self.here, program(4, offset, vrids, foreign))


@pytest.fixture
def filtered() -> Iterator[Filtered]:
    made = Filtered()
    with made.here, made.there:
        yield made


def packet(vrid: int = 51, priority: int = 100, source: str = "10.0.0.2", options: bytes = b"") -> bytes:
    """An IPv4 packet with an advertisement."""
    (made,) = AdvertEncoder(replace(SECOND, vrid=vrid), ip_address(source)).packets(priority)
    header = bytes([0x45 + len(options) // 4]) + made.header[1:] + options
    return header + made.payload


def test_unrestricted_it_passes_everything_that_has_a_vrid(filtered: Filtered) -> None:
    filtered.admit({}, foreign=True)
    assert filtered.passes(packet(1))
    assert filtered.passes(packet(255, options=bytes(12)))
    assert not filtered.passes(packet()[:21])


def test_each_vrid_has_its_own_rule(filtered: Filtered) -> None:
    filtered.admit({51: True, 52: Relevant(100, (THERE,)), 53: False}, foreign=False)
    assert filtered.passes(packet(51, 1))
    passed = [filtered.passes(packet(52, priority, "10.0.0.9")) for priority in (0, 1, 99, 100, 101, 255)]
    assert passed == [True, False, False, True, True, True]
    assert filtered.passes(packet(52, 1, str(THERE))), "the master that it follows, at any priority"
    assert filtered.passes(packet(52, 100, "10.0.0.9", options=bytes(8))), "behind IP options"
    assert not filtered.passes(packet(52, 99, "10.0.0.9", options=bytes(8)))
    assert not filtered.passes(packet(53, 255))
    assert not filtered.passes(packet(54, 255))
    filtered.admit({51: True}, foreign=True)
    assert filtered.passes(packet(54))


@pytest.mark.parametrize("family", [4, 6])
def test_all_vrids_with_many_masters_fit_into_one_filter(filtered: Filtered, family: int) -> None:
    several = tuple(ip_address(f"10.0.1.{number}") for number in range(MOST_MASTERS + 5))
    if family == 6:
        several = tuple(ip_address(f"fe80::{number}") for number in range(MOST_MASTERS + 5))
    attach(filtered.here, program(family, 0, {vrid: Relevant(100, several) for vrid in range(1, 256)}, foreign=False))
    attach(filtered.here, program(family, 0, dict.fromkeys(range(1, 256), True), foreign=False))
    if family == 6:
        return
    filtered.admit(dict.fromkeys(range(1, 256), True) | {7: Relevant(100, several)}, foreign=False)
    assert filtered.passes(packet(7, 5, str(several[MOST_MASTERS - 1])))
    assert not filtered.passes(packet(7, 5, "10.0.2.1"))
    assert filtered.passes(packet(255, 5, "10.0.2.1"))


def test_behind_an_authentication_header(filtered: Filtered) -> None:
    (made,) = AdvertEncoder(SEALED, HERE).packets(100)
    whole = made.header + made.payload
    assert vrid_of(made) == SEALED.vrid
    filtered.admit({SEALED.vrid: Relevant(100)}, foreign=False, offset=AH_BYTES)
    assert filtered.passes(whole)
    filtered.admit({SEALED.vrid: Relevant(101)}, foreign=False, offset=AH_BYTES)
    assert not filtered.passes(whole)


def test_a_flood_of_one_vrid_restricts_it_in_two_steps_until_the_slice_ends() -> None:
    guard = FloodGuard({51, 52})
    changes = [number for number in range(1, 200) if guard.count(51, 10.0)]
    assert changes == [MOST_IN_SLICE, MOST_RELEVANT]
    assert not guard.count(52, 10.0), "the other one is not restricted"
    assert (guard.levels, guard.foreign, guard.due) == ({51: 2}, True, 10.0 + SLICE_S)
    assert not guard.wake(10.0 + SLICE_S / 2)
    assert guard.wake(10.0 + SLICE_S)
    assert (guard.levels, guard.due) == ({}, None)
    assert [guard.count(51, 10.0 + SLICE_S) for _ in range(MOST_IN_SLICE)][-1]


def test_the_shortest_interval_is_no_flood() -> None:
    guard = FloodGuard({51})
    assert not any(guard.count(51, number * 0.01 + sender * 0.001) for number in range(1000) for sender in range(3))


def test_of_other_vrids_a_few_a_second_are_received() -> None:
    guard = FloodGuard({51})
    changes = [number for number in range(1, 100) if guard.count(number + 100, 5.0)]
    assert changes == [MOST_FOREIGN]
    assert (guard.foreign, guard.levels, guard.due) == (False, {}, 5.0 + FOREIGN_S)
    guard.count(51, 5.5)
    assert not guard.wake(5.5)
    assert guard.wake(5.0 + FOREIGN_S)
    assert (guard.foreign, guard.due) == (True, None)
