"""Capture frames on a host's links, and decode them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import zip_longest

from pylvs.lab.hosts import port_name
from pylvs.lab.lab import Lab
from pylvs.lab.network import Host
from pylvs.model.dataclass import dataclass
from pylvs.reference.packet import ETHER_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPIP, IPV6, Packet, parse
from pylvs.system.namespaces import inside_network

ETH_P_ALL, PACKET_OUTGOING = 3, 4
LONGEST_FRAME = 65535
INNER = {IPIP: ETHERTYPE_IPV4, IPV6: ETHERTYPE_IPV6}  # by the outer packet's protocol
FLAGS = ((0x02, "SYN"), (0x10, "ACK"), (0x08, "PSH"), (0x01, "FIN"), (0x04, "RST"))


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame on a link of a host; `to_host` is its direction."""

    port: str
    to_host: bool
    data: bytes

    @property
    def packets(self) -> list[Packet]:
        """Return the IP packets, the outer one first."""
        found: list[Packet] = []
        packet = parse(self.data)
        while packet is not None:
            found.append(packet)
            ethertype = INNER.get(packet.protocol)
            packet = parse(bytes(12) + ethertype + packet.ip[packet.l4 :]) if ethertype else None
        return found

    @property
    def flags(self) -> list[str]:
        """Return the flags of the TCP header; empty without one."""
        return [name for packet in self.packets[-1:] for bit, name in FLAGS if packet.flags & bit]

    def describe(self) -> list[str]:
        """Return a line for the link, one for each IP header, one for TCP."""
        lines = [f"{self.data[6:12].hex(':')} > {self.data[:6].hex(':')}"]
        packets = self.packets
        for packet in packets:
            limit = "TTL" if packet.family == 4 else "hop limit"
            lines.append(
                f"IPv{packet.family} {ip_address(packet.saddr)} > {ip_address(packet.daddr)}, {limit} {packet.ttl}"
            )
        if self.flags:
            lines.append(f"TCP {packets[-1].sport} > {packets[-1].dport}, {' '.join(self.flags)}")
        return lines

    def field(self, offset: int) -> str:
        """Return the name of the field at an offset."""
        if offset < ETHER_BYTES:
            return "destination MAC" if offset < 6 else "source MAC" if offset < 12 else "type"
        inside = offset - ETHER_BYTES
        for packet in self.packets:
            if inside < packet.l4:
                checksum = "header checksum"
                names = {8: "TTL", 10: checksum, 11: checksum} if packet.family == 4 else {7: "hop limit"}
                return names.get(inside, f"byte {inside} of the IP header")
            inside -= packet.l4
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
