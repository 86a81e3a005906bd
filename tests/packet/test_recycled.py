"""The maps of a recycled load hold the same as those of a new one."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from pylvs.bpf import kernel, libbpf
from pylvs.bpf.maps import ArrayMap, HashMap, MmapArray, PerCpuArray, PerCpuHash, QueueMap, RingBuffer
from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from tests.packet import host
from tests.packet.frames import tcp
from tests.packet.host import HOOKS, new_host, populated_namespace
from tests.recycled import (
    ARRAY,
    DEVMAP_HASH,
    MAPS,
    PERCPU_ARRAY,
    PERCPU_HASH,
    PROG_ARRAY,
    QUEUE,
    RINGBUF,
    TIMERS,
    Load,
    Stock,
)
from tests.waiting import until

start_timers = load.start_timers
SIZE = 1024
DIRT = b"\x01\x00\xff"


@pytest.fixture
def stock() -> Iterator[Stock]:
    made = Stock()
    yield made
    made.close()


@contextmanager
def made(stock: Stock) -> Iterator[State]:
    """Make a state without timers in a new namespace. At the end the stock keeps its load."""
    with (
        populated_namespace(),
        mock.patch.object(kernel, "connection_limit", return_value=SIZE),
        mock.patch.object(load, "destination_limit", return_value=512),
        mock.patch.object(load, "create", stock.create),
        mock.patch.object(load, "start_timers"),
        mock.patch.object(os, "urandom", lambda count: b"\x55" * count),  # the same keys each time
    ):
        director = BpfDirector(State.open())
        director.make()
        with stock.keeping(director.state):
            try:
                yield director.state
            finally:
                load.take_down(director.state)


def contents(state: State) -> dict[str, dict[bytes, bytes]]:
    """Return what each map holds, but for zeros in arrays."""
    found = Load.of(state)
    try:
        return {name.split()[0]: _elements(descriptor) for name, descriptor in found.maps.items()}
    finally:
        found.close()


def _elements(descriptor: int) -> dict[bytes, bytes]:
    kind = kernel.map_info(descriptor).type
    if kind == QUEUE:
        with QueueMap.duplicate(descriptor) as queue:
            value = ctypes.create_string_buffer(queue.value_size)
            missing = libbpf.library().bpf_map_lookup_elem(descriptor, None, value)
            return {} if missing else {b"first": value.raw}
    if kind == RINGBUF:
        with RingBuffer.duplicate(descriptor) as ring:
            records = ring.records()
            return {b"records": b"".join(records)} if records else {}
    if kind in (ARRAY, PERCPU_ARRAY, PROG_ARRAY, MAPS):
        with (PerCpuArray if kind == PERCPU_ARRAY else ArrayMap).duplicate(descriptor) as array:
            found = {struct.pack("<I", index): array.get(index) or b"" for index in range(array.max_entries)}
    else:
        with (PerCpuHash if kind == PERCPU_HASH else HashMap).duplicate(descriptor) as table:
            found = {key: table.get(key) or b"" for key in [*table.keys()]}
    is_array = kind in (ARRAY, PERCPU_ARRAY)
    return {key: value for key, value in found.items() if not (is_array and value == bytes(len(value)))}


def soil(state: State) -> None:
    """Write to all elements of all arrays, and add elements to all other maps."""
    found = Load.of(state)
    try:
        for name, descriptor in found.maps.items():
            info = kernel.map_info(descriptor)
            dirt = (DIRT * info.value_size)[: info.value_size]
            if info.type in (PROG_ARRAY, MAPS, RINGBUF) or name in TIMERS or ".rodata" in name:
                continue  # only programs write to a ring buffer
            if info.type == QUEUE:
                with QueueMap.duplicate(descriptor) as queue:
                    queue.push(dirt)
                    queue.push(dirt)
            elif info.type == PERCPU_ARRAY:
                with PerCpuArray.duplicate(descriptor) as array:
                    for index in range(array.max_entries):
                        array.fill(index, dirt)
            elif info.type == ARRAY:
                with ArrayMap.duplicate(descriptor) as array:
                    for index in range(array.max_entries):
                        array.put(index, dirt)
            else:
                with (PerCpuHash if info.type == PERCPU_HASH else HashMap).duplicate(descriptor) as table:
                    if info.type == DEVMAP_HASH:
                        dirt = struct.pack("<I", socket.if_nametoindex("d0"))
                    for first in range(1, 4):  # the key of a trie begins with the length of its prefix
                        key = struct.pack("<I", first).ljust(info.key_size, b"\x02")
                        table.put(key, dirt.ljust(table._width(), b"\1"))
    finally:
        found.close()


def test_its_maps_hold_what_those_of_a_new_load_do(stock: Stock) -> None:
    with made(stock) as state:
        new = contents(state)
        soil(state)
        soiled = contents(state)
    with made(stock) as state:
        assert not stock.loads, "it was not used"
        again = contents(state)
    unlike = {name for name in new if new[name] != soiled[name]}
    written_by_programs = "conn_log", "sync_counts", "sync_rings"
    assert new.keys() - unlike == {*TIMERS, *written_by_programs, "director.rodata", *load.TAILCALLS, "tracers_tc"}
    assert again == new


def test_its_timers_stand_still_until_its_next_state(stock: Stock) -> None:
    with made(stock) as state:
        start_timers(state)
    kept = stock.loads[SIZE]
    with new_host() as other:  # its timers show that time passes
        begin = other.pool("sweeps")
        until(lambda: other.pool("sweeps") - begin & 0xFFFFFFFF >= 2, "two rounds of another host's timer")
    with MmapArray.duplicate(kept.maps["timer_runs"]) as runs:
        assert not any(runs.memory)


def test_a_host_has_the_programs_of_an_earlier_one_and_nothing_else(stock: Stock) -> None:
    with mock.patch.object(host, "stock", stock):
        with new_host(recycled=True, expires=False) as first:
            service = first.new_key()
            first.serve(service, scheduler="lblc")
            for hook in HOOKS:
                first.forwarded(tcp("S", target=str(service.address), dport=service.port), hook)
            programs = [kernel.program_info(first.program(hook)).id for hook in HOOKS]
            assert list(first.director.connections())
        with new_host(recycled=True) as second:
            assert [kernel.program_info(second.program(hook)).id for hook in HOOKS] == programs
            assert not list(second.director.connections())
            assert not second.director.services()
