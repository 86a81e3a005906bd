"""Generations: services and destinations come in pairs of halves, of which the generation in force picks one.

An edit writes the other halves, with the next generation, and then stores that generation (`transaction`).
"""

from __future__ import annotations

import struct

from pylvs.dataplane import abi
from pylvs.dataplane.tables import Tables

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.dataplane.facts import Facts

MASK32 = 0xFFFFFFFF


def later(one: int, other: int) -> bool:
    """Whether generation `one` comes after `other`; they wrap at 32 bits."""
    return 0 < (one - other & MASK32) < 1 << 31


def half_in_force(generations: tuple[int, int], live: int) -> int:
    """Which of a pair counts, as version_in_force in bpf/lb/service.h decides."""
    newer = 1 if later(generations[1], generations[0]) else 0
    return 1 - newer if later(generations[newer], live) else newer


class Versions:
    """The paired halves of services and destinations, read and written."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._codec = abi.struct("service_version")
        self._generation = self._codec.offset("generation")

    @property
    def live(self) -> int:
        """The generation in force."""
        return int(self.tables.root.get(0, "live")) & MASK32

    def _generations(self, slot: int) -> tuple[int, int]:
        array, place = self.tables.services.array, self._generation
        base = slot * array.stride + place
        (one,) = struct.unpack_from("<I", array.upto(slot), base)
        (other,) = struct.unpack_from("<I", array.upto(slot), base + self._codec.size)
        return one, other

    def _place(self, slot: int, half: int) -> int:
        return slot * self.tables.services.array.stride + half * self._codec.size

    def _store_generation(self, slot: int, half: int, generation: int) -> None:
        """By one store: a packet that reads half a number could take a half that is not in force."""
        self.tables.services.array.store_half(slot, half * self._codec.size + self._generation, generation)

    def version(self, slot: int, live: int | None = None) -> dict[str, Any]:
        """The fields of a service's version in force."""
        half = half_in_force(self._generations(slot), self.live if live is None else live)
        return self._codec.unpack_from(self.tables.services.array.upto(slot), self._place(slot, half), whole=True)

    def write_version(self, slot: int, generation: int, fields: dict[str, Any]) -> None:
        """Write the half that is not in force; no packet takes it before `live` has reached its generation."""
        half = 1 - half_in_force(self._generations(slot), self.live)
        memory, place = self.tables.services.array.upto(slot), self._place(slot, half)
        row, size = bytearray(self._codec.size), 4
        self._codec.pack_row_into(row, 0, fields)
        self._store_generation(slot, half, generation)
        before, behind = slice(self._generation), slice(self._generation + size, self._codec.size)
        for part in before, behind:
            memory[place + (part.start or 0) : place + part.stop] = row[part]

    def new_service(self, slot: int, generation: int) -> None:
        """Both halves of a fresh slot: absent in all generations before this one."""
        self.tables.services.clear(slot)
        self._store_generation(slot, 0, generation - 1)
        self._store_generation(slot, 1, generation - 2)

    def withdraw_version(self, slot: int, live: int) -> None:
        """Make a half that lies beyond `live` the older one."""
        one, other = self._generations(slot)
        for half, (mine, theirs) in enumerate(((one, other), (other, one))):
            if later(mine, live):
                self._store_generation(slot, half, theirs - 1)

    def _states(self, slot: int) -> tuple[int, int]:
        one, other = self.tables.destinations.get(slot, "states")
        return int(one), int(other)

    def flags(self, slot: int, live: int | None = None) -> int:
        """A destination's flags in force."""
        one, other = self._states(slot)
        half = half_in_force((one >> 32, other >> 32), self.live if live is None else live)
        return (one, other)[half] & MASK32

    def write_flags(self, slot: int, generation: int, flags: int, weight: int | None = None) -> None:
        """Write a destination's other half, by one store; its weight, before that, stays if none is given."""
        one, other = self._states(slot)
        half = 1 - half_in_force((one >> 32, other >> 32), self.live)
        destinations = self.tables.destinations
        if weight is None:
            weight = destinations.get(slot, "weights")[1 - half]
        destinations.array.store_half(slot, destinations.codec.offset("weights") + 4 * half, weight)
        self.store_state(slot, half, generation, flags)

    def withdraw_flags(self, slot: int, live: int) -> None:
        """Make a half that lies beyond `live` the older one."""
        states = self._states(slot)
        for half in 0, 1:
            if later(states[half] >> 32, live):
                self.store_state(slot, half, (states[1 - half] >> 32) - 1 & MASK32, 0)

    def store_state(self, slot: int, half: int, generation: int, flags: int) -> None:
        """Write one half of a destination's states."""
        destinations = self.tables.destinations
        destinations.array.store(slot, destinations.codec.offset("states") + 8 * half, generation << 32 | flags)

    def facts(self, generation: int | None = None) -> Facts:
        """The facts of a generation, of the one in force by default."""
        from pylvs.dataplane.facts import Facts  # late: listings do without

        return Facts(self.tables, self.live if generation is None else generation)
