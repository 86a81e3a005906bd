"""Address conflicts: what is logged, and what is answered."""

from __future__ import annotations

import os
from ipaddress import ip_address
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.addresses import Address
from pylvs.model.vrrp import Announcements
from pylvs.netlink.monitor import LinkMessage
from pylvs.vrrp import conflicts
from pylvs.vrrp.conflicts import (
    BATCH,
    DEFEND_INTERVAL_S,
    LOG_INTERVAL_S,
    MAX_LOGGED,
    PAUSE_S,
    ConflictListener,
    ConflictTracker,
)
from pylvs.vrrp.garp import AddressBinding, GarpRateLimit, GarpScheduler
from tests.unit.vrrp.fake_loop import FakeTimeLoop

VIP, SECOND = ip_address("10.0.0.100"), ip_address("fd00::100")
MAC, OTHER = bytes.fromhex("02000000000b"), bytes.fromhex("02000000000c")


def test_the_log_names_the_other_host_s_usual_address() -> None:
    tracker = ConflictTracker({MAC: "10.0.0.2", OTHER: str(VIP)}.__getitem__)
    assert tracker.respond(0, AddressBinding(VIP, MAC, "eth0")) == (
        "10.0.0.100 is claimed by 02:00:00:00:00:0b (10.0.0.2) on eth0",
        True,
    )
    assert tracker.respond(0, AddressBinding(VIP, OTHER))[0] == "10.0.0.100 is claimed by 02:00:00:00:00:0c"


def test_the_same_conflict_is_logged_once_in_the_interval_and_counted() -> None:
    tracker = ConflictTracker()
    texts = [tracker.respond(now, AddressBinding(VIP, MAC))[0] for now in range(int(LOG_INTERVAL_S) + 1)]
    assert [bool(text) for text in texts] == [True, *[False] * (int(LOG_INTERVAL_S) - 1), True]
    assert texts[-1] == "10.0.0.100 is claimed by 02:00:00:00:00:0b; 59 more like it since the last line"


def test_an_address_is_answered_for_once_in_defend_interval() -> None:
    tracker = ConflictTracker()
    assert tracker.respond(0, AddressBinding(VIP, MAC))[1]
    assert not tracker.respond(1, AddressBinding(VIP, OTHER))[1]
    assert tracker.respond(1, AddressBinding(SECOND, OTHER))[1]
    assert tracker.respond(DEFEND_INTERVAL_S, AddressBinding(VIP, MAC))[1]


def test_a_flood_of_conflicts_is_logged_in_few_lines() -> None:
    tracker = ConflictTracker()
    texts = [tracker.respond(0, AddressBinding(VIP, number.to_bytes(6, "big")))[0] for number in range(5000)]
    assert sum(bool(text) for text in texts) == MAX_LOGGED
    after = tracker.respond(LOG_INTERVAL_S, AddressBinding(VIP, MAC))[0]
    assert (
        after == f"10.0.0.100 is claimed by 02:00:00:00:00:0b; {5000 - MAX_LOGGED} claims of other hosts are not logged"
    )


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from((VIP, SECOND)), st.binary(min_size=6, max_size=6)), max_size=60
    )
)
def test_answers_and_lines_keep_their_intervals(events: list[tuple[float, Address, bytes]]) -> None:
    tracker, now = ConflictTracker(), 0.0
    answers: dict[Address, list[float]] = {VIP: [], SECOND: []}
    lines: list[float] = []
    for pause, address, mac in events:
        now += pause
        text, answer = tracker.respond(now, AddressBinding(address, mac))
        if answer:
            answers[address].append(now)
        if text:
            lines.append(now)
    for times in answers.values():
        assert all(second >= first + DEFEND_INTERVAL_S for first, second in pairwise(times))
    assert all(later >= first + LOG_INTERVAL_S for first, later in zip(lines, lines[MAX_LOGGED:], strict=False))


def test_two_hosts_that_hold_the_same_address_stop_answering() -> None:
    """Each answers the other's announcements, but not endlessly."""
    hosts = [(GarpScheduler(Announcements(), GarpRateLimit()), ConflictTracker(), mac) for mac in (MAC, OTHER)]
    for scheduler, _, _ in hosts:
        scheduler.begin(0.0, [("eth0", VIP)])
    sent: list[float] = []
    while (now := min((due for host in hosts if (due := host[0].due) is not None), default=None)) is not None:
        for mine, other in (hosts, hosts[::-1]):
            for _, address in mine[0].wake(now):
                sent.append(now)
                if other[1].respond(now, AddressBinding(address, mine[2]))[1]:
                    other[0].defend(now, address)
        assert now < 60, "the answers never end"
    assert len(sent) <= 2 * (2 + 2 * 2) * Announcements().repeat


class FloodedSocket:
    """Replaces ConflictSocket: it always has more frames; a pipe is its descriptor."""

    flooded = True

    def __init__(self, *_: object) -> None:
        self.read = 0
        self._ends = os.pipe()
        os.write(self._ends[1], b"x")

    def fileno(self) -> int:
        return self._ends[0]

    def watch(self, *_: object) -> None:
        pass

    def receive(self) -> list[AddressBinding]:
        self.read += BATCH
        return [AddressBinding(VIP, MAC, "eth0")] * BATCH

    def close(self) -> None:
        for each in self._ends:
            os.close(each)


def test_a_flood_of_conflicts_is_read_in_batches_with_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflicts, "ConflictSocket", FloodedSocket)
    loop = FakeTimeLoop()
    seen: list[tuple[object, ...]] = []
    links: Any = SimpleNamespace(links={"eth0": LinkMessage(1, "eth0", MAC, 1500, True, True)})
    listener = ConflictListener(loop, links, lambda: [("eth0", VIP)], lambda *each: seen.append(each), print)
    listener.listen_soon()
    loop.pass_(3.0)
    flooded: Any = next(iter(listener._sockets.values()))
    assert BATCH < flooded.read <= (3.0 / PAUSE_S + 1) * BATCH
    assert len(seen) == 1
    listener.close()
    loop.pass_(1.0)
