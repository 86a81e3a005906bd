"""Run scripts in a test, as the daemon does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from pylvs.system.processes.scripts import Processes
from tests.waiting import PATIENCE_S

T = TypeVar("T")
LONG_S = PATIENCE_S
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can become another user")


def run(
    work: Callable[[Processes], Awaitable[T]],
    security: bool = False,
    at_once: int = 8,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run a coroutine with a `Processes` that is closed afterwards."""

    async def whole() -> T:
        processes = Processes(security=security, at_once=at_once)
        try:
            async with asyncio.timeout(LONG_S * 4):
                return await work(processes)
        finally:
            await processes.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(whole())
