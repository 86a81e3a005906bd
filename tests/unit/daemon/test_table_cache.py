"""The cache reads the table after foreign edits only, and edits only what differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pylvs.daemon.table.cache import DesiredTable, EditPlan, TableCache, TableChanged
from pylvs.model.client_rules import rule_of
from pylvs.model.errors import Busy, NoSpace
from pylvs.model.rows import ServiceRow
from pylvs.model.service import (
    FIRST_PROBE_MARK,
    UNCHANGED,
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceKey,
    Timeouts,
    VirtualService,
)
from pylvs.model.wanted import WantedRow
from tests.memory import MemoryDirector

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
    """Counts how often the whole table is read; can be without tables."""

    reads = 0
    down = False

    def services(self) -> list[ServiceRow]:
        self.reads += 1
        return super().services()

    def edition(self) -> int:
        return 0 if self.down else super().edition()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no pause of the machine divide a service."""
    monkeypatch.setattr("pylvs.daemon.table.cache.WHOLE_S", math.inf)


def carry_out(table: TableCache, desired: DesiredTable) -> EditPlan:
    plan = table.plan(desired)
    if plan.timeouts:
        table.set_timeouts(plan.timeouts)
    rest: Sequence[object] = plan.edits
    while rest:
        count, _ = table.apply(plan.edits[-len(rest) :], LONG_S)
        rest = rest[count:]
    table.plan_applied(desired)
    return plan


@pytest.fixture
def director() -> Watched:
    return Watched()


@pytest.fixture
def table(director: Watched) -> TableCache:
    return TableCache(director)


def nothing_to_do(plan: EditPlan) -> bool:
    return not plan.edits and plan.timeouts is None


def texts(plan: EditPlan) -> list[str]:
    return [str(edit) for edit in plan.edits]


def test_own_edits_are_not_read_back(director: Watched, table: TableCache) -> None:
    rows = [row(WEB, server(1), server(2)), row(DNS, server(1))]
    assert len(carry_out(table, DesiredTable(rows)).edits) == 5
    assert nothing_to_do(carry_out(table, DesiredTable(rows)))
    rows[0] = row(WEB, server(1), server(2, weight=5))
    assert texts(carry_out(table, DesiredTable(rows))) == ["TCP 192.0.2.1:80 -> 10.0.0.2:80: weight 1 -> 5"]
    assert director.reads == 1
    assert {each.destination.weight for each in director.service(WEB).destinations} == {1, 5}


def test_foreign_edits_are_reverted_and_reported(director: Watched, table: TableCache) -> None:
    desired = DesiredTable([row(WEB, server(1), server(2)), row(DNS, server(1))], owned=frozenset({WEB, DNS}))
    carry_out(table, desired)
    director.delete_destination(WEB, server(1).key)
    director.edit_destination(WEB, server(2, weight=0))
    director.add_destination(WEB, server(9))
    director.delete_service(DNS)
    director.add_service(VirtualService(MARK))
    plan = carry_out(table, desired)
    assert texts(plan) == [
        "TCP 192.0.2.1:80 -> 10.0.0.1:80: added, weight 1, method DR",
        "TCP 192.0.2.1:80 -> 10.0.0.2:80: weight 0 -> 1",
        "TCP 192.0.2.1:80 -> 10.0.0.9:80: removed",
        "UDP 192.0.2.1:53: added, scheduler wlc",
        "UDP 192.0.2.1:53 -> 10.0.0.1:80: added, weight 1, method DR",
    ]
    assert plan.restored == plan.edits
    assert {each.service.key for each in director.services()} == {WEB, DNS, MARK}
    assert nothing_to_do(carry_out(table, desired))


def test_of_concurrent_edits_only_the_foreign_ones_are_reverted(director: Watched, table: TableCache) -> None:
    carry_out(table, DesiredTable([row(WEB, server(1), server(2))]))
    director.edit_destination(WEB, server(1, weight=9))
    plan = carry_out(table, DesiredTable([row(WEB, server(1))]))
    assert [str(edit) for edit in plan.restored] == ["TCP 192.0.2.1:80 -> 10.0.0.1:80: weight 9 -> 1"]
    assert "TCP 192.0.2.1:80 -> 10.0.0.2:80: removed" in texts(plan)


