"""Remove what killed processes left of loads, and loads whose programs no device runs any more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator

from pylvs.bpf import kernel, maps
from pylvs.bpf.maps import ArrayMap
from pylvs.dataplane import load
from pylvs.dataplane.devices import attach
from pylvs.dataplane.state import SELECTED, XDP, State
from pylvs.model.errors import Busy, PylvsError
from pylvs.system.lock import Lock


def drop_half_loaded(state: State) -> None:
    """Empty the program array of XDP if its entry program is not pinned: the process that loaded them was killed."""
    if os.path.exists(state.loaded_path(XDP)):
        return
    with ArrayMap.open(state.loaded_path(load.TAILCALLS[0])) as programs:
        for number in range(programs.max_entries):
            programs.remove(number)


def drop_others(state: State, names: Collection[str]) -> None:
    """Remove these loads if no device runs their programs: drafts of killed processes, and former loads."""
    names = [name for name in names if not _is_being_made(state, name)]
    running = {number for each in attach.attached(state) for number in (each.xdp, each.ingress, each.egress) if number}
    used: set[int] = set()
    for program in running:
        with contextlib.suppress(PylvsError):  # it is gone, with its device
            used.update(kernel.describe_program(program).map_ids)
    kept = [name for name in names if used & set(_program_arrays(state, name))]
    if any(os.path.exists(state.pin_path(f"{name}/{SELECTED}")) for name in kept):
        return  # a device runs a switch, which calls programs of other loads
    maps.grace_period()  # a packet may still be in a program that a device ran a moment ago
    for name in set(names) - set(kept):
        state.remove_load(name)


def _is_being_made(state: State, name: str) -> bool:
    """Return whether a living process copies connections for this load."""
    try:
        with Lock(state.pin_path(name), 0):
            return False
    except Busy:
        return True


def _program_arrays(state: State, name: str) -> Iterator[int]:
    """Yield the ids of the program arrays in the directory of a load."""
    for array_name in load.TAILCALLS:
        with state.opened(f"{name}/{array_name}") as array:
            if array is not None:
                yield kernel.map_info(array).id
