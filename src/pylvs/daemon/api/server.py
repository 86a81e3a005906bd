"""The API's UNIX socket, which only root may use.

aiohttp takes 17 MB and the CPU time of a hundred edits. So `application` is imported when the first client connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from pylvs.daemon.api.metrics_port import MetricsPort, Page
from pylvs.daemon.host import BackgroundTasks
from pylvs.model.errors import PylvsError
from pylvs.system.sockets import address_of
from pylvs.system.threads import to_thread

if TYPE_CHECKING:
    from aiohttp import web

    from pylvs.daemon.supervisor import Supervisor
    from pylvs.model.wanted import GlobalSettings

_BACKLOG = 128


class ApiServer:
    """The socket, and the application behind it."""

    def __init__(self, daemon: Supervisor) -> None:
        self._daemon = daemon
        self._runner: web.AppRunner | None = None
        self._metrics = MetricsPort(self._page)

    @property
    def metrics_error(self) -> str:
        """Why metrics are not served at the metrics_address, "" if they are."""
        return self._metrics.error

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve requests within the block. Raises PylvsError if the socket cannot be made."""
        listener = self._listener()
        loop = asyncio.get_running_loop()
        try:
            async with BackgroundTasks() as tasks:

                def first_client() -> None:
                    loop.remove_reader(listener)
                    tasks.start(self._serve(listener))

                loop.add_reader(listener, first_client)
                await self.follow(self._daemon.engine.configuration.settings)
                yield
        finally:
            loop.remove_reader(listener)
            await self._metrics.close()
            if self._runner is not None:
                await self._runner.cleanup()
            listener.close()

    async def follow(self, settings: GlobalSettings) -> None:
        """Serve the metrics at the metrics_address of these settings."""
        await self._metrics.follow(settings.metrics_address)

    async def _page(self) -> Page:
        page: Page = await (await _imported("pylvs.daemon.api.routes")).metrics_page(self._daemon)
        return page

    async def _serve(self, listener: socket.socket) -> None:
        self._runner = await (await _imported("pylvs.daemon.api.application")).serve(self._daemon, listener)

    def _listener(self) -> socket.socket:
        state = self._daemon.state
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            with address_of(state.socket_path) as address:
                before = os.umask(0o177)
                try:
                    listener.bind(address)
                finally:
                    os.umask(before)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise PylvsError(f"{state.socket_path}: {error.strerror}") from None
        return listener


async def _imported(module: str) -> Any:
    """Import a module in a thread, for checks to continue."""
    return await to_thread(importlib.import_module, module)
