"""What stays is looked at no more, and what is gone is collected all the same."""

from __future__ import annotations

import gc
import weakref

from pylvs.system import garbage


class Ring:
    """Refers to itself, so only the collector can end it."""

    def __init__(self) -> None:
        self.own = self


def test_what_is_there_is_frozen_and_what_is_gone_is_collected_at_the_next_time() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        kept = Ring()
        garbage.settle()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > before[0]
        seen = weakref.ref(kept)
        del kept
        gc.collect()
        assert seen() is not None  # frozen
        garbage.settle()
        assert seen() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        if frozen:  # as all tests have it
            gc.freeze()
