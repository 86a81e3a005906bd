"""The sender of a packet to a virtual address, behind the headers of a tunnel, and whose tunnel it is."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.doctor.kernel.sniffer import client_tunnel, sender

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
