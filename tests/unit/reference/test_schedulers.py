"""The reference's schedulers choose as in the examples of IPVS-SEMANTICS 3, which the real IPVS gave."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import pytest

from pylvs.bpf.schedulers import SCHEDULERS as NAMES
from pylvs.model.service import Destination, DestinationKey, ServiceFlag
from pylvs.reference.schedulers import SCHEDULERS, Flow
from pylvs.reference.schedulers.hashing import KEY_1, KEY_2, SLOTS, bucket, fold, siphash13
from pylvs.reference.server import Server

SOURCES = ("10.1.0.1", "10.1.0.2", "192.0.2.1", "198.51.100.7", "203.0.113.254")
ALL_OPTIONS = ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2


def new_server(number: int, weight: int, port: int = 601) -> Server:
    """Return a server with address 10.0.0.NUMBER."""
    return Server(Destination(DestinationKey(ip_address(f"10.0.0.{number}"), port), weight=weight))


def flow(saddr: str = "10.1.0.1", port: int = 4000, daddr: str = "10.1.0.100") -> Flow:
    return Flow(ip_address(saddr).packed, port, ip_address(daddr).packed)


class Site:
    """A service's list and its scheduler. Each choice is a connection that stays, active by default."""

    def __init__(self, scheduler: str, weights: dict[int, int] | None = None, *, options: int = 0) -> None:
        self.servers: list[Server] = []
        self.options = options
        self.scheduler = SCHEDULERS[scheduler](self.servers, options)
        for number, weight in (weights or {}).items():
            self.add(number, weight)

    def add(self, number: int, weight: int) -> None:
        server = new_server(number, weight)
        self.servers.insert(0, server)
        self.scheduler.changed()

    def server(self, number: int) -> Server:
        (found,) = [server for server in self.servers if server.address[3] == number]
        return found

    def delete(self, number: int) -> None:
        server = self.server(number)
        position = self.servers.index(server)
        self.servers.remove(server)
        self.scheduler.deleted(server, position)

    def weigh(self, number: int, weight: int) -> None:
        server = self.server(number)
        server.weight = weight
        server.last_weight = weight or server.last_weight
        self.scheduler.changed()

    def switch(self, scheduler: str) -> None:
        self.scheduler.close()
        self.scheduler = SCHEDULERS[scheduler](self.servers, self.options)

    def pick(self, what: Flow | None = None, *, active: bool = True, now: float = 0) -> int | None:
        chosen = self.scheduler.choose(what or flow(), now)
        if chosen is None:
            return None
        chosen.active += active
        chosen.inactive += not active
        return chosen.address[3]

    def picks(self, count: int, *, active: bool = True) -> str:
        return " ".join(str(self.pick(active=active) or "-") for _ in range(count))

    def picks_by_source(self, sources: Iterable[str] = SOURCES) -> list[int | None]:
        return [self.pick(flow(saddr)) for saddr in sources]


WEIGHTS = {11: 4, 12: 3, 13: 2}


def test_every_scheduler_of_the_packet_path_is_there() -> None:
    assert set(SCHEDULERS) == set(NAMES)


@pytest.mark.parametrize(
    ("scheduler", "weights", "expected"),
    [
        ("wrr", {11: 4, 12: 2}, "12 11 11 12 11 11"),
        ("wrr", {11: 0, 12: 0}, "- -"),
        ("fo", {11: 4, 12: 4}, "12 12 12"),
    ],
)
def test_the_order_of_ipvs(scheduler: str, weights: dict[int, int], expected: str) -> None:
    """Beyond the examples of docs/reference/schedulers.md, which tests/unit/test_documents.py runs."""
    assert Site(scheduler, weights).picks(len(expected.split())) == expected


@pytest.mark.parametrize("scheduler", NAMES)
def test_there_is_no_choice_without_a_server_that_is_usable(scheduler: str) -> None:
    for options in 0, ALL_OPTIONS:
        site = Site(scheduler, options=options)
        assert site.pick() is None
        site.add(11, 0)
        assert site.pick() is None
        site.weigh(11, 5)
        site.server(11).overloaded = True
        assert site.pick() is None


def test_rr_continues_at_its_cursor_after_edits() -> None:
    site = Site("rr", WEIGHTS)
    site.picks(5)
    site.add(14, 1)
    assert site.picks(6) == "11 14 13 12 11 14"
    site.delete(12)
    assert site.picks(5) == "13 11 14 13 11"


def test_rr_moves_its_cursor_towards_the_head_if_its_server_is_deleted() -> None:
    site = Site("rr", WEIGHTS)
    site.picks(2)
    site.delete(12)
    assert site.picks(3) == "11 13 11"
    site.delete(11)
    site.delete(13)
    assert site.pick() is None
    site.add(15, 1)
    assert site.pick() == 15


def test_wrr_starts_at_its_greatest_weight_only_when_it_finds_servers() -> None:
    site = Site("wrr", WEIGHTS)
    site.switch("rr")
    site.switch("wrr")
    assert site.picks(9) == "11 12 11 13 12 11 13 12 11"


