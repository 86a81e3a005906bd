"""The harness of `bpf/bench.bpf.c`: a program run many times over frames that are written anew before each round."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from pylvs.bench import site
from pylvs.dataplane import abi, bpf
from pylvs.dataplane.libbpf import BpfObject
from pylvs.dataplane.maps import ArrayMap
from pylvs.model.errors import PylvsError

OBJECT = "bench"
_ETHER_IPV4, _DONT_FRAGMENT, _TCP = 0x0800, 0x4000, 6
_TTL = 64
XDP_PASS, XDP_TX, XDP_REDIRECT = 2, 3, 4
ACK, SYN = 0x10, 0x02
# A walk through all flows in an order in which nothing lies side by side (Numerical Recipes' generator); and in order.
SCATTERED, IN_ORDER = (1664525, 1013904223), (1, 1)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _sum(header: bytes) -> int:
    return sum(struct.unpack(f"!{len(header) // 2}H", header))


def _folded(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True, slots=True)
class Frame:
    """A TCP segment without data that comes in by the site's device."""

    source: str
    target: str
    source_port: int
    target_port: int
    flags: int = ACK
    source_mac: str = site.ROUTER_MAC

    def header(self, check: int = 0) -> bytes:
        """The IPv4 header, 20 bytes."""
        return struct.pack(
            "!BBHHHBBH4s4s",
            0x45,
            0,
            40,
            0,
            _DONT_FRAGMENT,
            _TTL,
            _TCP,
            check,
            IPv4Address(self.source).packed,
            IPv4Address(self.target).packed,
        )

    def packed(self) -> bytes:
        """The frame, 54 bytes, with right checksums."""
        link = _mac(site.MAC) + _mac(self.source_mac) + struct.pack("!H", _ETHER_IPV4)
        header = self.header(0xFFFF - _folded(_sum(self.header())))
        ports = struct.pack("!HH", self.source_port, self.target_port)
        rest = struct.pack("!IIBBHHH", 1, 1, 5 << 4, self.flags, 0xFFFF, 0, 0)
        total = _sum(self.header()[12:]) + _TCP + 20 + _sum(ports + rest)
        check = struct.pack("!H", 0xFFFF - _folded(total))
        return link + header + ports + rest[:-4] + check + rest[-2:]


class Flows(NamedTuple):
    """Which flows a varied frame belongs to, one after the other."""

    number: int  # a power of two
    first: int  # where the walk begins
    walk: tuple[int, int]


class Probe:
    """The loaded harness and what it runs."""

    def __init__(self, opened: BpfObject) -> None:
        self._object = opened
        self._plans = ArrayMap.duplicate(opened.map_fd("bench_plans"))
        self._targets = ArrayMap.duplicate(opened.map_fd("bench_target"))
        self._codec = abi.struct("bench_plan")
        self._frame = b""

    def own(self, name: str) -> int:
        """The descriptor of one of the harness's programs."""
        return self._object.program_fd(name)

    def plan(self, frame: Frame, flows: Flows | None = None) -> None:
        """Which frame comes next, and whose."""
        self._frame = frame.packed()
        values: dict[str, object] = {"frame": self._frame}
        if flows:
            header = frame.header()
            swapped = sum(struct.unpack("<10H", header)) - sum(struct.unpack_from("<2H", header, 12))
            values |= {
                "address": int(IPv4Address(frame.source)),
                "sum": swapped,
                "flow": flows.first,
                "multiplier": flows.walk[0],
                "increment": flows.walk[1],
                "mask": flows.number - 1,
            }
        self._plans.put(0, self._codec.pack(values))

    def run(self, wrapper: str, target: int, repeat: int) -> tuple[float, bpf.Run]:
        """Nanoseconds of a round, the harness included, and what became of the last frame.

        Taken from this thread's processor time: the kernel's own figure has no fractions.
        """
        self._targets.put_descriptor(0, target)
        context = struct.pack("<6I", 0, len(self._frame), 0, socket.if_nametoindex(site.DEVICE), 0, 0)
        program = self.own(wrapper)
        before = time.thread_time_ns()
        done = bpf.run_program(program, self._frame, context, repeat)
        spent = time.thread_time_ns() - before
        return spent / repeat, done

    def run_alone(self, program: int, repeat: int) -> float:
        """Nanoseconds of a round of one program without the harness."""
        before = time.thread_time_ns()
        bpf.run_program(program, self._frame, repeat=repeat)
        return (time.thread_time_ns() - before) / repeat


@contextmanager
def loaded() -> Iterator[Probe]:
    """The harness. Raises what loading raises."""
    with BpfObject(abi.shipped().path(OBJECT)) as opened:
        opened.load()
        yield Probe(opened)


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """This thread stays on one processor: the path keeps next hops and free slots by processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class WrongPath(PylvsError):
    """A frame did not go the way that was to be measured."""
