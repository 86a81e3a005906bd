"""What happened beyond forwarding: to packets, counted under names, and to connections whose time was up."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.dataplane import abi
from pylvs.dataplane.tables import Tables
from pylvs.model.statistics import Expiry

_PREFIX = "REASON_"
_NOT_COUNTED = ("REASONS", "REASON_NONE")


def reason_names() -> Mapping[int, str]:
    """Every name, by its number in bpf/abi/base.h: "table full dropped"."""
    return {
        number: name.removeprefix(_PREFIX).lower().replace("_", " ")
        for name, number in abi.shipped().enum("reason").items()
        if name not in _NOT_COUNTED
    }


def reason_counts(tables: Tables) -> Mapping[str, int]:
    """How many packets each name has, zeros among them."""
    return {name: tables.reasons.sums(number)[0] for number, name in reason_names().items()}


def expiry(tables: Tables) -> Expiry | None:
    """What ending connections cost since the packet path was loaded; None where that is not noted yet."""
    try:
        found = tables.pace.read(0)
    except FileNotFoundError:  # an older pylvs made these tables
        return None
    return Expiry(found["ended"], found["goes"], found["spent_ns"] / 1e9, found["longest_ns"] / 1e9)
