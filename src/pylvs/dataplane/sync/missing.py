"""Tables that another process may remove at any moment, for sync daemons that run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pylvs.dataplane.state import State
from pylvs.model.errors import Busy, PylvsError


class NoTables(PylvsError):
    """This network namespace has no tables."""


def require(state: State) -> None:
    """Raise NoTables without tables."""
    if not state.exists:
        raise NoTables("no tables in this network namespace: ipvsadm -A makes them")


@contextmanager
def reported(state: State) -> Iterator[None]:
    """Raise NoTables, or Busy, if the block does not find a pin: another process has removed or replaced the tables."""
    try:
        yield
    except FileNotFoundError as error:
        require(state)
        raise Busy(f"{error.filename}: the tables have just been removed or replaced: try again") from None
