"""Garbage collection in a process that has many objects for a long time."""

from __future__ import annotations

import gc

FIRST_GENERATION = 10_000  # new objects before a garbage collection; checks exceed the default, 700, often each second


def settle_garbage() -> None:
    """Collect garbage, then exempt all present objects from later collections.

    Otherwise each full collection visits the whole configuration. With ten thousand servers that stops all checks for
    a third of a second. Call it again after a reload.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(FIRST_GENERATION, *gc.get_threshold()[1:])
