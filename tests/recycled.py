"""Loads of the packet path that several directors use, one after the other.

The verifier takes half a second for the programs of a director, which is most of what a short test costs. A stock keeps
the load of a state that is removed, by descriptors of its maps and programs. For the next state of this size it empties
the maps, and pins all of them again. tests/packet/test_recycled.py compares them with those of a new load. Other
processes may inherit the descriptors: those that boot a lab (tests/lab/recycled_labs.py) or replay a recording.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest import mock

from pylvs.bpf import abi, kernel, libbpf
from pylvs.bpf.maps import MMAPABLE, ArrayMap, HashMap, MmapArray, PerCpuArray, RingBuffer
from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import LOADED, State
from pylvs.dataplane.tables import Tables
from pylvs.system import syscalls

HASH, ARRAY, PROG_ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LPM_TRIE, MAPS, QUEUE, DEVMAP_HASH, RINGBUF = (
    *(1, 2, 3, 5, 6, 9, 11, 12, 22, 25, 27),  # linux/bpf.h
)
TIMERS = ("sweepers", "estimators", "cache_sweepers")  # maps with the timers: a write to such an element cancels it
MOST = 2  # loads in a stock; each takes 200 MB
_MEMBARRIER_CMD_GLOBAL = 1  # linux/membarrier.h
_create = load.create


@dataclass(frozen=True)
class Load:
    """A load: descriptors of what is pinned of it, and of all its maps."""

    connections: int
    seeds: tuple[int, ...]
    pins: dict[str, int]
    maps: dict[str, int]
    descriptors: ExitStack

    @classmethod
    def of(cls, state: State) -> Load:
        """Open the load of a state."""
        folder = f"{LOADED}/"
        with ExitStack() as until:
            pins: dict[str, int] = {}
            for path in state.pins():
                if path.startswith(folder):
                    descriptor = until.enter_context(state.opened(path))
                    assert descriptor is not None, path
                    pins[path.removeprefix(folder)] = descriptor
            maps: dict[str, int] = {}
            for number in _map_ids(pins):
                descriptor = kernel.map_by_id(number)
                until.callback(os.close, descriptor)
                name = kernel.map_info(descriptor).name
                maps[f"{name} {number}" if "." in name else name] = descriptor  # XDP and TC have a .rodata each
            return cls(*load.pool_shape(Tables(state)), pins, maps, until.pop_all())

    @classmethod
    def inherited(cls, text: str) -> Load:
        """Return the load that another process described (`description`); this one has inherited its descriptors."""
        connections, seeds, pins, maps = json.loads(text)
        with ExitStack() as until:
            for number in (*pins.values(), *maps.values()):
                os.set_inheritable(number, False)
                until.callback(os.close, number)
            return cls(connections, tuple(seeds), pins, maps, until.pop_all())

    @property
    def description(self) -> str:
        """Return what `inherited` needs."""
        return json.dumps([self.connections, self.seeds, self.pins, self.maps])

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return all descriptors."""
        return (*self.pins.values(), *self.maps.values())

    @property
    def is_traced(self) -> bool:
        """Return whether a session of `pylvs trace` has left its programs."""
        return any(_programs(self.maps[name]) for name in abi.TRACERS if name in self.maps)

    def close(self) -> None:
        """Close the descriptors."""
        self.descriptors.close()

    def pin(self, state: State) -> None:
        """Pin everything into a state that has no load."""
        os.mkdir(state.pin_path(LOADED), 0o700)
        for name, descriptor in self.pins.items():
            libbpf.pin(descriptor, state.loaded_path(name))

    def empty(self) -> None:
        """Let all maps hold what those of a new load do. No program of the load may be attached."""
        for name in TIMERS:
            clear(self.maps[name])
        syscalls.membarrier(_MEMBARRIER_CMD_GLOBAL)  # to the end of programs and callbacks that ran
        for descriptor in self.maps.values():
            clear(descriptor)


@dataclass
class Stock:
    """Loads without a state, at most one for each number of connections."""

    loads: dict[int, Load] = field(default_factory=dict)

    def create(self, state: State, connections: int = 0) -> None:
        """Do what `load.create` does, without loading if there is a load of this size."""
        connections = connections or kernel.connection_limit()
        found = self.loads.pop(connections, None)
        if found is None:
            _create(state, connections)
            return
        try:
            found.pin(state)
        finally:
            found.close()
        load.begin(state, found.connections, found.seeds)

    def make(self) -> None:
        """Make the state of the current network namespace if there is a load for it."""
        if kernel.connection_limit() in self.loads:
            with mock.patch.object(load, "create", self.create):
                BpfDirector(State.open()).make()

    @contextmanager
    def keeping(self, state: State) -> Iterator[None]:
        """Keep the load of a state that the block removes, if it has one."""
        if not os.path.exists(state.loaded_path("")):
            yield
            return
        with ExitStack() as until:
            kept = Load.of(state)
            until.callback(kept.close)
            yield
            kept.empty()
            until.pop_all()
        gone = self.loads.pop(kept.connections, None)
        if gone is None and len(self.loads) == MOST:
            gone = self.loads.pop(next(iter(self.loads)))  # the oldest
        if gone:
            gone.close()
        self.loads[kept.connections] = kept

    def close(self) -> None:
        """Close all loads."""
        for each in self.loads.values():
            each.close()
        self.loads.clear()


def _map_ids(pins: dict[str, int]) -> set[int]:
    """Return the maps that are pinned, and those that pinned or tail-called programs use."""
    found = set[int]()
    for descriptor in pins.values():
        if os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:bpf-prog":
            found.update(kernel.program_info(descriptor).map_ids)
            continue
        info = kernel.map_info(descriptor)
        found.add(info.id)
        if info.type == PROG_ARRAY:
            for program in _programs(descriptor):
                found.update(kernel.describe_program(program).map_ids)
    return found


def _programs(descriptor: int) -> list[int]:
    """Return the ids of the programs in a program array."""
    with ArrayMap.duplicate(descriptor) as programs:
        there = [programs.get(index) for index in range(programs.max_entries)]
    return [struct.unpack("<I", program)[0] for program in there if program]


def clear(descriptor: int) -> None:
    """Let a map hold nothing, or zeros. Constants and program arrays stay."""
    info = kernel.map_info(descriptor)
    if info.type == PROG_ARRAY or info.name.endswith(".rodata"):
        return
    if info.type == ARRAY and info.flags & MMAPABLE:
        with MmapArray.duplicate(descriptor) as array:
            array.memory[:] = bytes(len(array.memory))
    elif info.type in (ARRAY, PERCPU_ARRAY):
        with (PerCpuArray if info.type == PERCPU_ARRAY else ArrayMap).duplicate(descriptor) as array:
            count = array.max_entries
            array.put_many(struct.pack(f"<{count}I", *range(count)), bytes(count * len(array.get(0) or b"")), count)
    elif info.type == MAPS:
        with ArrayMap.duplicate(descriptor) as array:
            array.remove(0)
    elif info.type == RINGBUF:
        with RingBuffer.duplicate(descriptor) as ring:
            ring.records()
    elif info.type == QUEUE:
        value = ctypes.create_string_buffer(info.value_size)
        while not libbpf.library().bpf_map_lookup_and_delete_elem(descriptor, None, value):
            pass
    else:
        assert info.type in (HASH, PERCPU_HASH, LRU_HASH, LPM_TRIE, DEVMAP_HASH), info
        with HashMap.duplicate(descriptor) as table:
            for key in list(table.keys()):
                table.remove(key)
