"""The far end of a host's link: frames that arrive there, and frames that it sends."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.packet.host import MAC, OWN4, on_cpu
from tests.waiting import PATIENCE_S

_ETH_P_ALL = 3
_GROUP6 = b"\x33\x33"  # the kernel's own reports and solicitations, at random moments after it made a link
_SENTINEL = bytes.fromhex("020000000000" + MAC.replace(":", "") + "88b5")  # an ethertype for experiments


class Wire:
    """One link: frames that left by the near end, in order, and frames to it."""

    def __init__(self, near: socket.socket, far: socket.socket, loopback: socket.socket) -> None:
        self._near = near
        self._far = far
        self._loopback = loopback
        self._number = 0

    def send(self, frame: bytes) -> None:
        """Send a frame from the far end to the near one."""
        self._far.send(frame)

    def came(self) -> list[bytes]:
        """Return what left since the last call, including frames in flight, without multicast of IPv6.

        A frame of the test follows them. One CPU sends all, so no queue of the kernel reorders them.
        """
        self._loopback.sendto(b"", self._loopback.getsockname())
        self._loopback.recv(1)
        self._number += 1
        last = _SENTINEL + struct.pack(">I", self._number).ljust(46, b"\0")
        self._near.send(last)
        found: list[bytes] = []
        while True:
            frame, (_, _, kind, *_) = self._far.recvfrom(65535)
            if frame == last:
                return found
            if kind != socket.PACKET_OUTGOING and not frame.startswith(_GROUP6):
                found.append(frame)


@contextmanager
def wire(near_end: str = "d0", far_end: str = "d1") -> Iterator[Wire]:
    """Open a veth of this namespace; until its end this thread stays on one CPU."""
    with ExitStack() as closing:
        closing.enter_context(on_cpu(min(os.sched_getaffinity(0))))
        near, far = (closing.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) for _ in range(2))
        loopback = closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        near.bind((near_end, 0))
        far.bind((far_end, _ETH_P_ALL))  # only now: before, it would receive the frames of all devices
        loopback.bind((OWN4, 0))
        for end in near, far, loopback:
            end.settimeout(PATIENCE_S)
        yield Wire(near, far, loopback)
