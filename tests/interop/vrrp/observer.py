"""Record what passes the switch: advertisements, ARP, and unsolicited neighbour advertisements, with sender and time.

Frames are read by offsets, never with the code under test.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType

from pylvs.system.namespaces import inside_network
from tests.interop.vrrp.segment import LINKS, Segment, port

SO_TIMESTAMPNS, SO_RCVBUFFORCE = 35, 33
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
ETH_P_ALL = 3
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ARP_REQUEST = b"\0\1"
VRRP, AH, ICMPV6, NEIGHBOUR_ADVERTISEMENT = 112, 51, 58, 136
AH_BYTES = 24
LONGEST = 2048
BUFFER_BYTES = 1 << 25  # a flood fills it while this process stands still
_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class Captured:
    """A frame from a host; `at` is the kernel's time in seconds since 1970."""

    at: float
    host: str
    link: int
    frame: bytes

    @property
    def kind(self) -> int:
        return int.from_bytes(self.frame[12:14], "big")

    @property
    def protocol(self) -> int:
        """Return VRRP or AH; 0 for no IP."""
        return {IPV4: self.frame[23], IPV6: self.frame[20]}.get(self.kind, 0)

    @property
    def advertisement(self) -> bytes:
        """Return the VRRP message; b"" for anything else."""
        if self.protocol not in (VRRP, AH):
            return b""
        start = 14 + ((self.frame[14] & 15) * 4 if self.kind == IPV4 else 40)
        end = 14 + int.from_bytes(self.frame[16:18], "big") if self.kind == IPV4 else len(self.frame)
        return self.frame[start + (AH_BYTES if self.protocol == AH else 0) : end]

    @property
    def vrid(self) -> int:
        """Return the VRID of an advertisement."""
        return self.advertisement[1]

    @property
    def priority(self) -> int:
        """Return the priority of an advertisement."""
        return self.advertisement[2]

    @property
    def source_mac(self) -> str:
        """Return the source of the frame."""
        return self.frame[6:12].hex(":")

    @property
    def claimed(self) -> str:
        """Return the address in a gratuitous ARP or unsolicited neighbour advertisement; "" for anything else."""
        if self.kind == ARP and self.frame[28:32] == self.frame[38:42]:
            return str(ip_address(self.frame[28:32]))
        if self.kind == IPV6 and self.protocol == ICMPV6 and self.frame[54] == NEIGHBOUR_ADVERTISEMENT:
            return str(ip_address(self.frame[62:78])) if not self.frame[58] & 0x40 else ""
        return ""

    @property
    def asked(self) -> str:
        """Return the address that an ARP request asks for; "" for anything else."""
        request = self.kind == ARP and self.frame[20:22] == ARP_REQUEST and not self.claimed
        return str(ip_address(self.frame[38:42])) if request else ""

    @property
    def asks_from(self) -> tuple[str, str]:
        """Return the sender's IP and link address in an ARP request: what its receivers learn."""
        return str(ip_address(self.frame[28:32])), self.frame[22:28].hex(":")


class Observer:
    """Capture at the routers' ports of the switches until the block ends."""

    def __init__(self, where: Segment) -> None:
        self.captured: list[Captured] = []
        self._sockets: dict[socket.socket, tuple[str, int]] = {}
        self._ending = threading.Event()
        with inside_network(where.switch):
            for host in ("a", "b"):
                for link in range(LINKS):
                    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                    raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                    raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
                    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
                    raw.bind((port(host, link), ETH_P_ALL))
                    raw.setblocking(False)
                    self._sockets[raw] = host, link
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()
        for each in self._sockets:
            each.close()

    def _listen(self) -> None:
        poll = select.poll()
        by_number = {}
        for opened in self._sockets:
            poll.register(opened, select.POLLIN)
            by_number[opened.fileno()] = opened
        while not self._ending.is_set():
            for number, _ in poll.poll(_WAIT_S * 1000):
                self._take(by_number[number])

    def _take(self, raw: socket.socket) -> None:
        host, link = self._sockets[raw]
        while True:
            try:
                frame, ancillary, _, _ = raw.recvmsg(LONGEST, 64)
            except OSError:  # nothing more, or the device is down
                return
            at = next(struct.unpack("=qq", data[:16]) for _, name, data in ancillary if name == SO_TIMESTAMPNS)
            frame_seen = Captured(at[0] + at[1] / 1e9, host, link, frame)
            if frame_seen.advertisement or frame_seen.claimed or frame_seen.asked:
                self.captured.append(frame_seen)

    def select(self, wanted: Callable[[Captured], bool], since: float = 0.0) -> list[Captured]:
        """Return frames that match, since a time."""
        return [each for each in tuple(self.captured) if each.at >= since and wanted(each)]

    def advertisements(self, host: str, since: float = 0.0, vrid: int = 0) -> list[Captured]:
        """Return advertisements of a host, of one VRID if given."""
        return self.select(lambda h: h.host == host and bool(h.advertisement) and vrid in (0, h.vrid), since)

    def claims(self, host: str, address: str, since: float = 0.0) -> list[Captured]:
        """Return gratuitous ARP or neighbour advertisements of a host for an address."""
        return self.select(lambda h: h.host == host and h.claimed == address, since)

    def requests(self, host: str, address: str, since: float = 0.0) -> list[Captured]:
        """Return ARP requests of a host for an address."""
        return self.select(lambda h: h.host == host and h.asked == address, since)
