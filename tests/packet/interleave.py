"""Two CPUs in one program, in a chosen order: a program that a tail call reached runs once more.

What a program leaves for the next one is in a map. A test keeps it, changes the tables as another CPU would, puts it
back, and runs the next program alone.
"""

from __future__ import annotations

import os
import struct

from pylvs.bpf import abi, kernel, maps
from tests.maps import values
from tests.packet.host import Host

_HOOK = {"xdp": 0, "tc": 1}


class Interleaving:
    """What the programs of one hook left on one CPU. Use it within `on_cpu`."""

    def __init__(self, host: Host, hook: str) -> None:
        self._host, self._hook = host, hook
        (self._cpu,) = os.sched_getaffinity(0)
        self._kept = self._left()

    def _left(self) -> bytearray:
        with maps.PerCpuArray.open(self._host.director.tables.path("scratches")) as works:
            return bytearray(values(works, _HOOK[self._hook])[self._cpu])

    def get(self, name: str) -> int:
        """Return a field of what was left."""
        field = abi.struct("scratch").fields[name]
        return int.from_bytes(self._kept[field.offset : field.offset + field.size], "little")

    def set(self, name: str, value: int) -> None:
        """Change a field of what was left."""
        field = abi.struct("scratch").fields[name]
        self._kept[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")

    def run(self, program: str, frame: bytes) -> kernel.Run:
        """Put back what was left, and run a program of the hook's tail calls on the frame."""
        tables = self._host.director.tables
        with maps.PerCpuArray.open(tables.path("scratches")) as works:
            works.fill(_HOOK[self._hook], bytes(self._kept))
        with maps.ArrayMap.open(tables.path(f"tailcalls_{self._hook}")) as stages:
            identity = stages.get(abi.constant(program))
        assert identity is not None, f"{program} is not loaded"
        descriptor = kernel.program_by_id(int.from_bytes(identity, "little"))
        try:
            context = (
                struct.pack("<6I", 0, len(frame), 0, self._host.ifindex, 0, 0)
                if self._hook == "xdp"
                else struct.pack("<40xI148x", self._host.ifindex)
            )
            return kernel.run_program(descriptor, frame, context)
        finally:
            os.close(descriptor)
