"""Encode announcements, compared with scapy; parse frames of other hosts, also mangled ones."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from pylvs.vrrp.garp import (
    AddressBinding,
    gratuitous_arp,
    neighbour_advertisement,
    parse_binding,
)

MAC, OTHER = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
V4, V6 = IPv4Address("192.0.2.100"), IPv6Address("2001:db8::100")

macs = st.binary(min_size=6, max_size=6)
unicast_v6 = st.ip_addresses(v=6).filter(lambda address: not address.is_multicast and int(address) != 0)


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


@given(st.ip_addresses(v=4).filter(int), macs)
def test_a_gratuitous_arp_equals_scapy_s_and_is_parsed(address: IPv4Address, mac: bytes) -> None:
    text, broadcast = mac_text(mac), "ff:ff:ff:ff:ff:ff"
    arp = ARP(op=1, hwsrc=text, hwdst=broadcast, psrc=str(address), pdst=str(address))
    frame = gratuitous_arp(address, mac)
    assert frame == bytes(Ether(src=text, dst=broadcast, type=0x0806) / arp)
    assert parse_binding(frame) == AddressBinding(address, mac)


@given(unicast_v6, macs, st.booleans())
def test_a_neighbour_advertisement_equals_scapy_s_and_is_parsed(address: IPv6Address, mac: bytes, router: bool) -> None:
    text = mac_text(mac)
    advertisement = ICMPv6ND_NA(R=int(router), S=0, O=1, tgt=str(address)) / ICMPv6NDOptDstLLAddr(lladdr=text)
    packet = IPv6(src=str(address), dst="ff02::1", hlim=255) / advertisement
    frame = neighbour_advertisement(address, mac, router=router)
    assert frame == bytes(Ether(src=text, dst="33:33:00:00:00:01") / packet)
    assert parse_binding(frame) == AddressBinding(address, mac)


def advertised(limit: int = 255, target: str = str(V6), code: int = 0) -> Packet:
    """An advertisement of another host, without options."""
    packet = IPv6(src="fe80::b", dst="ff02::1", hlim=limit) / ICMPv6ND_NA(tgt=target, code=code)
    return Ether(src=mac_text(OTHER), dst="33:33:00:00:00:01") / packet


def arp(**fields: Any) -> Packet:
    """ARP of another host, with the Ethernet source of a bridge."""
    known: dict[str, Any] = {
        "op": 2,
        "hwsrc": mac_text(OTHER),
        "psrc": str(V4),
        "hwdst": mac_text(MAC),
        "pdst": "192.0.2.1",
    }
    return Ether(src=mac_text(MAC), dst=mac_text(MAC), type=0x0806) / ARP(**(known | fields))


@pytest.mark.parametrize(
    ("frame", "address"),
    [
        (arp(), V4),
        (arp(op=1), V4),
        (arp() / bytes(18), V4),  # Ethernet's padding
        (advertised(), V6),
        (advertised() / ICMPv6NDOptDstLLAddr(lladdr=mac_text(OTHER)), V6),
        (advertised() / ICMPv6NDOptSrcLLAddr(lladdr=mac_text(MAC)), V6),
    ],
    ids=["reply", "request", "padded", "no option", "target option", "another option"],
)
def test_bindings_of_other_hosts_are_parsed(frame: Packet, address: IPv4Address | IPv6Address) -> None:
    assert parse_binding(bytes(frame)) == AddressBinding(address, OTHER)


IGNORED = {
    "probe": arp(psrc="0.0.0.0", op=1),
    "another operation": arp(op=3),
    "another link": arp(hwtype=6),
    "routed": advertised(limit=254),
    "code": advertised(code=1),
    "multicast": advertised(target="ff02::1"),
    "unspecified": advertised(target="::"),
    "cut option": advertised() / b"\2\1\2\0",
    "option of no length": advertised() / bytes(8),
    "solicitation": Ether() / IPv6(src="fe80::b", dst="ff02::1", hlim=255) / ICMPv6ND_NS(tgt=str(V6)),
    "extension header": Ether() / IPv6(dst="ff02::1", hlim=255) / IPv6ExtHdrHopByHop() / ICMPv6ND_NA(tgt=str(V6)),
    "UDP": Ether() / IP(dst="192.0.2.1") / UDP(),
}


@pytest.mark.parametrize("frame", IGNORED.values(), ids=IGNORED)
def test_frames_that_hosts_ignore_have_no_binding(frame: Packet) -> None:
    assert parse_binding(bytes(frame)) is None


@pytest.mark.parametrize("whole", [bytes(arp()), bytes(advertised())], ids=["ARP", "IPv6"])
def test_truncated_or_corrupt_frames_have_no_binding(whole: bytes) -> None:
    assert parse_binding(whole) is not None
    assert [parse_binding(whole[:end]) for end in range(len(whole))] == [None] * len(whole)
    assert parse_binding(bytes(advertised())[:-1] + b"\1") is None


@given(st.sampled_from((gratuitous_arp(V4, MAC), neighbour_advertisement(V6, MAC, router=True))), st.data())
def test_mangled_frames_are_parsed_or_ignored(frame: bytes, data: st.DataObject) -> None:
    mangled = bytearray(frame)
    for at in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=4)):
        mangled[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(frame)))
    found = parse_binding(bytes(mangled[:end]) + data.draw(st.binary(max_size=40)))
    assert found is None or (len(found.mac) == 6 and int(ip_address(found.address)) != 0)
