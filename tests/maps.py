"""Whole contents of maps."""

from __future__ import annotations

from pylvs.bpf.maps import HashMap, PerCpuArray


def clear(table: HashMap) -> None:
    """Delete all elements."""
    for keys, _values, count in table.chunks():
        table.remove_many(bytes(keys[: count * table.key_size]), count)


def values(array: PerCpuArray, index: int) -> list[bytes]:
    """Return the values of all CPUs."""
    raw = array.get(index) or b""
    return [raw[start : start + array.value_size] for start in range(0, len(raw), array.stride)]
