"""`metrics_address`: the daemon's end of the task that serves metrics, which asks for the page."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pylvs.model.addresses import Address, Network, endpoint, family_of
from pylvs.model.dataclass import dataclass
from pylvs.system.logs import get_logger
from pylvs.system.processes.channel import sealed
from pylvs.system.processes.edge import Edge

Endpoint = tuple[Address, int]
FRESH_S = 1.0  # a page is used again for so long
SHARE = 4  # and for this many times the time that it took, so that requests do not occupy a processor
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Page:
    """The page of metrics, which omits the table if that was not read in time."""

    text: str
    has_table: bool = True


class MetricsPort:
    """Serves `/metrics` over TCP at the configuration's metrics_address, with the pages that `make_page` returns."""

    name = "metrics"

    def __init__(self, edge: Edge, make_page: Callable[[], Awaitable[Page]]) -> None:
        self._edge = edge
        self._make_page = make_page
        self._listener: socket.socket | None = None
        self._at: Endpoint | None = None
        self._allowed: tuple[Network, ...] = ()
        self._bind_error = ""
        self._page: int | None = None  # descriptor of the last one
        self._fresh_until = 0.0
        self._making: asyncio.Task[None] | None = None
        self._log = get_logger()

    @property
    def error(self) -> str:
        """Why nothing is served there, "" if it is."""
        if self._listener is None or not self._edge.problem:
            return self._bind_error
        return f"metrics_address: {self._edge.problem}"

    def follow(self, at: Endpoint | None, allowed: Sequence[Network] = ()) -> None:
        """Listen there from now on, or nowhere, for clients of these networks; without any, for all.

        An error is logged only: nothing else depends on this port.
        """
        if at == self._at and tuple(allowed) == self._allowed and not self._bind_error:
            return
        self._stop_listening()
        if at is None:
            self._edge.end(self)
            return
        try:
            self._listener = socket.create_server((str(at[0]), at[1]), family=family_of(at[0]), backlog=_BACKLOG)
        except OSError as error:
            self._bind_error = f"metrics_address {endpoint(*at)}: {os.strerror(error.errno or 0)}"
            self._log.error(self._bind_error)
            self._edge.end(self)
            return
        self._at, self._allowed = at, tuple(allowed)
        self._edge.begin(self)

    def close(self) -> None:
        """Serve no longer."""
        self._edge.end(self)
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # the process may have it for some time: refuse clients now
            self._listener.close()
        if self._making is not None:
            self._making.cancel()
        if self._page is not None:
            os.close(self._page)
        self._listener = self._at = self._making = self._page = None
        self._bind_error = ""

    def up(self) -> None:
        """Send the listener, which stays open here: the next process serves its connections."""
        if self._listener is not None:
            self._edge.send(self, {"allowed": list(map(str, self._allowed))}, (self._listener.dup(),))

    def down(self) -> None:
        """A page that is being made is for the next process, if it asks for one."""

    def receive(self, message: dict[str, Any]) -> None:
        """Send a page, unless one is being made or waits: the process has one request at a time."""
        if "page" not in message or self._making is not None or self._edge.process.waits:
            return  # one that requests more must not fill this one with descriptors
        if self._page is not None and asyncio.get_running_loop().time() < self._fresh_until:
            self._send(self._page)
            return
        self._making = asyncio.get_running_loop().create_task(self._make())

    async def _make(self) -> None:
        clock = asyncio.get_running_loop().time
        begin = clock()
        try:
            page = await self._make_page()
            if self._page is not None:
                os.close(self._page)
                self._page = None
            self._page = sealed(page.text.encode())
            took_s = clock() - begin if page.has_table else 0.0  # the next page may have it
            self._fresh_until = clock() + max(FRESH_S, SHARE * took_s)
            self._send(self._page)
        except Exception as error:
            self._log.exception("the page of metrics could not be made")
            self._edge.send(self, {"error": f"the page could not be made: {error}\n"[:1000]})
        finally:
            self._making = None

    def _send(self, page: int) -> None:
        self._edge.send(self, {"page": True}, (os.fdopen(os.dup(page), "rb"),))
