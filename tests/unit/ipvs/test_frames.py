"""The ends of captured packets."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from pylvs.ipvs.frames import ends_of, may_open, shortened

FOUR = IP(src="192.0.2.5", dst="192.0.2.1")
SIX = IPv6(src="2001:db8::5", dst="2001:db8::1")


@pytest.mark.parametrize("network", [FOUR, SIX, IP(src="192.0.2.5", dst="192.0.2.1", options=[b"\x01" * 4])])
@pytest.mark.parametrize(("transport", "protocol"), [(TCP(sport=1000, dport=80), 6), (UDP(sport=1000, dport=80), 17)])
def test_the_ends_are_those_of_the_headers(network: Packet, transport: Packet, protocol: int) -> None:
    found = ends_of(bytes(Ether() / network / transport))
    assert found == (protocol, ip_address(network.src).packed, 1000, ip_address(network.dst).packed, 80)
    assert found.reversed == (protocol, ip_address(network.dst).packed, 80, ip_address(network.src).packed, 1000)


@pytest.mark.parametrize(
    "packet",
    [ARP(), FOUR, IP(src="192.0.2.5", dst="192.0.2.1", frag=5) / UDP(), IP(proto=1) / Raw(bytes(20)), Raw(b"")],
)
def test_packets_without_ports_have_no_ends(packet: Packet) -> None:
    assert ends_of(bytes(Ether() / packet)) is None


def test_truncated_packets_have_no_ends() -> None:
    frame = bytes(Ether() / FOUR / TCP())
    for length in range(14 + 20 + 8):
        assert ends_of(frame[:length]) is None


@pytest.mark.parametrize(("flags", "opens"), [("S", True), ("SA", True), ("A", False), ("SR", False), ("F", False)])
@pytest.mark.parametrize("network", [FOUR, SIX])
def test_a_syn_may_open_a_connection(network: Packet, flags: str, opens: bool) -> None:
    assert may_open(bytes(Ether() / network / TCP(flags=flags)), 6) == opens


@pytest.mark.parametrize("network", [FOUR, SIX])
def test_a_merged_packet_is_cut_to_the_length_of_a_link(network: Packet) -> None:
    frame = bytes(Ether() / network / TCP() / Raw(bytes(5000)))
    cut = shortened(frame)
    assert len(cut) == 1514
    assert ends_of(cut) == ends_of(frame)
    fresh = Ether(cut)
    if network is FOUR:
        assert fresh[IP].len == 1500
        sum_before = fresh[IP].chksum
        del fresh[IP].chksum
        assert Ether(bytes(fresh))[IP].chksum == sum_before
    else:
        assert fresh[IPv6].plen == 1460
    assert shortened(cut) == cut
