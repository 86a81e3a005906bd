"""What the doctor concludes from the octets of a packet: its sender, its ports, and whose tunnel it is."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.doctor.kernel import sniffer
from pylvs.doctor.kernel.sniffer import client_tunnel, segment, sender

CLIENT, VIP = ip_address("172.16.0.5"), ip_address("10.0.0.100")
DIRECTOR = ip_address("10.0.0.10")
INNER = bytes([0x45]) + bytes(11) + CLIENT.packed + VIP.packed
OUTER = bytes([0x45]) + bytes(11) + DIRECTOR.packed + ip_address("10.0.11.21").packed


def test_the_header_with_the_virtual_address_counts() -> None:
    """Without a tunnel, in IPIP, in GRE, and behind UDP; the same octets elsewhere are no header."""
    for headers in (b"", OUTER, OUTER + bytes(4), OUTER + bytes(12)):
        assert sender(headers + INNER, VIP) == CLIENT
    assert sender(OUTER + VIP.packed, VIP) is None
    assert sender(OUTER + bytes(8), VIP) is None


def test_ipv6() -> None:
    """The source of IPv6 is in the 16 octets before the destination."""
    client, vip = ip_address("fd00:172::5"), ip_address("fd00:10::100")
    header = bytes([0x60]) + bytes(7) + client.packed + vip.packed
    assert sender(header, vip) == sender(OUTER + header, vip) == client


def test_a_directors_own_question_is_no_clients_tunnel() -> None:
    """A doctor on the director tries kinds of tunnels that it does not use."""
    gre = bytes([0x45]) + bytes(8) + bytes([47, 0, 0]) + OUTER[12:] + bytes(4)
    question = bytes([0x45]) + bytes(11) + DIRECTOR.packed + VIP.packed + bytes(8)
    assert client_tunnel(gre + INNER + bytes(8), [VIP]) == ("gre", DIRECTOR)
    assert client_tunnel(gre + question, [VIP]) is None
    assert client_tunnel(gre + INNER + bytes(8), [CLIENT]) is None


UDP = bytes([0x45]) + bytes(8) + bytes([17, 0, 0]) + OUTER[12:] + bytes(8)
SIX = bytes([0x60]) + bytes(5)
# Parts of packets: headers that name what follows, and first octets that claim a header.
PARTS = st.one_of(
    st.sampled_from([OUTER, INNER, UDP, bytes(4), bytes(12), SIX, b"\x40", b"\x4f", VIP.packed]),
    st.sampled_from([4, 6, 17, 41, 47]).map(lambda each: bytes([0x45]) + bytes(8) + bytes([each]) + bytes(10)),
    st.sampled_from([4, 6, 17, 41, 47]).map(lambda each: SIX + bytes([each]) + bytes(33)),
    st.binary(max_size=64),
)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(UDP + b"PONGOK", id="UDP whose payload seems to be GUE"),
        pytest.param(UDP + bytes(4) + bytes([0x40]) + bytes(8) + bytes([6]) + bytes(8), id="an inner IHL of 0"),
        pytest.param(UDP + bytes(4) + bytes([0x00]) + bytes(5) + bytes([6]) + bytes(60), id="an inner version of 0"),
        pytest.param(UDP + bytes(4) + SIX + bytes([6]) + bytes(20), id="a short inner header of IPv6"),
        pytest.param(bytes([0x41]) + bytes(8) + bytes([6]) + bytes(40), id="an IHL of 1"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_no_packet_of_ip_has_no_segment(data: bytes) -> None:
    """The payload of UDP may be anything."""
    assert segment(data) is None
    assert sniffer._opened_port(data) == 0


@given(st.lists(PARTS, max_size=5).map(b"".join))
def test_no_packet_crashes_the_doctor(data: bytes) -> None:
    """Any host may send anything, and the kernel hands over the beginning."""
    vips = VIP, ip_address("fd00:10::100")
    for read in (segment, sniffer._outer, sniffer._daddr, sniffer._opened_port):
        read(data)
    for vip in vips:
        sender(data, vip)
    client_tunnel(data, vips)
