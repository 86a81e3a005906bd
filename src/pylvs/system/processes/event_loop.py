"""What serving descriptors needs of an event loop: `pylvs.vrrp.loop.Loop` has it, and asyncio by an adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Call = Callable[[], None]


class Timer(Protocol):
    """A callback at a time."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """Timers and watched descriptors; a call must not block."""

    @property
    def now(self) -> float:
        """The time in seconds, monotonic."""
        ...

    def at(self, when: float, call: Call, /) -> Timer:
        """Call once, not before `when`."""
        ...

    def watch(self, descriptor: int, read: Call | None, write: Call | None = None, /) -> None:
        """Call when the descriptor is readable or writable; replaces its former callbacks. Without any, forget it."""
        ...