def test_owned_services_are_deleted_when_they_are_not_desired(director: Watched, table: TableCache) -> None:
    director.add_service(VirtualService(MARK))
    both = frozenset({WEB, DNS})
    web = row(WEB)
    carry_out(table, DesiredTable([web, row(DNS)], both))
    assert texts(carry_out(table, DesiredTable([web], both))) == ["UDP 192.0.2.1:53: removed"]
    assert {each.service.key for each in director.services()} == {WEB, MARK}
    assert texts(carry_out(table, DesiredTable([web], both, exclusive=True))) == ["FWM 7: removed"]


def test_lost_tables_are_reported_and_made_again(director: Watched, table: TableCache) -> None:
    desired = DesiredTable([row(WEB, server(1))], timeouts=Timeouts(100, 20, 30))
    carry_out(table, desired)
    director.flush()
    director.set_timeouts(Timeouts())
    director.down = True
    plan = table.plan(desired)
    assert plan.tables_gone
    director.down = False  # as the first edit does it
    table.set_timeouts(Timeouts(100, 20, 30))
    assert table.apply(plan.edits, LONG_S) == (2, [])
    table.plan_applied(desired)
    assert director.service(WEB).destinations[0].destination == server(1)
    assert director.timeouts() == Timeouts(100, 20, 30)
    assert nothing_to_do(table.plan(desired))


def test_timeouts_that_are_not_desired_stay_and_return_to_what_they_were(director: Watched, table: TableCache) -> None:
    director.set_timeouts(Timeouts(800, 100, 200))
    rows = [row(WEB, server(1))]
    for desired, found in (
        (UNCHANGED, Timeouts(800, 100, 200)),
        (Timeouts(0, 0, 15), Timeouts(800, 100, 15)),
        (Timeouts(0, 60, 16), Timeouts(800, 60, 16)),
        (Timeouts(0, 60, 0), Timeouts(800, 60, 200)),
    ):
        carry_out(table, DesiredTable(rows, timeouts=desired))
        assert director.timeouts() == found
        assert nothing_to_do(table.plan(DesiredTable(rows, timeouts=desired)))
    director.set_timeouts(Timeouts(700, 61, 201))  # the daemon owns one of them
    carry_out(table, DesiredTable(rows, timeouts=Timeouts(0, 60, 0)))
    assert director.timeouts() == Timeouts(700, 60, 201)
    carry_out(table, DesiredTable(rows))
    assert director.timeouts() == Timeouts(700, 100, 201)
    director.set_timeouts(Timeouts(1, 2, 3))
    assert nothing_to_do(carry_out(table, DesiredTable(rows)))


def test_a_server_of_another_port_is_renamed_and_keeps_its_connections(director: Watched, table: TableCache) -> None:
    """ipvsadm may have given it that port; packets of DR and TUN do not depend on it."""

    def under(number: int, port: int, method: Method = Method.ROUTE, weight: int = 1) -> Destination:
        return Destination(DestinationKey(server(number).key.address, port), method, weight)

    director.add_service(VirtualService(WEB))
    for changed in (
        under(1, 0),
        under(2, 0, Method.TUNNEL, 3),
        under(3, 0, Method.MASQ),
        under(4, 80),
        under(5, 1),
        under(5, 2),
    ):
        director.add_destination(WEB, changed)
        director.count(WEB, changed.key, active=changed.key.address.packed[-1])
    desired = (under(1, 80), under(2, 80, Method.TUNNEL, 5), under(3, 80, Method.MASQ), under(4, 80), under(5, 80))
    plan = carry_out(table, DesiredTable([row(WEB, *desired)]))
    assert texts(plan) == [
        "TCP 192.0.2.1:80 -> 10.0.0.3:80: added, weight 1, method NAT",
        "TCP 192.0.2.1:80 -> 10.0.0.5:80: added, weight 1, method DR",
        "TCP 192.0.2.1:80 -> 10.0.0.2:0: port 0 -> 80, weight 3 -> 5",
        "TCP 192.0.2.1:80 -> 10.0.0.1:0: port 0 -> 80",
        "TCP 192.0.2.1:80 -> 10.0.0.5:2: removed",
        "TCP 192.0.2.1:80 -> 10.0.0.5:1: removed",
        "TCP 192.0.2.1:80 -> 10.0.0.3:0: removed",
    ]
    found = {each.destination: each.active for each in director.service(WEB).destinations}
    assert found == dict(zip(desired, (1, 2, 0, 4, 0), strict=True))
    assert nothing_to_do(carry_out(table, DesiredTable([row(WEB, *desired)])))


