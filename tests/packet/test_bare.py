"""Devices without link addresses: a client behind a tunnel or a VPN. The test is the other end of a tun device."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from pylvs.dataplane.devices import attach, attachments
from pylvs.model.errors import InvalidOperation
from pylvs.model.service import Method
from tests.packet.host import MAC, VIP4, Host, ip, server4, server_mac
from tests.waiting import PATIENCE_S

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000
CLIENT = "10.99.0.2"


@contextmanager
def tun(name: str) -> Iterator[int]:
    """Return the descriptor of a new tun device: the test writes packets that come in, and reads those that leave."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
        ip("addr", "add", "10.99.0.1/24", "dev", name)
        ip("link", "set", name, "up")
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def host(director_host: Host) -> Host:
    return director_host


def wire() -> socket.socket:
    """Return a socket at the far end of d0."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    end.bind(("d1", 0))
    return end


def attached(host: Host) -> None:
    with host.director.batch():
        attachments.request(host.director.tables, "t0", "auto")


def arriving(descriptor: int, wanted: type[TCP | UDP] = TCP) -> bytes:
    """Return the next TCP or UDP packet that can be read there."""
    end = time.monotonic() + PATIENCE_S
    while select.select([descriptor], [], [], max(end - time.monotonic(), 0))[0]:
        data = os.read(descriptor, 4096)
        if wanted in (IP(data) if data[0] >> 4 == 4 and data[9] in (6, 17) else Ether(data)):
            return data
    raise AssertionError("nothing came")


def test_a_request_by_a_device_without_link_addresses_is_forwarded(host: Host) -> None:
    with tun("t0") as client, wire() as far:
        attached(host)
        service = host.new_key()
        host.serve(service, 1, Method.ROUTE)
        modes = {each.device: each.mode for each in attach.attached(host.director.state)}
        assert modes["t0"] == "tc"
        os.write(client, bytes(IP(src=CLIENT, dst=VIP4) / TCP(sport=4000, dport=service.port)))
        frame = Ether(arriving(far.fileno()))
        assert (frame.src, frame.dst) == (MAC, server_mac(1))
        assert (frame[IP].src, frame[IP].dst, frame[IP].ttl) == (CLIENT, VIP4, 63)


def test_a_reply_of_a_nat_server_leaves_by_it(host: Host) -> None:
    with tun("t0") as client, wire() as far:
        attached(host)
        service = host.new_key()
        host.serve(service, 1, Method.MASQ, port=8080)
        os.write(client, bytes(IP(src=CLIENT, dst=VIP4) / TCP(sport=4000, dport=service.port)))
        frame = Ether(arriving(far.fileno()))
        assert (frame[IP].dst, frame[TCP].dport) == (server4(1), 8080)
        answer = IP(src=server4(1), dst=CLIENT) / TCP(sport=8080, dport=4000, flags="SA")
        far.send(bytes(Ether(src=server_mac(1), dst=MAC) / answer))
        packet = IP(arriving(client))
        assert (packet.src, packet.dst, packet[TCP].sport, packet[TCP].flags) == (VIP4, CLIENT, service.port, "SA")
        good = IP(bytes(packet))
        del good[TCP].chksum
        assert IP(bytes(good))[TCP].chksum == packet[TCP].chksum


def test_packets_of_no_service_reach_the_stack(host: Host) -> None:
    with tun("t0") as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        attached(host)
        host.serve(host.new_key(), 1)
        own.bind(("10.99.0.1", 5353))
        own.settimeout(PATIENCE_S)
        os.write(client, bytes(IP(src=CLIENT, dst="10.99.0.1") / UDP(sport=4000, dport=5353) / b"hello"))
        assert own.recv(100) == b"hello"


def test_xdp_is_refused_there(host: Host) -> None:
    with tun("t0"), pytest.raises(InvalidOperation, match="link addresses"), host.director.batch():
        attachments.request(host.director.tables, "t0", "generic")
