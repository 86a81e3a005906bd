"""The schedulers of IPVS by name. Their numbers are those of `bpf/abi/config.h`."""

from __future__ import annotations

DEFAULT_SCHEDULER = "wlc"
NO_SCHEDULER = "none"  # a service without one: every new connection finds no destination
NAME_LENGTH = 15  # longer names are cut, as ipvsadm does

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "dh", "sh", "mh", "lblc", "lblcr")
KERNEL_SCHEDULERS = SCHEDULERS  # those of the data plane and of IPVS are the same


def scheduler_number(name: str) -> int:
    """The number the data plane knows a scheduler by; 0 is "none"; ValueError for one there is not."""
    if name == NO_SCHEDULER:
        return 0
    return SCHEDULERS.index(name) + 1


def scheduler_name(number: int) -> str:
    """The inverse of `scheduler_number`."""
    return SCHEDULERS[number - 1] if number else NO_SCHEDULER
