"""What all unit tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def _modules_are_no_garbage() -> Iterator[None]:
    """Let the collector look no more at what was there before the first test: it would take most of its time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _leaks_are_found_where_they_were_made(_modules_are_no_garbage: None) -> Iterator[None]:
    """Collect garbage after each module.

    Tasks, coroutines and sockets that nobody ended warn when they are collected, and here a warning is a failure.
    Without this it would be a failure of whichever test runs when the collector happens to.
    """
    yield
    gc.collect()
