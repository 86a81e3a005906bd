"""Instances and addresses for tests."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import MULTICAST_V6, Authentication, Peer, VrrpInstance
from pylvs.vrrp.protocol.adverts import checksum

HERE, THERE = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
HERE_V6, THERE_V6 = IPv6Address("fe80::1"), IPv6Address("fe80::2")
PEERS = (Peer(THERE), Peer(IPv4Address("10.0.0.3")))


def without_pseudo_header(payload: bytes) -> bytes:
    """Return a version 3 payload with a checksum of the payload alone, as old routers send it."""
    plain = payload[:6] + bytes(2) + payload[8:]
    return plain[:6] + checksum(plain).to_bytes(2, "big") + plain[8:]


def held(*addresses: str) -> tuple[HeldAddress, ...]:
    made = (IPv6Interface(address) if ":" in address else IPv4Interface(address) for address in addresses)
    return tuple(HeldAddress(interface=interface) for interface in made)


SECOND = VrrpInstance(name="A", vrid=51, addresses=held("10.0.0.100/24", "10.0.0.101/24"))
THIRD = replace(SECOND, version=3, advert_interval_s=0.5)
SIXTH = replace(THIRD, family=6, addresses=held("fe80::100/64", "fd00::100/64"), multicast=MULTICAST_V6)
PASS = replace(SECOND, authentication=Authentication.PASS, password=b"secret")
SEALED = replace(PASS, authentication=Authentication.AH)
UNICAST = replace(SECOND, peers=PEERS)
UNICAST_THIRD = replace(THIRD, peers=PEERS)
ALL = (SECOND, THIRD, SIXTH, PASS, SEALED, UNICAST, UNICAST_THIRD)
