"""Python's garbage collector in a process that lives long and holds much."""

from __future__ import annotations

import gc

_FIRST_GENERATION = 10_000  # objects more than there were; 700 by default, which a second of checks passes often


def settle() -> None:
    """What is there now will stay: collect what is not needed any more, and look at the rest no more.

    Else each full collection goes through the whole configuration (ten thousand servers: a third of a second, in which
    no check goes on). To be called again when much of it has changed.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_FIRST_GENERATION, *gc.get_threshold()[1:])
