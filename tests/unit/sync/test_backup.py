"""Between the process that receives and the tables: every field is checked, and a flood is bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.sync.connection import SyncedConnection
from pylvs.sync import records
from pylvs.sync.receiver import CALM_SLICES, MOST_USELESS, Flood
from pylvs.system.processes.channel import MAX_PACKET, BadMessage
from tests.unit.sync.test_wire import connections

_PLAIN: list[Any] = [6, "c0000201", 1, "c0000202", 80, "c0000203", 80, 3, 1, 60, 0, "", "", ""]


@given(st.lists(connections(), max_size=records.AT_ONCE))
def test_connections_pass_between_the_processes(found: list[SyncedConnection]) -> None:
    message = json.dumps(records.encode(found))
    assert len(message) < MAX_PACKET
    assert records.decode(json.loads(message)) == found


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.text(max_size=40),
    st.lists,
    max_leaves=5,
)


@given(st.integers(0, len(_PLAIN) - 1), _ANY)
def test_a_forged_field_is_refused_or_a_connection(at: int, value: Any) -> None:
    try:
        (found,) = records.decode([[*_PLAIN[:at], value, *_PLAIN[at + 1 :]]])
    except BadMessage:
        return
    assert 0 <= found.protocol <= 255
    assert all(0 <= port <= 65535 for port in (found.client_port, found.virtual_port, found.server_port, found.state))
    assert found.client.version == found.virtual.version == found.server.version
    assert found.timeout_s is None or 0 <= found.timeout_s < 1 << 32


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 256),
        (0, True),
        (1, "c000020"),
        (1, "20010db8000000000000000000000001"),
        (2, 65536),
        (7, -1),
        (9, 1.5),
        (11, "00"),
        (12, "sip"),
        (13, "00"),
        (13, 7),
    ],
)
def test_a_wrong_field_is_refused(at: int, value: Any) -> None:
    with pytest.raises(BadMessage):
        records.decode([[*_PLAIN[:at], value, *_PLAIN[at + 1 :]]])


@pytest.mark.parametrize("found", [None, {}, [None], [[]], [_PLAIN[:-1]], [_PLAIN] * (records.AT_ONCE + 1)])
def test_what_is_no_list_of_connections_is_refused(found: Any) -> None:
    with pytest.raises(BadMessage):
        records.decode(found)


def test_a_flood_ends_the_reading_of_a_slice() -> None:
    flood = Flood()
    assert [flood.count() for _ in range(MOST_USELESS)].index(True) == MOST_USELESS - 1
    assert flood.filtered
    flood.next_slice(0)
    assert not flood.over
    assert flood.filtered


def test_the_filter_stays_while_the_kernel_drops() -> None:
    flood = Flood()
    for _ in range(MOST_USELESS):
        flood.count()
    for _ in range(3 * CALM_SLICES):
        flood.next_slice(MOST_USELESS)
        assert flood.filtered
    for _ in range(CALM_SLICES - 1):
        flood.next_slice(MOST_USELESS - 1)
    assert flood.filtered
    flood.next_slice(0)
    assert not flood.filtered
