"""The sender of a packet to a virtual address, behind the headers of a tunnel."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.doctor.kernel.sniffer import sender

CLIENT, VIP = ip_address("172.16.0.5"), ip_address("10.0.0.100")
INNER = bytes([0x45]) + bytes(11) + CLIENT.packed + VIP.packed
OUTER = bytes([0x45]) + bytes(11) + ip_address("10.0.0.10").packed + ip_address("10.0.11.21").packed


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
