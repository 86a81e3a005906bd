"""Signals as calls in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping


@contextlib.contextmanager
def handled(actions: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Within, each of these signals calls something instead of ending the process. In the main thread alone."""
    loop = asyncio.get_running_loop()
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)
