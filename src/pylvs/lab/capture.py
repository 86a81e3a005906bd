"""Frames as they pass the director's cables, and what is in them."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType

from pylvs.lab.lab import Lab
from pylvs.lab.network import Host
from pylvs.lab.setup import port_name
from pylvs.model.dataclass import dataclass
from pylvs.system.namespaces import inside_network

ETH_P_ALL, PACKET_OUTGOING = 3, 4
ETHER, ETHER_IPV4, ETHER_IPV6 = 14, 0x0800, 0x86DD
TCP, IPIP, IPV6 = 6, 4, 41
LONGEST_FRAME = 65535
FLAGS = ((0x02, "SYN"), (0x10, "ACK"), (0x08, "PSH"), (0x01, "FIN"), (0x04, "RST"))


@dataclass(frozen=True, slots=True)
class Header:
    """One IP header: where it starts, and the fields one looks at."""

    version: int
    start: int
    length: int
    ttl: int
    protocol: int
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame on a cable of a host; `to_host` says in which direction."""

    port: str
    to_host: bool
    data: bytes

    @property
    def headers(self) -> list[Header]:
        """The IP headers, the outer one first."""
        kind = int.from_bytes(self.data[12:14], "big")
        version = {ETHER_IPV4: 4, ETHER_IPV6: 6}.get(kind, 0)
        start, found = ETHER, []
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
        """Of the TCP header; empty where there is none."""
        headers = self.headers
        if not headers or headers[-1].protocol != TCP:
            return []
        at = headers[-1].start + headers[-1].length + 13
        return [name for bit, name in FLAGS if self.data[at] & bit]

    def describe(self) -> list[str]:
        """A line for the link, one for each IP header, one for TCP."""
        lines = [f"{_mac(self.data[6:12])} > {_mac(self.data[:6])}"]
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
        """What the byte at an offset belongs to."""
        if offset < ETHER:
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
    """Offsets at which two frames differ; a difference in length counts as one in every byte beyond."""
    longest = max(len(before.data), len(after.data))
    return [at for at in range(longest) if before.data[at : at + 1] != after.data[at : at + 1]]


class Capture:
    """Listens on the switch's end of every cable of a host, where all frames pass whatever the data plane's hook."""

    def __init__(self, lab: Lab, host: Host) -> None:
        """Start listening."""
        self._sockets: list[tuple[str, socket.socket]] = []
        with inside_network(lab.wire):
            for number in range(len(host.interfaces)):
                raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
                raw.bind((port_name(host, number), ETH_P_ALL))
                raw.setblocking(False)
                self._sockets.append((host.interfaces[number].device, raw))

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None) -> None:
        for _, raw in self._sockets:
            raw.close()

    def frames(self) -> list[Frame]:
        """What came since the last call, cable by cable."""
        found = []
        for device, raw in self._sockets:
            while True:
                try:
                    data, (_, _, kind, _, _) = raw.recvfrom(LONGEST_FRAME)
                except BlockingIOError:
                    break
                found.append(Frame(device, kind == PACKET_OUTGOING, data))
        return found


def _mac(raw: bytes) -> str:
    return raw.hex(":")


def _header(data: bytes, version: int, start: int) -> Header | None:
    if len(data) < start + (20 if version == 4 else 40) or data[start] >> 4 != version:
        return None
    if version == 4:
        source, destination = IPv4Address(data[start + 12 : start + 16]), IPv4Address(data[start + 16 : start + 20])
        return Header(4, start, (data[start] & 15) * 4, data[start + 8], data[start + 9], str(source), str(destination))
    first, second = IPv6Address(data[start + 8 : start + 24]), IPv6Address(data[start + 24 : start + 40])
    return Header(6, start, 40, data[start + 7], data[start + 6], str(first), str(second))
