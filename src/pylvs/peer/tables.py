"""The tables of this network namespace, for copies: opened when they are there, and again when others replace them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from pylvs.dataplane.state import State
from pylvs.peer.records import Clock, ConnectionTransfer, Part, Taken


class Copies(Protocol):
    """What is needed of ConnectionTransfer."""

    @property
    def is_stale(self) -> bool: ...

    def close(self) -> None: ...

    def clock(self) -> Clock: ...

    def generation(self) -> int: ...

    def live(self) -> int: ...

    def has_calls(self) -> bool: ...

    def lock(self) -> AbstractContextManager[object]: ...

    def names(self) -> Iterator[tuple[int, bytes]]: ...

    def slots(self, names: dict[int, bytes]) -> dict[int, int]: ...

    def dump(self, part: Part, changes: bool = False) -> Iterator[bytes]: ...

    def has_templates(self, records: bytes) -> bool: ...

    def take(
        self,
        part: Part,
        records: bytes,
        destinations: dict[int, int],
        templates: dict[int, int],
        theirs: Clock,
        ours: Clock,
    ) -> Taken: ...


class Tables:
    """Opens them on request; `epoch` counts how often other ones were opened."""

    def __init__(self, make: Callable[[], Copies | None]) -> None:
        """`make` returns None while there are no tables. It raises PylvsError."""
        self._make = make
        self._copies: Copies | None = None
        self.epoch = 0

    def opened(self) -> Copies | None:
        """Return the tables in force, None while there are none. Raises PylvsError."""
        if self._copies is not None and self._copies.is_stale:
            self._copies.close()
            self._copies = None
        if self._copies is None:
            self._copies = self._make()
            self.epoch += self._copies is not None
        return self._copies


def open_tables() -> ConnectionTransfer | None:
    """Return the tables of this network namespace. Raises PylvsError."""
    state = State.open()
    return ConnectionTransfer(state) if state.exists else None
