"""The schedulers by name, with their numbers in the tables: those of the files in `bpf/lb/schedulers/`."""

from __future__ import annotations

from pylvs.bpf import abi
from pylvs.model.service import NO_SCHEDULER

NUMBERS = {
    name.removeprefix("SCHED_").lower(): number
    for name, number in abi.shipped().enum("scheduler").items()
    if name != "SCHEDULERS"  # how many there are
}
NAMES = {number: name for name, number in NUMBERS.items()}
SCHEDULERS = tuple(name for name in NUMBERS if name != NO_SCHEDULER)
