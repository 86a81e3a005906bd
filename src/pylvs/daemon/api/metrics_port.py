"""`metrics_address`: the daemon's end of the metrics process, which asks for the page."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pylvs.daemon.api.metrics_process import PROTOCOL
from pylvs.model.addresses import Address, Network, endpoint, family_of
from pylvs.model.dataclass import dataclass
from pylvs.system.logs import get_logger
from pylvs.system.processes.channel import sealed
from pylvs.system.processes.confined import ConfinedProcess

Endpoint = tuple[Address, int]
WHAT = "the process that serves metrics"
FRESH_S = 1.0  # a page is used again for so long
SHARE = 4  # and for this many times the time that it took, so that requests do not occupy a processor
_BACKLOG = 128
MOST_PAGES = 8  # that wait until the process reads; it has one request at a time


@dataclass(frozen=True, slots=True)
class Page:
    """The page of metrics, which omits the table if that was not read in time."""

    text: str
    has_table: bool = True


class MetricsPort:
    """Serves `/metrics` over TCP at the configuration's metrics_address, with the pages that `make_page` returns."""

    def __init__(self, make_page: Callable[[], Awaitable[Page]]) -> None:
        self._make_page = make_page
        self._process: ConfinedProcess | None = None
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
        if self._bind_error or self._process is None or not self._process.problem:
            return self._bind_error
        return f"metrics_address: {self._process.problem}"

    async def follow(self, at: Endpoint | None, allowed: Sequence[Network] = ()) -> None:
        """Listen there from now on, or nowhere, for clients of these networks; without any, for all.

        An error is logged only: nothing else depends on this port.
        """
        if at == self._at and tuple(allowed) == self._allowed and not self._bind_error:
            return
        await self.close()
        if at is None:
            return
        try:
            self._listener = socket.create_server((str(at[0]), at[1]), family=family_of(at[0]), backlog=_BACKLOG)
        except OSError as error:
            self._bind_error = f"metrics_address {endpoint(*at)}: {os.strerror(error.errno or 0)}"
            self._log.error(self._bind_error)
            return
        self._at, self._allowed = at, tuple(allowed)
        self._process = ConfinedProcess(
            WHAT, "pylvs.daemon.api.metrics_process", PROTOCOL, self._receive, most_waiting=MOST_PAGES
        )
        number = self._listener.fileno()
        self._process.start(str(number), *map(str, allowed), descriptors=[number])

    async def close(self) -> None:
        """Stop listening."""
        if self._process is not None:
            await self._process.close()
        if self._listener is not None:
            self._listener.close()
        if self._making is not None:
            self._making.cancel()
        if self._page is not None:
            os.close(self._page)
        self._process = self._listener = self._at = self._making = self._page = None
        self._bind_error = ""

    def _receive(self, message: dict[str, Any]) -> None:
        if "page" not in message or self._making is not None or self._process is None or self._process.sending:
            return  # the process has one request at a time; one that sends more must not fill this one with descriptors
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
            if self._process is not None:
                self._process.send({"error": f"the page could not be made: {error}\n"[:1000]})
        finally:
            self._making = None

    def _send(self, page: int) -> None:
        if self._process is not None:
            self._process.send({"page": True}, [os.fdopen(os.dup(page), "rb")])
