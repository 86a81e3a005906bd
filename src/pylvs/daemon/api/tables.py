"""Reading the tables for the API, in the table thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pylvs.daemon.api.operation import Field, Given
from pylvs.daemon.liveness import TABLE_THREAD
from pylvs.model.errors import Busy, NoSuchTables
from pylvs.system.namespaces import network_cookie

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

Read = TypeVar("Read")
TABLES_TIMEOUT_S = 10.0
OF_TABLES = {"namespace": Field(str, "404 unless the tables are in the network namespace of this SO_NETNS_COOKIE")}


async def of_tables(daemon: Supervisor, read: Callable[[], Read], timeout_s: float = 0) -> Read | None:
    """Return what a call reads in the table thread, None if that is silent: the rest is known.

    The call has `timeout_s`, by default TABLES_TIMEOUT_S.
    """
    if TABLE_THREAD in daemon.liveness.silent():
        return None
    try:
        async with asyncio.timeout(timeout_s or TABLES_TIMEOUT_S):
            return await daemon.table_thread.run(read)
    except TimeoutError:
        return None


async def from_tables(daemon: Supervisor, read: Callable[[], Read], given: Given) -> Read:
    """Return what a call reads from the tables that a request names by OF_TABLES. Raises Busy, NoSuchTables."""

    def checked() -> Read:
        _check_namespace(given.get("namespace"))
        return read()

    found = await of_tables(daemon, checked)
    if found is None:
        raise unread(daemon)
    return found


def unread(daemon: Supervisor) -> Busy:
    """Return why the table could not be read."""
    text = f"the table was not read within {TABLES_TIMEOUT_S:g} s; try again"
    return Busy(daemon.liveness.silent().get(TABLE_THREAD, text))


def _check_namespace(wanted: str | None) -> None:
    """Raise NoSuchTables unless the tables are in the network namespace of this cookie. In the table thread."""
    if wanted is not None and str(network_cookie()) != wanted:
        raise NoSuchTables("the tables of this daemon are in another network namespace")
