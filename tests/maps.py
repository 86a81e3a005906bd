"""Maps without an object file; whole contents of maps."""

from __future__ import annotations

import ctypes
import struct

from pylvs.bpf.libbpf import check, library
from pylvs.bpf.maps import HashMap, PerCpuArray

MMAPABLE = 1 << 10  # BPF_F_MMAPABLE


def create_map(kind: int, name: str, key_size: int, value_size: int, max_entries: int, flags: int = 0) -> int:
    """Create a map without an object file; return its descriptor, which the caller closes.

    Raises NoRoom, NotPermitted.
    """
    # struct bpf_map_create_opts: sz, four numbers of BTF, inner_map_fd, map_flags
    options = ctypes.create_string_buffer(struct.pack("<Q4III", 32, 0, 0, 0, 0, 0, flags), 32)
    done = library().bpf_map_create(kind, name.encode()[:15], key_size, value_size, max_entries, options)
    return check(done, f"creating map {name} of {max_entries} elements")


def clear(table: HashMap) -> None:
    """Delete all elements."""
    for keys, _values, count in table.chunks():
        table.remove_many(bytes(keys[: count * table.key_size]), count)


def values(array: PerCpuArray, index: int) -> list[bytes]:
    """Return the values of all CPUs."""
    raw = array.get(index) or b""
    return [raw[start : start + array.value_size] for start in range(0, len(raw), array.stride)]
