"""Cursors follow the edits of their list. tests/packet compares them with the packet path."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.bpf import abi
from pylvs.dataplane.destinations import Weights, cursor_after, followed, pack_member
from pylvs.dataplane.tables import ListStep
from pylvs.model.service import Destination, DestinationKey

STATELESS = ["SCHED_NONE", "SCHED_LC", "SCHED_WLC"]


def version(scheduler: str, edit: str, list_version: int, **fields: int) -> dict[str, Any]:
    return {
        "scheduler": abi.constant(scheduler),
        "edit": abi.constant(edit),
        "list_version": list_version,
        "edit_position": 0,
        "gcd": 1,
        "max_weight": 1,
        **fields,
    }


def rr(list_version: int, position: int) -> int:
    return (list_version & 0xFFFF) << 32 | position


def wrr(list_version: int, position: int, weight: int) -> int:
    return (list_version & 0x1FFF) << 51 | position << 31 | weight


@pytest.mark.parametrize("scheduler", STATELESS)
@given(cursor=st.integers(0, (1 << 64) - 1))
def test_schedulers_without_state_leave_the_word_alone(scheduler: str, cursor: int) -> None:
    assert followed(cursor, version(scheduler, "LIST_ADD", 5)) == cursor


@pytest.mark.parametrize(
    ("edit", "deleted", "before", "after"),
    [
        ("LIST_INIT", 0, 3, 0),
        ("LIST_ADD", 0, 0, 0),
        ("LIST_ADD", 0, 3, 4),
        ("LIST_DELETE", 0, 0, 0),
        ("LIST_DELETE", 1, 3, 2),
        ("LIST_DELETE", 2, 3, 2),
        ("LIST_DELETE", 3, 3, 3),
        ("LIST_UPDATE", 1, 3, 3),
        ("LIST_SAME", 0, 3, 3),
    ],
)
def test_rr_keeps_its_mark(edit: str, deleted: int, before: int, after: int) -> None:
    for number in 7, 0xFFFF, 0x10000, 0x1FFFF:
        found = followed(rr(number - 1, before), version("SCHED_RR", edit, number, edit_position=deleted))
        assert found == rr(number, after)


@pytest.mark.parametrize(
    ("edit", "gcd", "most", "weight", "after"),
    [
        ("LIST_INIT", 1, 6, 2, 6),
        ("LIST_ADD", 1, 6, 2, 2),
        ("LIST_ADD", 1, 6, 7, 6),
        ("LIST_ADD", 1, 6, 0, 6),
        ("LIST_DELETE", 2, 5, 4, 5),
        ("LIST_UPDATE", 4, 9, 3, 1),
        ("LIST_UPDATE", 1, 0, 3, 0),
    ],
)
def test_wrr_starts_at_the_head_with_a_weight_that_the_new_ones_allow(
    edit: str, gcd: int, most: int, weight: int, after: int
) -> None:
    for number in 7, 0x1FFF, 0x2000:
        fields = version("SCHED_WRR", edit, number, gcd=gcd, max_weight=most)
        assert followed(wrr(number - 1, 3, weight), fields) == wrr(number, 0, after)


@pytest.mark.parametrize("scheduler", ["SCHED_RR", "SCHED_WRR"])
@pytest.mark.parametrize("edit", ["LIST_INIT", "LIST_ADD", "LIST_DELETE", "LIST_UPDATE", "LIST_SAME"])
@given(cursor=st.integers(0, (1 << 64) - 1), number=st.integers(0, (1 << 32) - 1), gcd=st.integers(1, 100))
def test_to_follow_twice_is_to_follow_once(scheduler: str, edit: str, cursor: int, number: int, gcd: int) -> None:
    fields = version(scheduler, edit, number, gcd=gcd, max_weight=1000)
    once = followed(cursor, fields)
    assert followed(once, fields) == once


def member(weight: int) -> bytes:
    return pack_member(0, Destination(DestinationKey(ip_address("10.0.0.1"), 80), weight=weight))


CHANGES = st.lists(
    st.tuples(st.sampled_from(["DELETE", "UPDATE", "ADD"]), st.integers(0, 9), st.integers(0, 12)), min_size=1
)


@pytest.mark.parametrize("scheduler", ["SCHED_RR", "SCHED_WRR"])
@given(
    weights=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    changes=CHANGES,
    at=st.tuples(*[st.integers(0, 12)] * 2),
)
def test_many_changes_at_once_leave_the_cursor_where_single_ones_do(
    scheduler: str, weights: list[int], changes: list[tuple[str, int, int]], at: tuple[int, int]
) -> None:
    """wrr clamps its weight by the weights in each of the lists, also of one that packets never see."""
    members = [member(weight) for weight in weights]
    summary, steps = Weights(b"".join(members)), list[ListStep]()
    before = single = version(scheduler, "LIST_ADD", 7, **summary.fields)
    cursor = found = rr(7, at[0]) if scheduler == "SCHED_RR" else wrr(7, *at)
    for kind, number, weight in changes:
        if kind != "ADD" and not members:
            continue
        position = number % len(members) if kind != "ADD" else 0
        fresh = [] if kind == "DELETE" else [member(weight)]
        former = [] if kind == "ADD" else [members[position]]
        members[position : position + len(former)] = fresh
        summary.replace(b"".join(former), b"".join(fresh))
        assert summary.fields == Weights(b"".join(members)).fields
        steps.append(ListStep(f"LIST_{kind}", position, **summary.fields))
        cursor = followed(cursor, single)
        single = single | summary.fields | {"list_version": single["list_version"] + 1, "edit_position": position}
        single["edit"] = abi.constant(steps[-1].change)
    if not steps:
        return
    fields = before | summary.fields
    found = followed(cursor_after(found, before, fields, steps), fields)
    assert without_version(scheduler, found) == without_version(scheduler, followed(cursor, single))


def without_version(scheduler: str, cursor: int) -> int:
    """Return a cursor without the version of its list."""
    return cursor & 0xFFFFFFFF if scheduler == "SCHED_RR" else cursor & (1 << 51) - 1
