"""Sources of tracked objects: a task that fails is logged and started again."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from pylvs.system import logs
from pylvs.vrrp.helper.source import PROGRESS_S, RESTART_S, Source
from tests.unit.health.clock import FakeTimeLoop


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The log."""
    found: list[str] = []

    def write(level: str, fields: dict[str, Any]) -> None:
        found.append(f"{level}: {fields['event']}")

    former = logs.write_with(write)
    yield found
    logs.write_with(former)


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "warning: the scan fails and is tried again"),
        (RuntimeError("can't start new thread"), "error: the scan failed and is started again"),
    ],
)
def test_a_source_that_fails_is_logged_once_and_started_again(
    loop: FakeTimeLoop, lines: list[str], failure: Exception, line: str
) -> None:
    starts: list[float] = []
    failing = True

    async def watch() -> None:
        starts.append(loop.time())
        if failing:
            raise failure
        advanced.append(source.advance())
        await asyncio.sleep(3600)

    async def begin() -> Source:
        return Source("the scan", watch)

    advanced: list[bool] = []
    source = loop.run_until_complete(begin())
    late = []
    for seconds in (PROGRESS_S - 0.1, 0.2):
        loop.pass_(seconds)
        late.append(source.late)
    assert late == [False, True]
    assert len(starts) == 1 + PROGRESS_S // RESTART_S
    assert lines == [line]
    failing = False
    loop.pass_(RESTART_S)
    assert (source.late, advanced) == (False, [True]), "its results are reported again"
    loop.run_until_complete(source.finish())
    loop.pass_(7200)
    assert len(advanced) == 1
