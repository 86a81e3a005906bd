"""Single frames: put into the director's device as a card's driver does, and counted where they leave.

No socket sends or receives them, so the figure is little more than the forwarding. The rest is equal for each way,
except what the way itself needs. The kernel's stack makes a socket buffer of each frame, XDP does not.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address
from statistics import mean, median

from bench.beside.traffic import Aim, Lost, Taken
from bench.beside.wire import CLIENT, FAR, MACS, Wire
from pylvs.bpf import abi, kernel
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import ArrayMap
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError

TCP, UDP = 6, 17
_SYN, _SYN_ACK, _ACK = 0x02, 0x12, 0x10
_CLIENT_PORT = 40000
_LIVE = 2  # BPF_F_TEST_XDP_LIVE_FRAMES
_ETHER_IPV4, _DONT_FRAGMENT, _TTL = 0x0800, 0x4000, 64
_BATCH = 64  # frames that the kernel lets loose at once
_SHORTEST = 60
_TRIES = 5


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@dataclass(frozen=True, slots=True)
class End:
    """Who sends or receives."""

    mac: str
    address: str
    port: int


def frame(protocol: int, source: End, target: End, flags: int = _ACK) -> bytes:
    """An Ethernet frame of the shortest length, with right checksums."""
    ports = struct.pack("!HH", source.port, target.port)
    if protocol == TCP:
        rest = ports + struct.pack("!IIBBHHH", 1, 0 if flags == _SYN else 1, 5 << 4, flags, 0xFFFF, 0, 0) + bytes(6)
        check = 16
    else:
        rest = ports + struct.pack("!HH", 26, 0) + bytes(18)
        check = 6
    length = 40 if protocol == TCP else 46
    addresses = IPv4Address(source.address).packed + IPv4Address(target.address).packed
    payload = rest[: length - 20]
    summed = _sum(addresses + struct.pack("!HH", protocol, len(payload)) + payload)
    payload = payload[:check] + struct.pack("!H", summed) + payload[check + 2 :]
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, _DONT_FRAGMENT, _TTL, protocol, 0) + addresses
    header = header[:10] + struct.pack("!H", _sum(header)) + header[12:]
    link = bytes.fromhex((target.mac + source.mac).replace(":", "")) + struct.pack("!H", _ETHER_IPV4)
    return (link + header + payload).ljust(_SHORTEST, b"\0")


class Frames:
    """The source and the count of the far end."""

    def __init__(self, wire: Wire, opened: BpfObject, rounds: int, each: int) -> None:
        self._wire, self._rounds, self._each = wire, rounds, each
        self._source = opened.program_fd("wire_source")
        self._plans = ArrayMap.duplicate(opened.map_fd("wire_plans"))
        self._counts = ArrayMap.duplicate(opened.map_fd("wire_counts"))
        self._codec = abi.struct("wire_plan")
        with wire.inside("wire"):
            self._device = socket.if_nametoindex(FAR)

    def _counted(self) -> int:
        return int(struct.unpack("=Q", self._counts.get(0) or bytes(8))[0])

    def _plan(self, sent: bytes, receiver: str) -> None:
        wanted = bytes.fromhex(MACS[receiver].replace(":", ""))
        self._plans.put(0, self._codec.pack({"frame": sent, "device": self._device, "wanted": wanted}))

    def _let_loose(self, sent: bytes, number: int) -> tuple[int, int]:
        """Return the ns of a frame as the kernel measured them, and how many arrived.

        Any signal, also one without a handler, interrupts the kernel: then all frames are sent again.
        """
        for left in reversed(range(_TRIES)):
            before = self._counted()
            try:
                done = kernel.run_program(self._source, sent, repeat=number, flags=_LIVE)
            except PylvsError as error:
                if error.errno != errno.EINTR or not left:
                    raise
            else:
                return done.duration_ns, self._counted() - before
        raise AssertionError

    def measure(self, protocol: int, aim: Aim, answers: bool, by_director: bool) -> Taken:
        """Frames of one flow, of the client or (`answers`) of the server; answers pass the director or do not.

        Raises Lost unless each came out where it should.
        """
        client = End(MACS["client"], CLIENT, _CLIENT_PORT)
        towards = End(MACS["director"], aim.target, aim.port)
        server = End(MACS["server"], aim.server, aim.server_port)
        back = End(MACS["director"], CLIENT, _CLIENT_PORT)
        opening = [(frame(protocol, client, towards, _SYN), "server")]
        if by_director:
            opening.append((frame(protocol, server, back, _SYN_ACK), "client"))
        opening.append((frame(protocol, client, towards), "server"))
        sent, receiver = (frame(protocol, server, back), "client") if answers else opening[-1]
        with self._wire.inside("wire"):
            for each, to in opening:
                self._plan(each, to)
                self._let_loose(each, 1)
            self._plan(sent, receiver)
            self._let_loose(sent, 4 * _BATCH)
            rounds = [self._let_loose(sent, self._each) for _ in range(self._rounds)]
        taken, arrived = [spent for spent, _ in rounds], sum(each for _, each in rounds)
        all_sent = self._rounds * self._each
        if arrived != all_sent:
            raise Lost(f"frames to {aim.target} port {aim.port}: {arrived} of {all_sent} came out at the {receiver}")
        return Taken(all_sent, arrived, median(taken), mean(taken))
