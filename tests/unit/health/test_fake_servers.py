"""The servers of these tests leave nothing open, at any moment in which a test ends."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings

import pytest

from tests.unit.health.fake_servers import Loop, silent, tcp


@pytest.mark.parametrize("turns", range(8))
def test_the_end_closes_a_connection_that_has_just_come(turns: int) -> None:
    """The event loop takes some turns from a connection to its handler."""

    async def scenario() -> None:
        async with tcp(silent) as target:
            with socket.create_connection((str(target.address), target.port)):
                for _ in range(turns):
                    await asyncio.sleep(0)

    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(scenario())
        gc.collect()
    assert not [str(each.message) for each in caught]
