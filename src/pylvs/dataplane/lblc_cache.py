"""What lblc and lblcr remember of targets (IPVS-SEMANTICS 3.9, 3.10): packets fill it, a timer empties it."""

from __future__ import annotations

import os

from pylvs.bpf import abi, kernel
from pylvs.bpf.libbpf import open_pin
from pylvs.dataplane import load
from pylvs.dataplane.state import State
from pylvs.dataplane.transaction import Transaction

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


def remembers(version: dict[str, Any]) -> bool:
    """Whether a service's scheduler remembers targets."""
    names = "SCHED_LBLC", "SCHED_LBLCR"
    return bool(version["present"]) and version["scheduler"] in [abi.constant(name) for name in names]


def began(edit: Transaction, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a version whose scheduler begins with this edit: nothing that was remembered before is its own."""
    if not remembers(fields):
        return {}
    return {"epoch": edit.generation, "epoch_tick": load.clock(edit.tables.state)}


def sweep(state: State) -> None:
    """Forget what services remembered that are there no more, or have another scheduler."""
    program = open_pin(state.pin_path(load.CACHE_SWEEP))
    if program is not None:
        try:
            while kernel.run_program(program, bytes(64)).verdict:
                pass
        finally:
            os.close(program)
