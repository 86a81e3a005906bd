"""The buckets of sh agree with the example of IPVS-SEMANTICS 3.13 and with the reference."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from pylvs.bpf import abi
from pylvs.dataplane.scheduler_tables import bucket_positions
from pylvs.model.service import Destination, DestinationKey
from pylvs.reference.schedulers.hashing import SourceHashing
from pylvs.reference.server import Server

WEIGHTS = st.one_of(st.integers(0, 9), st.sampled_from([255, 256, 257, 65536, (1 << 31) - 1]))


def of_reference(weights: list[int]) -> list[int]:
    servers = [
        Server(Destination(DestinationKey(ip_address(number + 1), 80), weight=weight))
        for number, weight in enumerate(weights)
    ]
    filled = SourceHashing(servers)._filled()
    return [servers.index(each) for each in filled]


def test_the_example_seen_on_ipvs() -> None:
    found = bucket_positions([2, 3, 4])
    assert len(found) >= abi.constant("SH_BUCKETS")
    assert found[:9].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert found[9:18] == found[:9]


def test_an_empty_list_has_no_buckets() -> None:
    assert not bucket_positions([])


@given(st.lists(WEIGHTS, min_size=1, max_size=300))
def test_buckets_are_those_of_the_reference(weights: list[int]) -> None:
    assert bucket_positions(weights)[: abi.constant("SH_BUCKETS")].tolist() == of_reference(weights)