def test_an_edit_that_comes_between_plan_and_edits_makes_the_plan_void(director: Watched, table: TableCache) -> None:
    director.add_service(VirtualService(MARK))
    desired = DesiredTable([row(WEB, server(1))])
    plan = table.plan(desired)
    director.add_service(VirtualService(WEB, "rr"))
    with pytest.raises(TableChanged):
        table.apply(plan.edits, LONG_S)
    assert texts(carry_out(table, desired)) == [
        "TCP 192.0.2.1:80: scheduler rr -> wlc",
        "TCP 192.0.2.1:80 -> 10.0.0.1:80: added, weight 1, method DR",
    ]


def test_a_refused_edit_is_reported_and_tried_again_and_stops_no_other(director: Watched, table: TableCache) -> None:
    bad = WantedRow(VirtualService(WEB, "no-such"), (server(1), server(2)))
    desired = DesiredTable([bad, row(DNS, server(1, weight=-1), server(2))])
    for _ in range(2):
        plan = table.plan(desired)
        count, failures = table.apply(plan.edits, LONG_S)
        table.plan_applied(desired)
        assert count == len(plan.edits)
        assert [failure.partition(": refused: ")[0] for failure in failures] == [
            "TCP 192.0.2.1:80: added, scheduler no-such",
            "UDP 192.0.2.1:53 -> 10.0.0.1:80: added, weight -1, method DR",
        ]
        assert "no scheduler 'no-such'" in failures[0]
    assert [each.destination for each in director.service(DNS).destinations] == [server(2)]
    better = DesiredTable([row(WEB, server(1)), replace(desired.rows[1], destinations=(server(2),))])
    carry_out(table, better)
    assert director.service(WEB).destinations[0].destination == server(1)
    assert director.reads == 1


