"""Edits lead from any table to any desired one, are as few as possible, and change nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from pylvs.daemon.table.cache import (
    DestinationEdit,
    Edit,
    ServiceEdit,
    required_edits,
    snapshot_of,
)
from pylvs.model.director import Director
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.model.wanted import WantedRow
from tests.memory import MemoryDirector

KEYS = [
    *(
        ServiceKey(protocol, ip_address("192.0.2.1"), port)
        for protocol in (Protocol.TCP, Protocol.UDP)
        for port in (80, 443)
    ),
    ServiceKey.of_mark(7),
]
WEB = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)


def server(number: int, weight: int = 1) -> Destination:
    return Destination(DestinationKey(ip_address(f"10.0.0.{number}"), 80), weight=weight)


destinations = st.builds(
    Destination,
    st.integers(1, 5).map(lambda number: server(number).key),
    st.sampled_from([Method.ROUTE, Method.MASQ]),
    st.integers(0, 3),
)
services = st.builds(
    VirtualService,
    st.sampled_from(KEYS),
    st.sampled_from(["wlc", "rr"]),
    st.sampled_from([ServiceFlag(0), ServiceFlag.PERSISTENT]),
    st.sampled_from([0, 60]),
    st.sampled_from([-1, 0xFFFFFFFF, 0xFFFFFF00]),
)
rows = st.builds(WantedRow, services, st.lists(destinations, max_size=6).map(tuple))
tables = st.lists(rows, max_size=6)


def table(director: Director) -> dict[ServiceKey, tuple[VirtualService, frozenset[Destination]]]:
    return {
        row.service.key: (
            replace(row.service, netmask=row.service.mask),
            frozenset(each.destination for each in row.destinations),
        )
        for row in director.services()
    }


def as_table(wanted: Sequence[WantedRow]) -> dict[ServiceKey, tuple[VirtualService, frozenset[Destination]]]:
    """Return the desired table, where the first row and the first destination of a key count."""
    found = {}
    for row in reversed(wanted):
        first = {each.key: each for each in reversed(row.destinations)}
        found[row.service.key] = (replace(row.service, netmask=row.service.mask), frozenset(first.values()))
    return found


def filled(wanted: Sequence[WantedRow]) -> MemoryDirector:
    director = MemoryDirector()
    apply(director, required_edits({}, wanted))
    return director


def apply(director: MemoryDirector, todo: Sequence[Edit]) -> None:
    for edit in todo:
        edit.apply(director)


def todo_for(
    director: MemoryDirector, wanted: Sequence[WantedRow], ours: Collection[ServiceKey] = (), exclusive: bool = False
) -> tuple[Edit, ...]:
    return required_edits(snapshot_of(director.services()), wanted, ours, exclusive)


@given(tables, tables, st.sets(st.sampled_from(KEYS)), st.booleans())
def test_the_desired_services_are_added_and_foreign_ones_stay(
    before: list[WantedRow], wanted: list[WantedRow], ours: set[ServiceKey], exclusive: bool
) -> None:
    director = filled(before)
    had = table(director)
    assert had == as_table(before)
    todo = todo_for(director, wanted, ours, exclusive)
    apply(director, todo)
    foreign = {} if exclusive else {key: row for key, row in had.items() if key not in ours}
    assert table(director) == {**foreign, **as_table(wanted)}
    assert todo_for(director, wanted, ours, exclusive) == ()
    assert [edit for edit in todo if had.get(edit.key) == table(director).get(edit.key)] == []


@given(tables, tables)
def test_a_correct_table_gets_no_edit(before: list[WantedRow], wanted: list[WantedRow]) -> None:
    director = filled(before)
    had, want = table(director), as_table(wanted)
    todo = todo_for(director, wanted, KEYS)
    for edit in todo:
        match edit:
            case ServiceEdit(key, None):
                assert key not in want
            case ServiceEdit(key, _, None):
                assert key not in had
            case DestinationEdit(key, name, None):
                assert name not in {each.key for each in want[key][1]}
            case DestinationEdit(key, name, _, None):
                assert name not in {each.key for each in had.get(key, (None, frozenset()))[1]}
            case DestinationEdit(key, _, destination, found):
                assert found != destination
                assert found in had[key][1]
    assert len(todo) == len(set(todo))


@given(tables, tables)
def test_a_service_has_a_server_while_either_table_gives_it_one(
    before: list[WantedRow], wanted: list[WantedRow]
) -> None:
    director = filled(before)

    def serving(found: dict[ServiceKey, tuple[VirtualService, frozenset[Destination]]]) -> set[ServiceKey]:
        return {key for key, (_, servers) in found.items() if any(each.weight for each in servers)}

    always = serving(table(director)) & serving(as_table(wanted))
    for edit in todo_for(director, wanted, KEYS):
        edit.apply(director)
        assert always <= serving(table(director)), edit


@given(tables, tables)
def test_a_snapshot_matches_the_table_after_each_edit(before: list[WantedRow], wanted: list[WantedRow]) -> None:
    director = filled(before)
    image = snapshot_of(director.services())
    for edit in todo_for(director, wanted, KEYS):
        edit.apply(director)
        edit.apply_to(image)
        assert image == snapshot_of(director.services())
    assert required_edits(image, wanted, KEYS) == ()


def test_a_changed_scheduler_is_an_edit_of_the_service_alone() -> None:
    director = filled([WantedRow(VirtualService(WEB, "rr"), (server(1), server(2)))])
    (edit,) = todo_for(director, [WantedRow(VirtualService(WEB, "wlc"), (server(1), server(2)))])
    assert str(edit) == "TCP 192.0.2.1:80: scheduler rr -> wlc"


def test_the_text_of_edits() -> None:
    persistent = VirtualService(WEB, "wlc", ServiceFlag.PERSISTENT, 60, 0xFFFFFF00)
    director = filled([WantedRow(persistent, (server(1), server(2), server(3)))])
    wanted = WantedRow(VirtualService(WEB, "wlc"), (server(2, 5), replace(server(3), method=Method.MASQ), server(4)))
    assert [str(edit) for edit in todo_for(director, [wanted])] == [
        "TCP 192.0.2.1:80: persistence 60 s -> none, granularity 255.255.255.0 -> none",
        "TCP 192.0.2.1:80 -> 10.0.0.4:80: added, weight 1, method DR",
        "TCP 192.0.2.1:80 -> 10.0.0.2:80: weight 1 -> 5",
        "TCP 192.0.2.1:80 -> 10.0.0.3:80: method DR -> NAT",
        "TCP 192.0.2.1:80 -> 10.0.0.1:80: removed",
    ]
