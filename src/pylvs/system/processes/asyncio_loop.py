"""asyncio's running loop as a `pylvs.system.processes.event_loop.Loop`, and the end of a process as an awaitable."""

from __future__ import annotations

import asyncio

from pylvs.system.processes.child import Child
from pylvs.system.processes.event_loop import Call


class AsyncioLoop:
    """The loop that runs when a method is called."""

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def at(self, when: float, call: Call) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_at(when, call)

    def watch(self, descriptor: int, read: Call | None, write: Call | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, read) if read else loop.remove_reader(descriptor)
        loop.add_writer(descriptor, write) if write else loop.remove_writer(descriptor)


async def closed(child: Child, patience_s: float = 0.0) -> None:
    """Close a process, and wait until it is gone."""
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    child.close(patience_s, lambda: None if gone.done() else gone.set_result(None))
    await gone
