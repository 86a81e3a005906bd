"""How long the phases of the daemon's start and stop may take, and waiting for what may hang."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from pylvs.daemon.state.overrides import SLOW_S
from pylvs.daemon.virtual_routers import supervision

TABLES_S = 300.0  # at the start, to open the tables, and for each attempt to make the first one
SCRIPTS_S = 30.0  # beyond the timeout of a script, until it has ended
TABLE_LEASE_S = 30.0  # longer than a call waits for the lock of the tables
CHANGE_END_S = 60.0  # at the stop, for a start or a reload that is under way
LAST_EDITS_TIMEOUT_S = 15.0  # for deleting the services at the stop
CLOSE_S = 60.0  # for the last notifications and the end of other processes, without the shutdown_script
# For the stop until everything is closed: the sum of its parts.
STOP_S = supervision.STOP_S + CHANGE_END_S + LAST_EDITS_TIMEOUT_S + SLOW_S + 2 * TABLE_LEASE_S


async def ends_before(event: asyncio.Event, work: asyncio.Future[None]) -> bool:
    """Wait for the end of the work or for the event; return whether the work has ended. Raises what it raises."""
    waiting = asyncio.ensure_future(event.wait())
    both: set[asyncio.Future[Any]] = {work, waiting}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if work.done():
        work.result()
    return work.done()


@contextlib.asynccontextmanager
async def locked(lock: asyncio.Lock, timeout_s: float) -> AsyncIterator[bool]:
    """Hold the lock within the block. After the timeout the block runs without it, and gets False."""
    held = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            held = await lock.acquire()
    try:
        yield held
    finally:
        if held:
            lock.release()
