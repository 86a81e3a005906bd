"""Capture frames on a host's links, and decode them."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import zip_longest

from pylvs.lab.hosts import port_name
from pylvs.lab.lab import Lab
from pylvs.lab.network import Host
from pylvs.model.dataclass import dataclass
from pylvs.system.namespaces import inside_network

ETH_P_ALL, PACKET_OUTGOING = 3, 4
ETHER_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 14, 0x0800, 0x86DD
TCP, IPIP, IPV6 = 6, 4, 41
LONGEST_FRAME = 65535
FLAGS = ((0x02, "SYN"), (0x10, "ACK"), (0x08, "PSH"), (0x01, "FIN"), (0x04, "RST"))


@dataclass(frozen=True, slots=True)
class Header:
    """An IP header: its offset, and some fields."""

    version: int
    start: int
    length: int
    ttl: int
    protocol: int
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame on a link of a host; `to_host` is its direction."""

    port: str
    to_host: bool
    data: bytes

    @property
    def headers(self) -> list[Header]:
        """Return the IP headers, the outer one first."""
        kind = int.from_bytes(self.data[12:14], "big")
        version = {ETHERTYPE_IPV4: 4, ETHERTYPE_IPV6: 6}.get(kind, 0)
        start, found = ETHER_BYTES, []
        while version:
            header = _header(self.data, version, start)
            if header is None:
                break
            found.append(header)
            start += header.length
            version = {IPIP: 4, IPV6: 6}.get(header.protocol, 0)
        return found

    @property
    def flags(self) -> list[str]:
        """Return the flags of the TCP header; empty without one."""
        headers = self.headers
        if not headers or headers[-1].protocol != TCP:
            return []
        at = headers[-1].start + headers[-1].length + 13
        return [name for bit, name in FLAGS if self.data[at] & bit]

    def describe(self) -> list[str]:
        """Return a line for the link, one for each IP header, one for TCP."""
        lines = [f"{self.data[6:12].hex(':')} > {self.data[:6].hex(':')}"]
        headers = self.headers
        for each in headers:
            limit = "TTL" if each.version == 4 else "hop limit"
            lines.append(f"IPv{each.version} {each.source} > {each.destination}, {limit} {each.ttl}")
        if self.flags:
            at = headers[-1].start + headers[-1].length
            source, destination = struct.unpack_from("!HH", self.data, at)
            lines.append(f"TCP {source} > {destination}, {' '.join(self.flags)}")
        return lines

    def field(self, offset: int) -> str:
        """Return the name of the field at an offset."""
        if offset < ETHER_BYTES:
            return "destination MAC" if offset < 6 else "source MAC" if offset < 12 else "type"
        for header in self.headers:
            inside = offset - header.start
            if 0 <= inside < header.length:
                names = (
                    {8: "TTL", 10: "header checksum", 11: "header checksum"}
                    if header.version == 4
                    else {7: "hop limit"}
                )
                return names.get(inside, f"byte {inside} of the IP header")
        return "payload"


def changes(before: Frame, after: Frame) -> list[int]:
    """Return the offsets at which two frames differ, including all bytes that only one has."""
    pairs = zip_longest(before.data, after.data)
    return [at for at, (old, new) in enumerate(pairs) if old != new]


@contextlib.contextmanager
def captured(lab: Lab, host: Host) -> Iterator[Callable[[], list[Frame]]]:
    """Receive all frames of a host, at the switch's end of its links, where every hook's packets pass.

    The function that it yields returns what came since its last call, link by link.
    """
    with contextlib.ExitStack() as until:
        sockets = []
        with inside_network(lab.wire):
            for number, card in enumerate(host.interfaces):
                raw = until.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
                raw.bind((port_name(host, number), ETH_P_ALL))
                raw.setblocking(False)
                sockets.append((card.device, raw))

        def frames() -> list[Frame]:
            found = []
            for device, raw in sockets:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        data, (_, _, kind, _, _) = raw.recvfrom(LONGEST_FRAME)
                        found.append(Frame(device, kind == PACKET_OUTGOING, data))
            return found

        yield frames


def _header(data: bytes, version: int, start: int) -> Header | None:
    if len(data) < start + (20 if version == 4 else 40) or data[start] >> 4 != version:
        return None
    if version == 4:
        length, ttl_at, protocol_at, addresses_at, width = (data[start] & 15) * 4, 8, 9, 12, 4
    else:
        length, ttl_at, protocol_at, addresses_at, width = 40, 7, 6, 8, 16
    at = start + addresses_at
    source, destination = ip_address(data[at : at + width]), ip_address(data[at + width : at + 2 * width])
    return Header(
        version, start, length, data[start + ttl_at], data[start + protocol_at], str(source), str(destination)
    )
