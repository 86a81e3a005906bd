"""Memory that is returned to the kernel after a burst."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from pylvs.system import garbage
from pylvs.system.garbage import MemoryReturn

MB = 1 << 20


def returned(sizes: list[int], less: int) -> list[int]:
    """Let a process have these sizes one after another; return those at which memory was returned."""
    found: list[int] = []
    now = [0]

    def size() -> int:
        return now[0]

    def give_back() -> None:
        found.append(now[0])
        now[0] -= less

    async def scenario() -> None:
        memory = MemoryReturn(size, give_back, 0)
        running = asyncio.create_task(memory.run())
        for used in sizes:
            now[0], before = used, memory.looks
            while memory.looks == before:
                await asyncio.sleep(0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    return found


def test_memory_is_returned_after_each_growth_and_not_again_without_one() -> None:
    sizes = [72 * MB, 72 * MB, 73 * MB, 90 * MB, 72 * MB, 110 * MB, 72 * MB, 72 * MB]
    assert returned(sizes, 0) == [72 * MB, 90 * MB, 110 * MB]
    assert returned([50 * MB, 60 * MB, 60 * MB, 60 * MB], 0) == [50 * MB, 60 * MB], "what is needed is not tried again"


def test_a_large_block_and_many_small_ones_leave_the_process() -> None:
    """The size of this process is read before and behind; half of the blocks is a generous margin."""
    with contextlib.suppress(AttributeError):
        garbage.return_memory()
    before = garbage.resident()
    blocks = [[bytes(2000) for _ in range(20_000)], [bytes(64 * MB)]]
    held = garbage.resident()
    assert held - before > 30 * MB
    del blocks
    garbage.return_memory()
    assert garbage.resident() - before < (held - before) // 2


def test_a_library_without_these_functions_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    garbage.limit_arenas()
    garbage.return_memory()
