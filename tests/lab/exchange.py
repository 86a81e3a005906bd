"""Send frames from a lab's client to its first real server, and receive echo replies."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pylvs.lab.hosts import LabHost, port_name
from pylvs.lab.lab import Lab
from pylvs.lab.network import NETWORK_HOST
from pylvs.system.namespaces import inside_network
from tests.waiting import PATIENCE_S, until_up

CLIENT_MAC, SERVER_MAC = "02:00:00:00:0c:00", "02:00:00:01:01:00"
MARK = 0xFFF0  # the id of echo requests that end a series; others have smaller ones
ETH_P_ALL = 3


def exchange(lab: Lab, packets: Sequence[Packet | bytes]) -> list[Packet]:
    """Send packets one after the other; return the echo replies to them, in order.

    One CPU carries every frame to the real server and its reply back, in order. So after the reply to a last echo
    request to the real server itself, no reply to an earlier one can come.
    """
    ports = (port_name(host, number) for host in lab.network.hosts for number in range(len(host.interfaces)))
    until_up(*ports, namespace=LabHost(lab.name, NETWORK_HOST).network.name)
    with inside_network(lab.host("client").network):
        cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with cable, one_cpu():
        cable.bind(("eth0", ETH_P_ALL))
        cable.settimeout(PATIENCE_S)
        _replies(cable)  # the real server has learnt the client's link address
        for packet in packets:
            cable.send(_frame(packet))
        return _replies(cable)


@contextmanager
def one_cpu() -> Iterator[None]:
    """Bind the caller to one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _frame(packet: Packet | bytes) -> bytes:
    raw = bytes(packet)
    ethertype = 0x0800 if raw[0] >> 4 == 4 else 0x86DD
    return bytes(Ether(dst=SERVER_MAC, src=CLIENT_MAC, type=ethertype)) + raw


def _replies(cable: socket.socket) -> list[Packet]:
    """Return the replies up to those to our own echo request of either family."""
    found = []
    for request in (
        IP(src="10.0.0.5", dst="10.0.0.21") / ICMP(id=MARK),
        IPv6(src="fd00:10::5", dst="fd00:10::21") / ICMPv6EchoRequest(id=MARK),
    ):
        cable.send(_frame(request))
        while identifier(reply := _next_reply(cable)) != MARK:
            found.append(reply)
    return found


def _next_reply(cable: socket.socket) -> Packet:
    while True:
        frame = Ether(cable.recv(1 << 16))
        if frame.src == SERVER_MAC and (ICMPv6EchoReply in frame or (ICMP in frame and frame[ICMP].type == 0)):
            return frame.payload


def identifier(reply: Packet) -> int:
    """Return the id of an echo reply, which is that of the request."""
    return int(reply[ICMP].id if ICMP in reply else reply[ICMPv6EchoReply].id)
