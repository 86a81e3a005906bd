"""Requests with a VLAN tag, as a packet socket on the card receives them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from pylvs.doctor.probes.data_plane.vlans import is_received
from pylvs.doctor.wire import packets
from pylvs.doctor.wire.tags import Asked, decoded
from pylvs.netlink.links import ETH_P_8021AD, ETH_P_8021Q, Device

CLIENT, VIP = ip_address("10.0.0.5"), ip_address("10.0.0.100")
MAC = bytes.fromhex("020000000c00")
REQUEST = packets.who_has(VIP, MAC, CLIENT)[14:]
ASKED = Asked(2, ETH_P_8021Q, 10, CLIENT, VIP)


def auxiliary(tag: int, status: int = 0x51, protocol: int = ETH_P_8021Q) -> list[tuple[int, int, bytes]]:
    """Return what the kernel has beside a packet: struct tpacket_auxdata."""
    return [(263, 8, struct.pack("=IIIHHHH", status, 60, 60, 0, 14, tag, protocol))]


def test_a_request_has_its_vlan_without_the_priority() -> None:
    """The three upper bits of a tag are a priority."""
    assert decoded(REQUEST, auxiliary(0xA00A), 2) == ASKED


@pytest.mark.parametrize(
    ("data", "beside"),
    [
        pytest.param(REQUEST, auxiliary(10, status=0x1), id="without a tag"),
        pytest.param(REQUEST, auxiliary(0xA000), id="a priority alone"),
        pytest.param(REQUEST, [], id="nothing beside it"),
        pytest.param(REQUEST, [(263, 8, b"short")], id="cut off beside it"),
        pytest.param(REQUEST[:12], auxiliary(10), id="cut off"),
        pytest.param(REQUEST[:6] + b"\0\2" + REQUEST[8:], auxiliary(10), id="a reply"),
        pytest.param(b"", auxiliary(10), id="empty"),
    ],
)
def test_other_packets_are_none(data: bytes, beside: list[tuple[int, int, bytes]]) -> None:
    """Any host of the link may send them."""
    assert decoded(data, beside, 2) is None


CARD = Device(2, "eth0", MAC, "", True, False, 1500, 0, 0, ())
VLAN = Device(3, "eth0.10", MAC, "vlan", True, False, 1500, 0, 2, (), vlan_protocol=ETH_P_8021Q, vid=10)
OTHER = Device(4, "eth0.11", MAC, "vlan", True, False, 1500, 0, 2, (), vlan_protocol=ETH_P_8021Q, vid=11)
STACKED = Device(5, "eth0.s10", MAC, "vlan", True, False, 1500, 0, 2, (), vlan_protocol=ETH_P_8021AD, vid=10)
PORT = Device(2, "eth0", MAC, "", True, False, 1500, 9, 0, ())


@pytest.mark.parametrize(
    ("devices", "received"),
    [
        ([CARD], False),
        ([CARD, VLAN], True),
        ([CARD, OTHER, STACKED], False),
        ([PORT], True),  # the bridge or bond receives its frames
    ],
    ids=["no VLAN device", "its own", "others", "a port"],
)
def test_a_tag_is_received_by_its_device(devices: list[Device], received: bool) -> None:
    """A device of another VLAN, or of the other kind of tags, does not receive the frame."""
    assert is_received(ASKED, devices) is received
