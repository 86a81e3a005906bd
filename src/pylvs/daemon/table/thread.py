"""The end of the thread that reads and edits the tables."""

from __future__ import annotations

from pylvs.daemon.limits import TABLE_LEASE_S
from pylvs.daemon.parts import Part
from pylvs.system.logs import get_logger
from pylvs.system.table_thread import TableThread


class TableThreadPart(Part):
    """Ends the thread behind all parts that use it."""

    def __init__(self, thread: TableThread) -> None:
        self._thread = thread

    async def close(self) -> None:
        if not await self._thread.end(TABLE_LEASE_S):
            get_logger().error("the thread that edits the tables hangs; the process ends without it")
