"""Fixtures of all unit tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def _modules_are_no_garbage() -> Iterator[None]:
    """Exclude from garbage collection what existed before the first test, because it would take most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _leaks_are_found_where_they_were_made(_modules_are_no_garbage: None) -> Iterator[None]:
    """Collect garbage after each module.

    Open tasks, coroutines and sockets warn when they are collected, and a warning is a failure. Without this, the
    failure would be that of the test which runs during a later collection.
    """
    yield
    gc.collect()
