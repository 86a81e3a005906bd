"""Small facts of the whole table, in one piece for each generation: counts of services, timeouts."""

from __future__ import annotations

import struct

from pylvs.bpf import abi
from pylvs.dataplane.tables import Tables


class Facts:
    """The facts of one generation, within the root."""

    def __init__(self, tables: Tables, generation: int) -> None:
        self._root = tables.root
        self._codec = abi.struct("facts")
        self._base = abi.struct("root").offset("facts") + (generation & 1) * self._codec.size

    def get(self, name: str) -> tuple[int, ...]:
        """A fact's numbers."""
        field = self._codec.fields[name]
        return struct.unpack_from("<" + field.format, self._root.array.memory, self._base + field.offset)

    def set(self, name: str, *values: int) -> None:
        """Write a fact."""
        field = self._codec.fields[name]
        struct.pack_into("<" + field.format, self._root.array.memory, self._base + field.offset, *values)

    def copy_from(self, other: Facts) -> None:
        """Take over everything of another generation."""
        memory = self._root.array.memory
        memory[self._base : self._base + self._codec.size] = memory[other._base : other._base + self._codec.size]
