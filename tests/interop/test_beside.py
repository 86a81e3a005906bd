"""The comparison with the real IPVS forwards every packet, in a kernel that has IPVS. The test asserts no speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.beside import traffic
from bench.beside.measure import Found
from bench.beside.ways import DR, NAT
from tests.interop import beside, guests

KERNEL = "6.12"
WAYS = ("ipvs", "nftables", "pylvs_xdp")
CAN = {"ipvs": {DR, NAT}, "nftables": {NAT}, "pylvs_xdp": {DR, NAT}}


@pytest.mark.nightly(
    "its figures are not judged; test_live.py has the real IPVS forward, test_kernels.py boots this kernel"
)
@pytest.mark.timeout(beside.GUEST_S + guests.FETCHING_S + 30)
def test_every_packet_arrives_through_ipvs_nftables_and_pylvs(tmp_path: Path) -> None:
    words = beside.words(traffic.compile_traffic(tmp_path), "--quick", *(f"--way={way}" for way in WAYS))
    done = guests.run_or_skip(KERNEL, *words, options=beside.OPTIONS, seconds=beside.GUEST_S)
    found: Found = beside.read(KERNEL, done)
    assert found.missing == {}
    assert {way: set(methods) for way, methods in found.taken.items()} == CAN
    kinds = {each.name for each in traffic.KINDS} | {"frame_udp", "frame_tcp"}
    for methods in found.taken.values():
        for method, taken in methods.items():
            assert set(taken) == (kinds | {"answer_udp", "answer_tcp"} if method == NAT else kinds)
            assert [name for name, each in taken.items() if each.arrived != each.sent or each.sent <= 0] == []
            assert [name for name, each in taken.items() if each.median_ns <= 0] == []