@pytest.mark.parametrize("last", [(), (server(1, weight=0),)], ids=["deleted", "quiesced"])
@pytest.mark.parametrize("budget_s", [0.0, LONG_S], ids=["in slices", "at once"])
def test_the_last_server_stays_while_its_successor_is_refused(
    last: tuple[Destination, ...],
    budget_s: float,
    director: Watched,
    table: TableCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a sorry server, if the table has no space for the server that has recovered."""
    carry_out(table, DesiredTable([row(WEB, server(1), server(9, weight=0)), row(DNS, server(1))]))
    desired = DesiredTable([row(WEB, *last, server(2)), row(DNS)])

    def full(key: ServiceKey, destination: Destination) -> None:
        raise NoSpace("the table is full")

    with monkeypatch.context() as patched:
        patched.setattr(director, "add_destination", full)
        for _ in range(2):
            rest, failures = table.plan(desired).edits, list[str]()
            while rest:
                count, refused = table.apply(rest, budget_s)
                rest, failures = rest[count:], failures + refused
            table.plan_applied(desired)
            assert [each.destination for each in director.service(WEB).destinations] == [server(1)]
            assert director.service(DNS).destinations == ()
            assert len(failures) == 2
            assert failures[1].endswith(": refused: the service would have no usable destination")
    carry_out(table, desired)
    assert {each.destination for each in director.service(WEB).destinations} == {*last, server(2)}


@pytest.mark.parametrize("budget_s", [LONG_S, 0], ids=["at once", "in slices"])
def test_a_new_service_gets_no_server_while_its_client_rules_are_refused(
    director: Watched, table: TableCache, monkeypatch: pytest.MonkeyPatch, budget_s: float
) -> None:
    """Its servers would serve the clients that the rules deny. A service that has servers keeps them."""
    monkeypatch.setattr("pylvs.daemon.table.cache.WHOLE_S", budget_s)
    carry_out(table, DesiredTable([row(DNS, server(1))]))
    ruled = replace(row(WEB, server(1)), client_rules=(rule_of(["deny", "10.0.0.0/8"]),))
    old = replace(row(DNS, server(1), server(2)), client_rules=ruled.client_rules)
    desired = DesiredTable([ruled, old])

    def full(*_: object) -> None:
        raise NoSpace("planted")

    with monkeypatch.context() as patch:
        patch.setattr(director, "change_client_rules", full)
        for _ in range(2):  # the next plan finds the service in the table
            rest, failures = table.plan(desired).edits, list[str]()
            while rest:
                count, refused = table.apply(rest, budget_s)
                rest, failures = rest[count:], failures + refused
            table.plan_applied(desired)
            assert [each.partition(": client rules")[0] for each in failures] == [str(WEB), str(DNS)]
            assert director.service(WEB).destinations == ()
            assert len(director.service(DNS).destinations) == 2
            assert table.missing(desired)[WEB] == {server(1).key}
    carry_out(table, desired)
    assert len(director.service(WEB).destinations) == 1
    assert nothing_to_do(carry_out(table, desired))


def test_a_refused_removal_of_a_service_is_tried_again(
    director: Watched, table: TableCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, web = frozenset({WEB, DNS}), row(WEB)
    carry_out(table, DesiredTable([web, row(DNS)], both))

    def refused(_: ServiceKey) -> None:
        raise Busy("not now")

    with monkeypatch.context() as patched:
        patched.setattr(director, "delete_service", refused)
        for _ in range(2):
            assert texts(carry_out(table, DesiredTable([web], both))) == ["UDP 192.0.2.1:53: removed"]
    assert texts(carry_out(table, DesiredTable([web], both))) == ["UDP 192.0.2.1:53: removed"]
    assert {each.service.key for each in director.services()} == {WEB}
    assert nothing_to_do(carry_out(table, DesiredTable([web], both)))


def test_a_service_that_replaces_another_leaves_none_of_its_rows(director: Watched, table: TableCache) -> None:
    """Also if the daemon owns as many services as before, as after an incomplete reload."""
    ours, web = frozenset({WEB, DNS, MARK}), row(WEB)
    carry_out(table, DesiredTable([web, row(DNS)], ours))
    assert texts(carry_out(table, DesiredTable([web, row(MARK)], ours))) == [
        "FWM 7: added, scheduler wlc",
        "UDP 192.0.2.1:53: removed",
    ]
    assert {each.service.key for each in director.services()} == {WEB, MARK}


@pytest.mark.usefixtures("patient")
def test_edits_come_in_slices_but_a_new_service_is_complete(director: Watched, table: TableCache) -> None:
    director.add_service(VirtualService(MARK))
    plan = table.plan(DesiredTable([row(WEB, server(1), server(2)), row(DNS, server(3))]))
    assert table.apply(plan.edits, 0) == (3, [])
    assert {each.service.key: len(each.destinations) for each in director.services()} == {MARK: 0, WEB: 2}
    assert table.apply(plan.edits[3:], LONG_S) == (2, [])
    assert [len(each.destinations) for each in director.services()] == [0, 2, 1]


@pytest.mark.usefixtures("patient")
def test_a_whole_new_table_is_one_slice(director: Watched, table: TableCache) -> None:
    plan = table.plan(DesiredTable([row(WEB, server(1), server(2)), row(DNS, server(3))]))
    assert table.apply(plan.edits, 0) == (5, [])


def test_edits_that_take_long_come_in_slices(
    director: Watched, table: TableCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that edits the table must show progress."""
    monkeypatch.setattr("pylvs.daemon.table.cache.WHOLE_S", 0)
    plan = table.plan(DesiredTable([row(WEB, server(1), server(2)), row(DNS, server(3))]))
    assert table.apply(plan.edits, 0) == (1, [])
    assert table.apply(plan.edits[1:], 0) == (1, [])


def test_services_of_checks_stay_while_desired_and_are_deleted_after_a_crash(
    director: Watched, table: TableCache
) -> None:
    kept, left = ServiceKey.of_mark(FIRST_PROBE_MARK), ServiceKey.of_mark(FIRST_PROBE_MARK + 1)
    director.add_service(VirtualService(left))
    desired = DesiredTable([row(WEB, server(1)), row(kept, server(1))])
    carry_out(table, desired)
    for _ in range(2):  # by a plan that looks at the whole table, and by one that does not
        assert {each.service.key for each in director.services()} == {WEB, kept}
        assert nothing_to_do(carry_out(table, desired))
    carry_out(table, DesiredTable([], owned=[WEB]))
    assert director.services() == []
