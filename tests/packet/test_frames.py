"""The frames that tests send have the checksums that scapy computes."""

from __future__ import annotations

import pytest

from tests.packet.frames import CLIENT4, CLIENT6, summed_anew, tcp, udp
from tests.packet.host import VIP4, VIP6

PORTS = [(0, 0), (1, 80), (65535, 65535), *((sport, 65535 - 7 * sport) for sport in range(1000, 9000, 37))]


@pytest.mark.parametrize(("source", "target"), [(CLIENT4, VIP4), (CLIENT6, VIP6)])
def test_ports_and_checksums_are_right(source: str, target: str) -> None:
    for sport, dport in PORTS:
        for payload in b"", b"odd", bytes(600):
            ends = {"sport": sport, "dport": dport, "source": source, "target": target, "payload": payload}
            for frame in tcp("SA", **ends), udp(**ends):
                assert summed_anew(frame) == frame


def test_a_checksum_of_udp_is_not_zero() -> None:
    """A value of 0 would mean that there is none (RFC 768)."""
    without = udp(0, 0)
    sport = int.from_bytes(without[40:42], "big")
    assert udp(sport, 0)[40:42] == b"\xff\xff"
    assert summed_anew(udp(sport, 0)) == udp(sport, 0)
