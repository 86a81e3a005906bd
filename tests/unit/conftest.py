"""What all unit tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _leaks_are_found_where_they_were_made() -> Iterator[None]:
    """Collect garbage after each module.

    Tasks, coroutines and sockets that nobody ended warn when they are collected, and here a warning is a failure.
    Without this it would be a failure of whichever test runs when the collector happens to. A daemon's start freezes
    what there is and lets the collector run more rarely: that is undone.
    """
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.collect()
