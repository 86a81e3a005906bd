"""The firewall marks of checks through a virtual address (`via vip`): each names the one real server that it asks.

They count only on packets of the director's own sockets, so no packet from outside can have one. `bpf/abi/marks.h` has
the same numbers; `ipvsadm` does not list their services.
"""

from __future__ import annotations

FIRST = 0x50560000
MASK = 0xFFFF0000
COUNT = 0x10000


def is_probe_mark(mark: int) -> bool:
    """Whether it is one of them."""
    return mark & MASK == FIRST
