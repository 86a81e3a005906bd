"""The daemon's API: HTTP with JSON on a UNIX socket that root alone may use.

What it can be asked is in `routes`, one file a group. aiohttp takes 17 MB and the time of a hundred edits, so it is
imported when the first client connects, or at once where the configuration wants metrics over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from pylvs.daemon.process import BackgroundTasks
from pylvs.model.errors import PylvsError

if TYPE_CHECKING:
    from aiohttp import web

    from pylvs.daemon.api.application import MetricsServer
    from pylvs.daemon.ports import ApiContext
    from pylvs.model.wanted import GlobalSettings

_BACKLOG = 128  # clients that may connect before they are accepted


class ApiServer:
    """The socket and what answers there."""

    def __init__(self, desk: ApiContext) -> None:
        self._desk = desk
        self._runner: web.AppRunner | None = None
        self._metrics: MetricsServer | None = None

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Within, requests are answered. Raises PylvsError where the socket cannot be made."""
        listener = self._listener()
        loop = asyncio.get_running_loop()
        try:
            async with BackgroundTasks() as background:

                def begin() -> None:
                    loop.remove_reader(listener)
                    background.start(self._answer(listener))

                loop.add_reader(listener, begin)  # when the first client connects
                await self.follow(self._desk.engine.configuration.settings)
                yield
        finally:
            loop.remove_reader(listener)
            if self._metrics is not None:
                await self._metrics.close()
            if self._runner is not None:
                await self._runner.cleanup()
            listener.close()

    async def follow(self, settings: GlobalSettings) -> None:
        """Serve the metrics where these settings say."""
        if self._metrics is None and settings.metrics_address is not None:
            self._metrics = (await _imported("pylvs.daemon.api.application")).of_desk(self._desk)
        if self._metrics is not None:
            await self._metrics.follow(settings.metrics_address)

    async def _answer(self, listener: socket.socket) -> None:
        self._runner = await (await _imported("pylvs.daemon.api.application")).begin(self._desk, listener)

    def _listener(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            with self._desk.state.socket_address() as address:
                before = os.umask(0o177)
                try:
                    listener.bind(address)
                finally:
                    os.umask(before)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise PylvsError(f"{self._desk.state.socket_path}: {error.strerror}") from None
        return listener


async def _imported(name: str) -> Any:
    """A module, imported by a thread: checks go on meanwhile."""
    return await asyncio.to_thread(importlib.import_module, name)
