"""The daemon's view of the table: read only after foreign edits, changed only where it differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pylvs.daemon.table.known import Outdated, Plan, Table, Wish
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.director import ServiceRow
from pylvs.model.errors import Busy
from pylvs.model.service import FIRST, Protocol, ServiceKey, Timeouts, VirtualService
from pylvs.model.wanted import WantedRow
from pylvs.testing import MemoryDirector

WEB, DNS, MARK = (
    ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80),
    ServiceKey(Protocol.UDP, ip_address("192.0.2.1"), 53),
    ServiceKey.of_mark(7),
)
LONG_S = 60.0


def server(number: int, weight: int = 1) -> Destination:
    return Destination(DestinationKey(ip_address(f"10.0.0.{number}"), 80), weight=weight)


def row(key: ServiceKey, *servers: Destination) -> WantedRow:
    return WantedRow(VirtualService(key), servers)


class Watched(MemoryDirector):
    """Counts how often the whole table is read; can be taken down."""

    reads = 0
    down = False

    def services(self) -> list[ServiceRow]:
        self.reads += 1
        return super().services()

    def edition(self) -> int:
        return 0 if self.down else super().edition()


def carry_out(table: Table, wish: Wish) -> Plan:
    plan = table.plan(wish)
    if plan.timeouts:
        table.set_timeouts(plan.timeouts)
    rest: Sequence[object] = plan.edits
    while rest:
        count, _ = table.apply(plan.edits[-len(rest) :], LONG_S)
        rest = rest[count:]
    table.came_true(wish)
    return plan


@pytest.fixture
def director() -> Watched:
    return Watched()


@pytest.fixture
def table(director: Watched) -> Table:
    return Table(director)


def told(plan: Plan) -> list[str]:
    return [str(edit) for edit in plan.edits]


def test_what_the_daemon_did_itself_is_not_read_again(director: Watched, table: Table) -> None:
    rows = [row(WEB, server(1), server(2)), row(DNS, server(1))]
    assert len(carry_out(table, Wish(rows)).edits) == 5
    assert not carry_out(table, Wish(rows))
    rows[0] = row(WEB, server(1), server(2, weight=5))
    assert told(carry_out(table, Wish(rows))) == ["TCP 192.0.2.1:80 -> 10.0.0.2:80: weight 1 -> 5"]
    assert director.reads == 1
    assert {each.destination.weight for each in director.service(WEB).destinations} == {1, 5}


def test_what_somebody_else_did_is_undone_and_told(director: Watched, table: Table) -> None:
    wish = Wish([row(WEB, server(1), server(2)), row(DNS, server(1))], ours=frozenset({WEB, DNS}))
    carry_out(table, wish)
    director.delete_destination(WEB, server(1).key)
    director.edit_destination(WEB, server(2, weight=0))
    director.add_destination(WEB, server(9))
    director.delete_service(DNS)
    director.add_service(VirtualService(MARK))
    plan = carry_out(table, wish)
    assert told(plan) == [
        "TCP 192.0.2.1:80 -> 10.0.0.1:80: added, weight 1, method DR",
        "TCP 192.0.2.1:80 -> 10.0.0.2:80: weight 0 -> 1",
        "TCP 192.0.2.1:80 -> 10.0.0.9:80: removed",
        "UDP 192.0.2.1:53: added, scheduler wlc",
        "UDP 192.0.2.1:53 -> 10.0.0.1:80: added, weight 1, method DR",
    ]
    assert plan.restored == frozenset(plan.edits)
    assert {each.service.key for each in director.services()} == {WEB, DNS, MARK}
    assert not carry_out(table, wish)


def test_of_edits_in_one_moment_only_the_others_are_restored(director: Watched, table: Table) -> None:
    carry_out(table, Wish([row(WEB, server(1), server(2))]))
    director.edit_destination(WEB, server(1, weight=9))
    plan = carry_out(table, Wish([row(WEB, server(1))]))
    assert [str(edit) for edit in plan.restored] == ["TCP 192.0.2.1:80 -> 10.0.0.1:80: weight 9 -> 1"]
    assert "TCP 192.0.2.1:80 -> 10.0.0.2:80: removed" in told(plan)


def test_services_that_are_the_daemons_go_when_nobody_wants_them_any_more(director: Watched, table: Table) -> None:
    director.add_service(VirtualService(MARK))
    both = frozenset({WEB, DNS})
    web = row(WEB)
    carry_out(table, Wish([web, row(DNS)], both))
    assert told(carry_out(table, Wish([web], both))) == ["UDP 192.0.2.1:53: removed"]
    assert {each.service.key for each in director.services()} == {WEB, MARK}
    assert told(carry_out(table, Wish([web], both, exclusive=True))) == ["FWM 7: removed"]


def test_lost_tables_are_told_and_made_again(director: Watched, table: Table) -> None:
    wish = Wish([row(WEB, server(1))], timeouts=Timeouts(100, 20, 30))
    carry_out(table, wish)
    director.flush()
    director.set_timeouts(Timeouts())
    director.down = True
    plan = table.plan(wish)
    assert plan.lost
    director.down = False  # as the first edit does it
    table.set_timeouts(Timeouts(100, 20, 30))
    assert table.apply(plan.edits, LONG_S) == (2, [])
    table.came_true(wish)
    assert director.service(WEB).destinations[0].destination == server(1)
    assert director.timeouts() == Timeouts(100, 20, 30)
    assert not table.plan(wish)


def test_an_edit_that_comes_between_plan_and_edits_makes_the_plan_void(director: Watched, table: Table) -> None:
    director.add_service(VirtualService(MARK))
    wish = Wish([row(WEB, server(1))])
    plan = table.plan(wish)
    director.add_service(VirtualService(WEB, "rr"))
    with pytest.raises(Outdated):
        table.apply(plan.edits, LONG_S)
    assert told(carry_out(table, wish)) == [
        "TCP 192.0.2.1:80: scheduler rr -> wlc",
        "TCP 192.0.2.1:80 -> 10.0.0.1:80: added, weight 1, method DR",
    ]


def test_what_is_refused_is_told_stops_nothing_else_and_is_tried_again(director: Watched, table: Table) -> None:
    bad = WantedRow(VirtualService(WEB, "nobody-knows"), (server(1), server(2)))
    wish = Wish([bad, row(DNS, server(1, weight=-1), server(2))])
    for _ in range(2):
        plan = table.plan(wish)
        count, failures = table.apply(plan.edits, LONG_S)
        table.came_true(wish)
        assert count == len(plan.edits)
        assert [str(failure.edit) for failure in failures] == [
            "TCP 192.0.2.1:80: added, scheduler nobody-knows",
            "UDP 192.0.2.1:53 -> 10.0.0.1:80: added, weight -1, method DR",
        ]
        assert "no scheduler 'nobody-knows'" in str(failures[0])
    assert [each.destination for each in director.service(DNS).destinations] == [server(2)]
    better = Wish([row(WEB, server(1)), replace(wish.rows[1], destinations=(server(2),))])
    carry_out(table, better)
    assert director.service(WEB).destinations[0].destination == server(1)
    assert director.reads == 1


def test_a_refused_removal_of_a_service_is_tried_again(
    director: Watched, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, web = frozenset({WEB, DNS}), row(WEB)
    carry_out(table, Wish([web, row(DNS)], both))

    def refused(_: ServiceKey) -> None:
        raise Busy("not now")

    with monkeypatch.context() as patched:
        patched.setattr(director, "delete_service", refused)
        for _ in range(2):
            assert told(carry_out(table, Wish([web], both))) == ["UDP 192.0.2.1:53: removed"]
    assert told(carry_out(table, Wish([web], both))) == ["UDP 192.0.2.1:53: removed"]
    assert {each.service.key for each in director.services()} == {WEB}
    assert not carry_out(table, Wish([web], both))


def test_a_service_in_the_place_of_another_leaves_nothing_of_that_one(director: Watched, table: Table) -> None:
    """Also where the daemon may remove as many services as before, as after a reload that was not completed."""
    ours, web = frozenset({WEB, DNS, MARK}), row(WEB)
    carry_out(table, Wish([web, row(DNS)], ours))
    assert told(carry_out(table, Wish([web, row(MARK)], ours))) == [
        "FWM 7: added, scheduler wlc",
        "UDP 192.0.2.1:53: removed",
    ]
    assert {each.service.key for each in director.services()} == {WEB, MARK}


def test_edits_come_in_slices(director: Watched, table: Table) -> None:
    plan = table.plan(Wish([row(WEB, server(1), server(2))]))
    assert table.apply(plan.edits, 0) == (1, [])
    assert [len(each.destinations) for each in director.services()] == [0]
    assert table.apply(plan.edits[1:], LONG_S) == (2, [])
    assert [len(each.destinations) for each in director.services()] == [2]


def test_services_of_checks_stay_while_they_are_wanted_and_go_whoever_left_them(
    director: Watched, table: Table
) -> None:
    kept, left = ServiceKey.of_mark(FIRST), ServiceKey.of_mark(FIRST + 1)
    director.add_service(VirtualService(left))
    wish = Wish([row(WEB, server(1)), row(kept, server(1))])
    carry_out(table, wish)
    for _ in range(2):  # by a plan that looks at the whole table, and by one that does not
        assert {each.service.key for each in director.services()} == {WEB, kept}
        assert not carry_out(table, wish)
    carry_out(table, Wish([], ours=[WEB]))
    assert director.services() == []
