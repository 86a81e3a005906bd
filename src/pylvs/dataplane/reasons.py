"""What happened to packets beyond being forwarded, counted under names."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.dataplane import abi
from pylvs.dataplane.tables import Tables

_PREFIX = "REASON_"
_NOT_COUNTED = ("REASONS", "REASON_NONE")


def reason_names() -> Mapping[int, str]:
    """Every name, by its number in bpf/abi.h: "table full dropped"."""
    return {
        number: name.removeprefix(_PREFIX).lower().replace("_", " ")
        for name, number in abi.shipped().enum("reason").items()
        if name not in _NOT_COUNTED
    }


def reason_counts(tables: Tables) -> Mapping[str, int]:
    """How many packets each name has, zeros among them."""
    return {name: tables.reasons.sums(number)[0] for number, name in reason_names().items()}
