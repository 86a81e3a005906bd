"""Find the SYNs to which this host sends nothing, by a packet socket. It sends nothing itself.

A busy real server has many packets a second, and one that is lost here may be a reply. So the kernel filters them, and
a packet that it could not queue ends the look without a result.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address
from time import monotonic
from typing import NamedTuple

from pylvs.doctor.kernel.sniffer import (
    ETH_P_ALL,
    GRE,
    IP_PROTOCOLS,
    IPIP,
    IPV6,
    OCTETS,
    PACKET_HOST,
    PACKET_OUTGOING,
    TCP,
    UDP,
    segment,
)
from pylvs.model.addresses import Address
from pylvs.netlink.links import Device
from pylvs.system import sockets
from pylvs.system.sockets import ANCILLARY, EQUALS, LOAD_1, LOAD_4, RETURN, Instruction

_REPLY_S = 0.4  # the kernel replies to a SYN at once
_MOST = 20_000  # packets that are read in time; as many may wait at the end
_BUFFER = 8 << 20  # bytes, which the kernel doubles: some 20,000 small packets
_AT_ONCE = 64  # packets between two looks at the clock

# linux/filter.h, linux/bpf_common.h
_LENGTH, _LOAD_1_X, _X_IPV4_HEADER, _RIGHT = 0x80, 0x50, 0xB1, 0x74
_ABOVE, _ANY_BIT = 0x25, 0x45
_PACKET_TYPE, _DEVICE = ANCILLARY + 4, ANCILLARY + 8  # SKF_AD_PKTTYPE, SKF_AD_IFINDEX
_LOOPBACK = 1  # LOOPBACK_IFINDEX: that of lo in each network namespace
_SYN_OR_RST = 0x06
_LONGEST_ACK = 120  # octets: the headers of IPv6 and TCP with their options, without data

# Label, operation, labels to jump to if true and if not ("": the next one), operand.
_STEPS = (
    ("", LOAD_4, "", "", _DEVICE),
    ("", EQUALS, "drop", "", _LOOPBACK),
    ("", LOAD_1, "", "", 0),
    ("", _RIGHT, "", "", 4),
    ("", EQUALS, "v4", "", 4),
    ("", EQUALS, "v6", "drop", 6),
    ("v4", _X_IPV4_HEADER, "", "", 0),
    ("", LOAD_1, "", "", 9),
    ("", EQUALS, "tcp in v4", "", TCP),
    ("", EQUALS, "udp in v4", "tunnel", UDP),
    ("tcp in v4", _LOAD_1_X, "", "", 13),
    ("", EQUALS, "flags", "flags", 0),
    ("udp in v4", _LOAD_1_X, "", "", 12),
    ("", EQUALS, "gue", "gue", 0),
    ("v6", LOAD_1, "", "", 6),
    ("", EQUALS, "tcp in v6", "", TCP),
    ("", EQUALS, "udp in v6", "tunnel", UDP),
    ("tcp in v6", LOAD_1, "", "", 53),
    ("flags", _ANY_BIT, "take", "", _SYN_OR_RST),
    # The reply to a SYN of a connection that exists is an ACK alone (RFC 5961, 4.2).
    ("", LOAD_1, "", "", _PACKET_TYPE),
    ("", EQUALS, "", "drop", PACKET_OUTGOING),
    ("", _LENGTH, "", "", 0),
    ("", _ABOVE, "drop", "take", _LONGEST_ACK),
    ("udp in v6", LOAD_1, "", "", 52),
    # The octet behind the headers of UDP and GUE begins an IP packet: most other datagrams have none there.
    ("gue", _RIGHT, "", "", 4),
    ("", EQUALS, "take", "", 4),
    ("", EQUALS, "take", "drop", 6),
    ("tunnel", EQUALS, "take", "", IPIP),
    ("", EQUALS, "take", "", IPV6),
    ("", EQUALS, "take", "", GRE),
    ("drop", RETURN, "", "", 0),
    ("take", RETURN, "", "", 0xFFFFFFFF),
)


def _assembled() -> Iterator[Instruction]:
    """Yield the filter: TCP that opens or refuses connections, small replies, and tunnels; none of lo."""
    labels = {step[0]: number for number, step in enumerate(_STEPS)}

    def jump(number: int, label: str) -> int:
        return labels[label] - number - 1 if label else 0

    for number, (_, operation, if_true, if_not, operand) in enumerate(_STEPS):
        yield operation, jump(number, if_true), jump(number, if_not), operand


FILTER = tuple(_assembled())


class Opening(NamedTuple):
    """A SYN: its ends."""

    client: Address
    client_port: int
    address: Address
    port: int


_Flow = tuple[bytes, int, bytes, int]  # client, its port, address of this host, port


class Flows:
    """The SYNs to own addresses, and the flows on which this host sent anything, in any order."""

    def __init__(self, own: Iterable[Address]) -> None:
        self._own = {address.packed for address in own}
        self._asked = dict[_Flow, float]()
        self._answered = set[_Flow]()

    def add(self, data: bytes, kind: int, is_outward: bool) -> None:
        """Add a packet, with the kernel's class; `is_outward`: it passes a device to other hosts."""
        found = segment(data)
        if found is None:
            return
        saddr, sport, daddr, dport, is_syn = found
        if kind == PACKET_OUTGOING:
            self._answered.add((daddr, dport, saddr, sport))
        elif kind == PACKET_HOST and is_outward and is_syn and daddr in self._own:
            self._asked.setdefault((saddr, sport, daddr, dport), monotonic())

    def unanswered(self, until: float) -> list[Opening]:
        """Return the SYNs that came until this time, and got no reply."""
        return [
            Opening(ip_address(client), client_port, ip_address(address), port)
            for (client, client_port, address, port), since in self._asked.items()
            if since <= until and (client, client_port, address, port) not in self._answered
        ]


class Handshakes:
    """The handshakes that pass this host from now on.

    One socket for all devices queues a SYN before its reply, by any device.
    """

    def __init__(self, outward: Iterable[Device]) -> None:
        self._outward = {device.name for device in outward}
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        with sockets.closed_on_error(self._socket):
            sockets.enlarge(self._socket, _BUFFER)
            sockets.attach(self._socket, FILTER)
            self._socket.setblocking(False)

    def __enter__(self) -> Handshakes:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def unanswered(self, own: Collection[Address], limit_s: float) -> list[Opening]:
        """Return the SYNs to own addresses to which this host sent nothing, in tunnels or not.

        None is returned if the kernel lost a packet: it may be a reply.
        """
        flows, seen, end = Flows(own), 0, monotonic() + limit_s
        while seen < _MOST and (left := end - monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                seen += self._read(flows)
        stopped = monotonic()
        if sockets.stop_capture(self._socket):
            return []
        while self._read(flows):
            pass
        return flows.unanswered(stopped - _REPLY_S)

    def _read(self, flows: Flows) -> int:
        """Add some packets that wait; return how many, 0 if none waits."""
        for number in range(_AT_ONCE):
            try:
                data, (device, protocol, kind, *_) = self._socket.recvfrom(OCTETS)
            except BlockingIOError:
                return number
            if protocol in IP_PROTOCOLS:
                flows.add(data, kind, device in self._outward)
        return _AT_ONCE
