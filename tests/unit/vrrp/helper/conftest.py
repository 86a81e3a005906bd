"""Fixtures of several files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.health.clock import FakeTimeLoop


@pytest.fixture
def loop() -> Iterator[FakeTimeLoop]:
    """Return an event loop in simulated time."""
    loop = FakeTimeLoop()
    yield loop
    loop.close()
