"""Read only the used pages of the connection table: a large one is mostly empty."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pylvs.bpf import abi
from pylvs.bpf.maps import PAGE, LargeArray, MmapArray
from pylvs.dataplane.connections import ConnectionReader
from pylvs.dataplane.tables import Tables

_BETWEEN_READS_S = 0.02  # longer than the timer takes for one page
_PAGES_AT_ONCE = 256  # with one reading of the clock


def _numbers(ticks: MmapArray) -> Iterator[int]:
    """Yield the numbers of the ticks that are set."""
    return (number for number, tick in enumerate(memoryview(ticks.memory).cast("I").tolist()) if tick)


class UsedPageReader(ConnectionReader):
    """Reads entry by entry, as listings do. A connection that begins while it reads may be missing."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self._pages = 0  # that were read

    def _blocks(self, stride: int) -> Iterator[tuple[int, bytes]]:
        """Yield the pages in which the expiry timer expects a connection.

        The timer takes a tick away while it looks at the page. So the ticks are read twice.
        """
        ticks = self._tables.open_array("expiry_ticks")
        used = set(_numbers(ticks))
        time.sleep(_BETWEEN_READS_S)
        used |= set(_numbers(ticks))
        table, slots = LargeArray.open(self._tables.path("connections")), abi.constant("TICK_SLOTS")
        assert slots * stride == PAGE
        for number, page in table.pages(sorted(used)):
            yield number * slots, page

    def _begin_block(self) -> None:
        if self._pages % _PAGES_AT_ONCE == 0:
            super()._begin_block()
        self._pages += 1
