"""The tables as the daemon reads them, for listings by members of its group, who cannot open the maps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, cast

from pylvs.model.errors import NoSuchService, NotPermitted
from pylvs.model.rows import ServiceRow
from pylvs.model.service import ServiceKey, Timeouts
from pylvs.model.transfer import decode_connection, decode_row
from pylvs.system import unix_http

if TYPE_CHECKING:
    from pylvs.model.director import Connection, Director


def reading_director() -> Director:
    """Return a Director that reads from the daemon of this network namespace; edits raise NotPermitted.

    Raises NotReadable if there is none that this user may read, PylvsError.
    """
    found = RemoteDirector()
    found.table_size()  # the first request
    return cast("Director", found)


class RemoteDirector:
    """The part of `pylvs.model.director.Director` that reads."""

    @cached_property
    def _table(self) -> Any:
        return unix_http.read("/v1/table")

    def services(self) -> list[ServiceRow]:
        """Return all services, in the daemon's order."""
        return list(map(decode_row, self._table["services"]))

    def service(self, key: ServiceKey) -> ServiceRow:
        """Raises NoSuchService."""
        for row in self.services():
            if row.service.key == key:
                return row
        raise NoSuchService(f"{key}: no such virtual service")

    def connections(self) -> Iterator[Connection]:
        """Yield the connections, in the daemon's order."""
        with unix_http.reading("/v1/connections") as lines:
            for line in lines:
                yield decode_connection(json.loads(line))

    def timeouts(self) -> Timeouts:
        """Return the timeouts in force."""
        return Timeouts(*self._table["timeouts"])

    def table_size(self) -> int:
        """Return the `size=` of listings."""
        return int(self._table["size"])

    def device_problems(self) -> tuple[()]:
        """Return none: this process has made no edit."""
        return ()

    def __getattr__(self, name: str) -> NoReturn:
        raise NotPermitted(unix_http.NEEDS)
