"""Single frames: put into the director's device as a card's driver does, and counted where they leave.

No socket sends or receives them, so the figure is little more than the forwarding. The rest is equal for each way,
except what the way itself needs. The kernel's stack makes a socket buffer of each frame, XDP does not.
"""

from __future__ import annotations

import socket
import struct
from statistics import mean, median

from bench.beside.traffic import Aim, Lost, Taken
from bench.beside.wire import CLIENT, FAR, MACS, Wire
from bench.frames import ACK, SYN, Frame
from pylvs.bpf import abi, kernel
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import ArrayMap
from pylvs.model.service import Protocol

_CLIENT_PORT = 40000
_LIVE = 2  # BPF_F_TEST_XDP_LIVE_FRAMES
_BATCH = 64  # frames that the kernel lets loose at once
_SHORTEST = 60


class Frames:
    """The source and the count of the far end."""

    def __init__(self, wire: Wire, opened: BpfObject, rounds: int, frames: int) -> None:
        self._wire, self._rounds, self._frames = wire, rounds, frames
        self._source = opened.program_fd("wire_generator")
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

        All frames are sent again if the kernel was interrupted.
        """

        def send() -> tuple[int, int]:
            before = self._counted()
            done = kernel.run_program(self._source, sent, repeat=number, flags=_LIVE)
            return done.duration_ns, self._counted() - before

        return kernel.uninterrupted(send)

    def measure(self, protocol: Protocol, aim: Aim, answers: bool, by_director: bool) -> Taken:
        """Frames of one flow, of the client or (`answers`) of the server; answers pass the director or do not.

        Raises Lost unless each came out where it should.
        """

        def request(flags: int) -> bytes:
            frame = Frame(CLIENT, aim.target, _CLIENT_PORT, aim.port, flags, MACS["client"], protocol)
            return frame.packed().ljust(_SHORTEST, b"\0")

        def answer(flags: int) -> bytes:
            frame = Frame(aim.server, CLIENT, aim.server_port, _CLIENT_PORT, flags, MACS["server"], protocol)
            return frame.packed().ljust(_SHORTEST, b"\0")

        opening = [(request(SYN), "server")]
        if by_director:
            opening.append((answer(SYN | ACK), "client"))
        opening.append((request(ACK), "server"))
        sent, receiver = (answer(ACK), "client") if answers else opening[-1]
        with self._wire.inside("wire"):
            for plan, to in opening:
                self._plan(plan, to)
                self._let_loose(plan, 1)
            self._plan(sent, receiver)
            self._let_loose(sent, 4 * _BATCH)
            rounds = [self._let_loose(sent, self._frames) for _ in range(self._rounds)]
        taken, arrived = [spent for spent, _ in rounds], sum(each for _, each in rounds)
        all_sent = self._rounds * self._frames
        if arrived != all_sent:
            raise Lost(f"frames to {aim.target} port {aim.port}: {arrived} of {all_sent} came out at the {receiver}")
        return Taken(all_sent, arrived, median(taken), mean(taken))