def test_wrr_follows_an_edit() -> None:
    site = Site("wrr", WEIGHTS)
    site.picks(5)
    site.weigh(12, 6)
    assert site.picks(14) == "12 11 13 12 11 12 12 11 13 12 11 12 12 11"


def test_overhead_wraps_at_32_bits() -> None:
    site = Site("lc", {11: 1, 12: 1})
    site.server(12).active = 1 << 24
    assert site.pick() == 12, "the sum overflows to 0"
    weighted = Site("wlc", {11: 1, 12: 1})
    weighted.server(11).active = 1 << 23
    assert weighted.pick() == 11, "the sum overflows to a negative number"


def test_inactive_connections_weigh_a_256th() -> None:
    site = Site("wlc", {11: 1, 12: 256})
    site.server(12).active = 1
    site.server(11).inactive = 1
    assert site.pick() == 12, "a tie: the first in the list"


def test_hashes_of_addresses() -> None:
    expected_hashes = {"10.1.0.1": (174, 696), "10.1.0.2": (15, 63), "192.0.2.1": (50, 203), "198.51.100.7": (171, 684)}
    for address, hashes in expected_hashes.items():
        folded = fold(ip_address(address).packed)
        assert (bucket(folded, 8), bucket(folded, 10)) == hashes
    assert fold(ip_address("2001:db8::1").packed) == 0x20010DB9
    assert bucket(0x20010DB9, 8) == 63
    assert (siphash13(0, KEY_1), siphash13(1, KEY_1), siphash13(0, KEY_2)) == (0x1D5A77C2, 0x16EC66B2, 0xF882433F)


def test_dh_uses_the_destination_address_alone() -> None:
    site = Site("dh", WEIGHTS)
    assert site.pick(flow(daddr="10.1.0.1")) == 13
    site.weigh(13, 0)
    assert site.pick(flow(daddr="10.1.0.1")) is None


def test_sh_picks_as_ipvs() -> None:
    assert Site("sh", WEIGHTS).picks_by_source() == [12, 11, 11, 13, 11]


def test_sh_falls_back_only_with_sh_fallback() -> None:
    for options, expected in (0, None), (ServiceFlag.SCHED_1, 13):
        site = Site("sh", WEIGHTS, options=options)
        site.server(12).overloaded = True
        # bucket 174: twice that, modulo 256, is 92; modulo 9 that is 2, 12's; 93 and 94 are, too; 95 is 11's
        assert site.pick(flow("10.1.0.1")) == (11 if expected else None)


def test_sh_gives_a_weight_of_zero_one_bucket() -> None:
    site = Site("sh", {11: 0, 12: 255})
    assert [site.scheduler.choose(flow(f"10.1.{n >> 8}.{n & 255}"), 0) for n in range(2048)].count(None) in range(1, 30)


def test_mh_builds_the_table_of_ipvs() -> None:
    site = Site("mh", WEIGHTS)
    assert site.picks_by_source() == [11, 11, 11, 13, 12]
    slots = [server.address[3] for server in site.scheduler._slots]  # type: ignore[attr-defined]
    first = "13 12 13 13 13 13 13 13 12 11 11 11 12 11 12 12 11 12 11 12 12 13 11 12"
    assert " ".join(map(str, slots[:24])) == first
    assert [slots.count(number) for number in WEIGHTS] == [1818, 1365, 910]
    assert len(slots) == SLOTS


def test_mh_scales_great_weights_down() -> None:
    site = Site("mh", {11: 1000, 12: 3, 13: 70})
    site.pick()
    slots = [server.address[3] for server in site.scheduler._slots]  # type: ignore[attr-defined]
    assert [slots.count(number) for number in WEIGHTS] == [3783, 62, 248]


def test_mh_keeps_the_slots_of_a_quiesced_server() -> None:
    site = Site("mh", WEIGHTS)
    site.weigh(11, 0)
    assert site.picks_by_source() == [None, None, None, 13, 12]
    site = Site("mh", WEIGHTS, options=ServiceFlag.SCHED_1)
    site.weigh(11, 0)
    picks = site.picks_by_source()
    assert picks[3:] == [13, 12]
    assert set(picks[:3]) <= {12, 13}


def test_lblc_forgets_an_address_after_its_time() -> None:
    site = Site("lblc", {11: 1, 12: 1})
    site.scheduler.advance(0)
    assert site.pick(active=False, now=1) == 12
    assert site.server(12).references == 1
    site.scheduler.advance(86400)
    assert site.server(12).references == 1, "a full look comes every 30 minutes"
    site.scheduler.advance(86400 + 1800)
    assert site.server(12).references == 0


def test_lblcr_removes_its_busiest_member_after_a_day() -> None:
    site = Site("lblcr", {11: 3, 12: 3, 13: 100})
    site.server(13).overloaded = True
    assert [site.pick() for _ in range(6)] == [12, 12, 12, 12, 11, 11]
    later = 86400 + 1
    assert site.scheduler.choose(flow(), later) is site.server(11)
    assert site.server(12).references == 0
    assert site.server(11).references == 1
