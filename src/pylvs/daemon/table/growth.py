"""Let the connection table grow while the daemon runs, before it is full (`pylvs.dataplane.growth`)."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Awaitable, Callable

from pylvs.daemon.notifications import EventBus
from pylvs.daemon.parts import Part
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.errors import NoSpace, PylvsError
from pylvs.system.logs import get_logger
from pylvs.system.processes import command
from pylvs.system.processes.child import KILLED_S
from pylvs.system.table_thread import TableThread

POLL_S = 5.0
GROWTH_S = 1800.0  # for the growth of the largest table, which takes three minutes on a very busy machine
FIRST_RETRY_S, LAST_RETRY_S = 60.0, 3600.0  # a failure may have cost a copy of all connections


class TableGrowth(Part):
    """Calls `grow` when `larger_capacity` returns one, not 0; after a failure it pauses ever longer."""

    def __init__(
        self,
        larger_capacity: Callable[[], int],
        grow: Callable[[], Awaitable[None]],
        thread: TableThread,
        events: EventBus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._larger_capacity = larger_capacity
        self._grow = grow
        self._thread = thread
        self._events = events
        self._clock = clock
        self._retry_at_s = 0.0
        self._pause_s = FIRST_RETRY_S
        self._log = get_logger()

    async def begin(self, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._run, "watching the size of the connection table")

    async def _run(self) -> None:
        while True:
            await self.step()
            await asyncio.sleep(POLL_S)

    async def step(self) -> None:
        """Let the table grow if it is nearly full, unless that has failed a short time ago."""
        if self._clock() < self._retry_at_s:
            return
        try:
            capacity = await self._thread.run(self._larger_capacity)
        except NoSpace as error:
            self._fail(error)
            return
        except (PylvsError, OSError):  # the reconciler reports tables that cannot be read
            return
        if not capacity:
            return
        self._log.info("the connection table is nearly full and grows", capacity=capacity)
        try:
            await self._grow()
        except (PylvsError, OSError) as error:
            self._fail(error)
            return
        self._pause_s = FIRST_RETRY_S
        self._log.info("the connection table has grown", capacity=capacity)
        self._events.publish("table_grown", capacity=capacity)

    def _fail(self, error: Exception) -> None:
        self._retry_at_s = self._clock() + self._pause_s
        self._log.error(f"the connection table is nearly full and cannot grow: {error}", retry_in_s=self._pause_s)
        self._events.publish("table_not_grown", reason=str(error))
        self._pause_s = min(2 * self._pause_s, LAST_RETRY_S)


async def grow(tables_namespace: str) -> None:
    """Enlarge the connection table in another process: the copy of millions of connections takes its memory.

    It may be killed at any step. Raises PylvsError.
    """
    growing = await asyncio.create_subprocess_exec(
        *command("pylvs.dataplane.growth", *filter(None, [tables_namespace])),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(GROWTH_S):
            _, errors = await growing.communicate()
    except BaseException as error:
        await _kill(growing)
        if isinstance(error, TimeoutError):
            raise PylvsError(f"it has not grown within {GROWTH_S:g} s; the process was killed") from None
        raise
    if growing.returncode:
        raise PylvsError(errors.decode(errors="replace").strip() or f"exit status {growing.returncode}")


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        process.kill()
        async with asyncio.timeout(KILLED_S):
            await process.wait()
