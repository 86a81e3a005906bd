"""Which running daemon keeps a service, for those who edit the table beside it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from pylvs.daemon.state.directory import StateDirectory, daemons_of
from pylvs.daemon.state.saved import load_owned
from pylvs.model.service import ServiceKey


class Owner(NamedTuple):
    """A service that a daemon keeps, the daemon's process and its state directory."""

    key: ServiceKey
    process: int
    state: StateDirectory


def owner(cookie: int, keys: Collection[ServiceKey] | None = None) -> Owner | None:
    """Return the first of these services, or of all, that a running daemon keeps; `cookie` is the tables' namespace.

    Raises PylvsError if a daemon runs and its notes cannot be read.
    """
    for state in daemons_of(cookie):
        process = state.daemon_pid()
        owned = load_owned(state) if process else {}
        for key in owned if keys is None else keys:
            if key in owned:
                return Owner(key, process, state)
    return None
