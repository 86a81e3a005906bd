"""The daemon follows the addresses and devices of its host."""

from __future__ import annotations

import asyncio
import time
from unittest.mock import patch

from pylvs.daemon.host import call_at_changes
from pylvs.dataplane.devices.watch import GATHER_S, RETRY_S
from tests.unit.health.clock import START_S, FakeTimeLoop


def test_an_update_that_waited_long_delays_the_next_one_by_seconds() -> None:
    """A director that gets its address must check its servers, even if the table was locked for long."""
    loop = FakeTimeLoop()
    changed = asyncio.Event()
    begun: list[float] = []

    async def update() -> float:
        begun.append(loop.time() - START_S)
        if len(begun) == 1:
            await asyncio.sleep(60)
            changed.set()
        return 3600.0

    with patch.object(time, "monotonic", loop.time):
        task = loop.create_task(call_at_changes(update, changed))
        loop.pass_(600)
        task.cancel()
        loop.close()
    first, second = begun
    assert 60 < second - first <= 60 + RETRY_S + GATHER_S
