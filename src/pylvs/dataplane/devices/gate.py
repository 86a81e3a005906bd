"""A gate between the devices and the packet path: one store opens it for all devices and hooks.

While it is closed, each device runs a program that passes all packets to the stack, where the kernel's IPVS serves.
Then one store lets all devices use the packet path. Attaching many devices takes a while. Without a gate, a request
could reach pylvs and its reply IPVS.

The gate is pinned. So it stays as it is if the process that closed or opened it is killed. While it is there, all edits
but those of that process are refused.
"""

from __future__ import annotations

import contextlib
import os

from pylvs.bpf import kernel, libbpf, maps
from pylvs.bpf.maps import MMAPABLE, ArrayMap, MmapArray
from pylvs.dataplane import load
from pylvs.dataplane.devices import attach
from pylvs.dataplane.devices.move import OPEN
from pylvs.dataplane.state import ENTRIES, GATE, OLD_GATE, RESTORE, SELECTED, XDP, State
from pylvs.model.errors import Unsupported

_ARRAY, _PROGRAM_ARRAY = 2, 3  # BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PROG_ARRAY


def close(state: State, is_open: bool = False) -> None:
    """Make a closed gate, or an open one. The caller holds the lock, and attaches the devices then."""
    draft = f"new-{GATE}"
    for left in (draft, OLD_GATE):
        state.remove_load(left)
    os.mkdir(state.pin_path(draft), 0o700)
    with contextlib.ExitStack() as opened:
        selected = libbpf.create_map(_ARRAY, SELECTED, 4, 8, 1, MMAPABLE)
        opened.callback(os.close, selected)
        libbpf.pin(selected, state.pin_path(f"{draft}/{SELECTED}"))
        with MmapArray.duplicate(selected) as words:
            words.publish(0, 0, OPEN if is_open else 0)
        for name in load.TAILCALLS:
            array = libbpf.create_map(_PROGRAM_ARRAY, name, 4, 4, 2 * len(ENTRIES))
            opened.callback(os.close, array)
            libbpf.pin(array, state.pin_path(f"{draft}/{name}"))
    os.rename(state.pin_path(draft), state.pin_path(GATE))


def open_all(state: State) -> None:
    """Let the packets of all devices use the packet path, and wait until none is in the stack's turn any more."""
    with MmapArray.open(state.pin_path(f"{GATE}/{SELECTED}")) as selected:
        selected.publish(0, 0, OPEN)
    maps.grace_period()


def shut(state: State) -> None:
    """Let the packets of all devices pass to the stack."""
    with MmapArray.open(state.pin_path(f"{GATE}/{SELECTED}")) as selected:
        selected.publish(0, 0, 0)
    maps.grace_period()


def entry(state: State, name: str) -> int:
    """Return a descriptor of the gate's program in place of an entry program, made at the first call.

    The caller closes it, and holds the lock. Raises what `load.open_entry` does.
    """
    pin = state.pin_path(f"{GATE}/{name}")
    program = libbpf.open_pin(pin)
    if program is not None:
        return program
    with contextlib.ExitStack() as opened:

        def kept(descriptor: int | None) -> int:
            if descriptor is None:
                raise Unsupported(f"{state.path}: the gate is incomplete; run pylvs down")
            opened.callback(os.close, descriptor)
            return descriptor

        real = kept(load.open_entry(state, name))
        array = kept(libbpf.open_pin(state.pin_path(f"{GATE}/{load.TAILCALLS[name != XDP]}")))
        selected = kept(libbpf.open_pin(state.pin_path(f"{GATE}/{SELECTED}")))
        first = 2 * ENTRIES.index(name)
        with ArrayMap.duplicate(array) as programs:
            programs.put_descriptor(first + OPEN, real)  # the one before it stays empty: the packet passes
        program = kernel.load_switch(name == XDP, array, selected, first)
        libbpf.pin(program, pin)
        return program


def withdraw(state: State) -> None:
    """Let the next reconciliation attach the packet path itself; until then devices run the gate as it is."""
    state.remove_load(OLD_GATE)
    os.rename(state.pin_path(GATE), state.pin_path(OLD_GATE))


def remove(state: State) -> None:
    """Remove a gate that was withdrawn, and the program that inserts connections, unless a device still runs it."""
    running = {number for each in attach.attached(state) for number in (each.xdp, each.ingress, each.egress)}
    for name in ENTRIES:
        with state.opened(f"{OLD_GATE}/{name}") as program:
            if program is not None and kernel.program_info(program).id in running:
                return
    maps.grace_period()  # a packet may still be in it
    state.remove_load(OLD_GATE)
    libbpf.unpin(state.loaded_path(RESTORE))
