"""SCTP from other namespaces of this machine, whose checksum the sending device computes: NAT does not.

The sender passes its frame with a virtio header (PACKET_VNET_HDR), which says that a checksum is incomplete. The
receiver's header says whether it still is.
"""

from __future__ import annotations

import socket
import struct
import time

import pytest

from pylvs.model.service import Method, Protocol
from tests.packet.frames import CLIENT4, CLIENT6, chunk, sctp
from tests.packet.host import VIP4, VIP6, Host, server_mac
from tests.packet.test_sctp_bytes import right, transport
from tests.waiting import PATIENCE_S

SOL_PACKET, PACKET_VNET_HDR, ETH_P_ALL, ETH_P_IP, NEEDS_CSUM = 263, 15, 3, 0x0800, 1
HEADER = struct.Struct("=BBHHHH")  # flags, kind of super-packet, header's length, segments' length, start, offset
REAL_PORT = 3900


def wire() -> socket.socket:
    """Return the other end of d0's link."""
    there = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    there.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    there.bind(("d1", ETH_P_ALL))
    there.settimeout(PATIENCE_S)
    return there


def through(frame: bytes, unfinished: bool) -> tuple[bool, bytes]:
    """Send the frame to the director; return whether the forwarded frame is incomplete, and the frame."""
    l4 = 14 + (20 if frame[12:14] == b"\x08\x00" else 40)
    header = HEADER.pack(NEEDS_CSUM, 0, 0, 0, l4, 8) if unfinished else bytes(HEADER.size)
    target = bytes.fromhex(server_mac(1).replace(":", ""))
    with wire() as there:
        there.send(header + frame)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            received = there.recv(4096)
            flags, out = received[0], received[HEADER.size :]
            if out[:6] == target:
                return bool(flags & NEEDS_CSUM), out
    raise AssertionError("nothing came")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("unfinished", [True, False])
@pytest.mark.parametrize("size", [0, 700])
def test_nat_leaves_an_unfinished_checksum_to_the_device(
    director_host: Host, version: int, unfinished: bool, size: int
) -> None:
    client, vip = (CLIENT4, VIP4) if version == 4 else (CLIENT6, VIP6)
    service = director_host.new_key(Protocol.SCTP, vip)
    director_host.serve(service, 1, Method.MASQ, port=REAL_PORT)
    frame = sctp(chunk(1) + bytes(range(250)) * (size // 250), 7300, service.port, client, vip, check=0)
    still, out = through(frame, unfinished)
    body = transport(out)
    assert struct.unpack("!HH", body[:4]) == (7300, REAL_PORT)
    assert body[12:] == transport(frame)[12:]
    assert still == unfinished
    assert body[8:12] == bytes(4) if unfinished else right(body)
