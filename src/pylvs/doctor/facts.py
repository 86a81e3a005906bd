"""What the doctor knows of this host: each fact is read once, when the first probe needs it.

A fact that cannot be read raises PylvsError in each probe that needs it. Nothing here changes the host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

from pylvs.dataplane.director import BpfDirector, open_reader
from pylvs.dataplane.overview import overview
from pylvs.doctor.expected import NOTHING, Expected
from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.model.rows import ServiceRow
from pylvs.netlink import links, neighbours
from pylvs.system import proc

Result = TypeVar("Result")
LIMIT_S = 4.5  # of an examination: a user waits for 5 s, with the start of Python


class Facts:
    """The facts of this network namespace. Several threads may read them. All raise PylvsError."""

    def __init__(
        self,
        vips: Collection[Address] = (),
        state_dir: Path | None = None,
        expected: Expected = NOTHING,
        limit_s: float = LIMIT_S,
    ) -> None:
        self.limit_s = limit_s  # of the whole examination
        self.vips = frozenset(vips)  # those that the user named; none: all
        self.state_dir = state_dir
        self.expected = expected
        self._lock = RLock()
        self._locks: dict[str, RLock] = {}
        self._known: dict[str, Any] = {}

    def once(self, name: str, read: Callable[[], Result]) -> Result:
        """Return what `read` returned at the first call with this name, or raise what it raised.

        Threads that need the same fact wait for the one that reads it; other facts do not.
        """
        with self._lock:
            lock = self._locks.setdefault(name, RLock())
        with lock:
            if name not in self._known:
                try:
                    self._known[name] = read()
                except PylvsError as error:
                    self._known[name] = error
            found: Result = self._known[name]
        if isinstance(found, PylvsError):
            raise found
        return found

    @cached_property
    def director(self) -> BpfDirector:
        """Return the tables, for reading."""
        return open_reader()

    @property
    def has_tables(self) -> bool:
        """Return whether this host is a director: it has tables."""
        return self.once("has_tables", lambda: self.director.state.exists)

    @property
    def services(self) -> Sequence[ServiceRow]:
        """Return the rows of the table: those of the named addresses, or all; of marks always."""
        rows = self.once("services", self.director.services) if self.has_tables else []
        if not self.vips:
            return rows
        return [row for row in rows if row.service.key.mark or row.service.key.address in self.vips]

    @property
    def virtual_addresses(self) -> Sequence[Address]:
        """Return the addresses of these services, without repeats."""
        return list(dict.fromkeys(row.service.key.address for row in self.services if not row.service.key.mark))

    @property
    def overview(self) -> Mapping[str, Any]:
        """Return what `pylvs show --json` prints."""
        return self.once("overview", overview)

    @property
    def devices(self) -> Sequence[links.Device]:
        """Return this host's devices."""
        return self.once("devices", links.devices)

    @property
    def addresses(self) -> Sequence[links.AssignedAddress]:
        """Return this host's addresses."""
        return self.once("addresses", links.addresses)

    @property
    def static_neighbours(self) -> Mapping[tuple[int, Address], bytes]:
        """Return the link addresses of permanent entries, by index of device and address."""
        return self.once("static_neighbours", neighbours.permanent)

    @property
    def status(self) -> Mapping[str, Any] | None:
        """Return the daemon's reply to /v1/status; None if no daemon runs. Raises NoReply if it hangs."""
        return self.once("status", self._status)

    def _status(self) -> Mapping[str, Any] | None:
        from pylvs.daemon.api.client import Client, NoDaemon  # late: only hosts with a daemon

        try:
            code, reply = Client(self.state_dir).ask("GET", "/v1/status")
        except NoDaemon:
            return None
        if code != 200 or not isinstance(reply, dict):
            raise PylvsError(f"pylvs run replied {code}")
        return reply

    def number(self, path: str) -> int | None:
        """Return a number below /proc/sys; None if this kernel has no such file."""
        return self.once(path, lambda: proc.read_number(path) if proc.exists(path) else None)
