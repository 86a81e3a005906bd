"""Segments of TCP between a client and a virtual address, as packets."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.doctor.wire import packets
from pylvs.model.addresses import Address
from pylvs.reference.packet import TCP

CLIENT, VIP = ip_address("172.16.0.5"), ip_address("10.0.0.100")
CLIENT_6, VIP_6 = ip_address("fd00:172::5"), ip_address("fd00:10::100")
SYN, SYN_ACK, RST, ACK = 0x02, 0x12, 0x14, 0x10


def tcp(saddr: Address, sport: int, daddr: Address, dport: int, flags: int) -> bytes:
    """Return a packet of TCP without data."""
    ports = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    return packets.packet(1, saddr, daddr, (TCP, ports + bytes(8) + bytes([0x50, flags]) + bytes(6)))
