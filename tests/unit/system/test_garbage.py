"""Freezing of present objects, and collection of those that become unreachable later."""

from __future__ import annotations

import gc
import weakref

from pylvs.system.garbage import settle_garbage


class Ring:
    """An object that refers to itself, so only the collector can free it."""

    def __init__(self) -> None:
        self.own = self


def test_present_objects_are_frozen_and_unreachable_ones_are_collected_at_the_next_call() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        kept = Ring()
        settle_garbage()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > before[0]
        seen = weakref.ref(kept)
        del kept
        gc.collect()
        assert seen() is not None  # frozen
        settle_garbage()
        assert seen() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        if frozen:  # as all tests have it
            gc.freeze()
