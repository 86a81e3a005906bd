"""The tables of mh agree with the vectors of IPVS-SEMANTICS 3.14 and with the reference."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.bpf import abi
from pylvs.dataplane.scheduler_tables import fold, siphash13, slot_positions
from pylvs.dataplane.tables import address_bytes
from pylvs.model.service import Destination, DestinationKey
from pylvs.reference.schedulers.hashing import MaglevHashing
from pylvs.reference.server import Server

KEY_1, KEY_2 = 2654435761, 2654446892
SLOTS = 4093


def folded(address: str, port: int, version: int = 4) -> int:
    return fold(address_bytes(ip_address(address)), port, version)


def of_example(weights: dict[int, int], port: int = 601) -> Counter[int]:
    """Return the number of slots of each 10.0.0.N, added in this order."""
    numbers = list(weights)[::-1]
    found = slot_positions([(folded(f"10.0.0.{number}", port), weights[number]) for number in numbers])
    assert found is not None
    return Counter(numbers[position] for position in found)


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        (0, KEY_1, 0x1D5A77C2),
        (1, KEY_1, 0x16EC66B2),
        (0, KEY_2, 0xF882433F),
        (int(ip_address("10.1.0.1")), KEY_1, 0x37FCE844),
        (int(ip_address("203.0.113.254")), KEY_1, 0xC79CE1DA),
    ],
)
def test_the_hash_is_that_of_ipvs(value: int, key: int, expected: int) -> None:
    assert siphash13(value, key) == expected
    assert {abi.constant("MAGLEV_KEY_1"), abi.constant("MAGLEV_KEY_2")} == {KEY_1, KEY_2}


def test_the_slots_of_the_example_seen_on_ipvs() -> None:
    found = slot_positions(
        [(folded(f"10.0.0.{number}", 601), weight) for number, weight in ((13, 2), (12, 3), (11, 4))]
    )
    assert found is not None
    assert " ".join(str(13 - position) for position in found[:24]) == (
        "13 12 13 13 13 13 13 13 12 11 11 11 12 11 12 12 11 12 11 12 12 13 11 12"
    )
    assert of_example({11: 4, 12: 3, 13: 2}) == {11: 1818, 12: 1365, 13: 910}


def test_great_weights_are_scaled_down() -> None:
    assert of_example({11: 1000, 12: 3, 13: 70}) == {11: 3783, 12: 62, 13: 248}
    assert of_example({11: 2147483647}) == {11: SLOTS}


def test_no_weight_at_all_is_no_table() -> None:
    assert slot_positions([]) is None
    assert slot_positions([(1, 0), (2, 0)]) is None


def test_addresses_are_folded_as_for_the_services_family() -> None:
    six = int(ip_address("2001:db8::1")) >> 96
    assert folded("2001:db8::1", 80, 6) == 0x20010DB9 + 80
    assert folded("2001:db8::1", 80, 4) == six + 80
    assert folded("10.0.0.11", 601, 6) == folded("10.0.0.11", 601, 4) == 167772772
    assert folded("255.255.255.255", 2) == 1


WEIGHTS = st.one_of(st.integers(0, 9), st.sampled_from([0, 64, 100, 1000, 65536, (1 << 31) - 1]))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(1, 1 << 31), WEIGHTS, max_size=40), st.sampled_from([0, 80, 65535]))
def test_tables_are_those_of_the_reference(weights: dict[int, int], port: int) -> None:
    servers = [
        Server.of(Destination(DestinationKey(ip_address(number), port), weight=weight))
        for number, weight in weights.items()
    ]
    expected = MaglevHashing(servers)._built(servers)
    found = slot_positions([(folded(str(server.key.address), port), server.weight) for server in servers])
    assert [servers[position] for position in found or ()] == expected


def test_as_many_destinations_as_slots_have_one_each() -> None:
    found = slot_positions([(folded("10.9.0.0", 80) + number, 1) for number in range(SLOTS)])
    assert found is not None
    assert sorted(found) == list(range(SLOTS))
