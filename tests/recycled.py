"""Loads of the packet path that several directors use, one after the other.

The verifier takes half a second for the programs of a director, which is most of what a short test costs. A stock keeps
the load of a state that is removed, by descriptors of its maps and programs. For the next state of this size it empties
the maps, and pins all of them again. tests/packet/test_recycled.py compares them with those of a new load.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest import mock

from pylvs.bpf import kernel, libbpf
from pylvs.bpf.maps import MMAPABLE, ArrayMap, HashMap, MmapArray
from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import LOADED, State
from pylvs.dataplane.tables import Tables
from pylvs.system import syscalls

HASH, ARRAY, PROG_ARRAY, PERCPU_ARRAY, LRU_HASH, LPM_TRIE, QUEUE, DEVMAP_HASH = 1, 2, 3, 6, 9, 11, 22, 25  # linux/bpf.h
TIMERS = ("sweepers", "estimators", "cache_sweepers")  # maps with the timers: a write to such an element cancels it
MOST = 2  # loads in a stock; each takes 200 MB
_BATCH_BYTES = 1 << 20
_MEMBARRIER_CMD_GLOBAL = 1  # linux/membarrier.h
_create = load.create


@dataclass(frozen=True)
class Load:
    """A load: descriptors of what is pinned of it, and of all its maps."""

    connections: int
    seeds: tuple[int, ...]
    pins: dict[str, int]
    maps: dict[str, int]

    @classmethod
    def of(cls, state: State) -> Load:
        """Open the load of a state."""
        with ExitStack() as until:
            pins: dict[str, int] = {}
            for name in os.listdir(state.pin_path(LOADED)):
                if not os.path.islink(state.loaded_path(name)):  # not a note
                    descriptor = libbpf.open_pin(state.loaded_path(name))
                    assert descriptor is not None, name
                    pins[name] = descriptor
                    until.callback(os.close, descriptor)
            maps: dict[str, int] = {}
            for number in _map_ids(pins):
                descriptor = kernel.map_by_id(number)
                until.callback(os.close, descriptor)
                name = kernel.map_info(descriptor).name
                maps[f"{name} {number}" if "." in name else name] = descriptor  # XDP and TC have a .bss each
            found = cls(*load.pool_shape(Tables(state)), pins, maps)
            until.pop_all()
        return found

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in (*self.pins.values(), *self.maps.values()):
            os.close(descriptor)

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
        if kept.connections not in self.loads and len(self.loads) == MOST:
            self.loads.pop(next(iter(self.loads))).close()  # the oldest
        if former := self.loads.get(kept.connections):
            former.close()
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
            with ArrayMap.duplicate(descriptor) as programs:
                for index in range(info.max_entries):
                    if program := programs.get(index):
                        found.update(kernel.describe_program(*struct.unpack("<I", program)).map_ids)
    return found


def clear(descriptor: int) -> None:
    """Let a map hold nothing, or zeros. Constants and program arrays stay."""
    info = kernel.map_info(descriptor)
    if info.type == PROG_ARRAY or info.name.endswith(".rodata"):
        return
    if info.type == ARRAY and info.flags & MMAPABLE:
        with MmapArray.duplicate(descriptor) as array:
            array.memory[:] = bytes(len(array.memory))
    elif info.type in (ARRAY, PERCPU_ARRAY):
        _zero(descriptor, info)
    elif info.type == QUEUE:
        value = ctypes.create_string_buffer(info.value_size)
        while not libbpf.library().bpf_map_lookup_and_delete_elem(descriptor, None, value):
            pass
    else:
        assert info.type in (HASH, LRU_HASH, LPM_TRIE, DEVMAP_HASH), info
        with HashMap.duplicate(descriptor) as table:
            for key in list(table.keys()):
                table.remove(key)


def _zero(descriptor: int, info: kernel.MapInfo) -> None:
    """Write zeros to each element of an array."""
    width = (info.value_size + 7 & ~7) * (libbpf.possible_cpus() if info.type == PERCPU_ARRAY else 1)
    size = min(info.max_entries, max(_BATCH_BYTES // width, 1))
    zeros = bytes(size * width)
    for first in range(0, info.max_entries, size):
        keys = range(first, min(first + size, info.max_entries))
        count = ctypes.c_uint32(len(keys))
        packed = struct.pack(f"<{len(keys)}I", *keys)
        failed = libbpf.library().bpf_map_update_batch(descriptor, packed, zeros, ctypes.byref(count), None)
        assert not failed, f"{info.name}: {os.strerror(ctypes.get_errno())}"
