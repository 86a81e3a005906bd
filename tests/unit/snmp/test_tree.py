"""The order of objects: GET, GETNEXT and GETBULK as RFC 3416 defines them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylvs.snmp.agentx import Kind, Message, Oid, Pdu, SearchRange, Value
from pylvs.snmp.tree import MAX_BINDS, Tree

OIDS = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
TREES = st.dictionaries(OIDS, st.integers(0, 9).map(lambda number: Value(Kind.INTEGER, number)))
ONE: dict[Oid, Value] = {
    (1, 1, 1): Value(Kind.INTEGER, 1),
    (1, 1, 2): Value(Kind.INTEGER, 2),
    (1, 2, 1): Value(Kind.INTEGER, 3),
}


@given(TREES, OIDS, st.one_of(st.just(()), OIDS), st.booleans())
def test_the_next_object_is_the_least_of_the_range(
    values: dict[Oid, Value], start: Oid, end: Oid, include: bool
) -> None:
    candidates = [name for name in values if (name > start or (include and name == start)) and (not end or name < end)]
    found = Tree(values).next(SearchRange(start, end, include))
    if candidates:
        assert (found.name, found.value) == (min(candidates), values[min(candidates)])
    else:
        assert (found.name, found.value.kind) == (start, Kind.END_OF_MIB_VIEW)


def test_a_missing_object_is_an_instance_only_in_a_column() -> None:
    tree = Tree(ONE)
    assert tree.get((1, 1, 2)).value == Value(Kind.INTEGER, 2)
    assert tree.get((1, 1, 9)).value.kind is Kind.NO_SUCH_INSTANCE
    assert tree.get((1, 5, 1)).value.kind is Kind.NO_SUCH_OBJECT


def test_getbulk_repeats_until_the_end() -> None:
    ranges = (SearchRange((1,)), SearchRange((1, 1)), SearchRange((1, 2)))
    found = Tree(ONE).answer(Message(Pdu.GET_BULK, 1, 2, 3, ranges, non_repeaters=1, repetitions=50))
    assert [each.name for each in found[:5]] == [(1, 1, 1), (1, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 1)]
    assert {each.value.kind for each in found[-2:]} == {Kind.END_OF_MIB_VIEW}


def test_getbulk_is_bounded() -> None:
    many: dict[Oid, Value] = {(1, number): Value(Kind.INTEGER, 0) for number in range(5000)}
    found = Tree(many).answer(Message(Pdu.GET_BULK, 1, 2, 3, (SearchRange((1,)),), repetitions=65535))
    assert len(found) == MAX_BINDS
