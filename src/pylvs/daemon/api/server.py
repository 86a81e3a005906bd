"""The API's UNIX socket, which only root may use, and the other ways to read it.

The modules of requests are imported when the daemon is ready, or at the first client. An upgrade may replace their
files while the daemon runs, and modules of two versions do not fit together.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pylvs.daemon.api.group_socket import GroupSocket
from pylvs.daemon.api.metrics_port import MetricsPort, Page
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.errors import PylvsError
from pylvs.system.sockets import address_of
from pylvs.system.threads import to_thread

if TYPE_CHECKING:
    from pylvs.daemon.state.directory import StateDirectory
    from pylvs.model.wanted import Configuration
    from pylvs.system.processes.edge import Edge
    from pylvs.web.asked import Answer, Ask

_BACKLOG = 128
_APPLICATION = "pylvs.daemon.api.application"


class ApiServer(Part):
    """The socket, and the application behind it."""

    def __init__(self, daemon: object, state: StateDirectory, edge: Edge) -> None:
        """`daemon` is the Supervisor, which this module only passes to those of requests."""
        self._daemon = daemon
        self._path = state.socket_path
        self._metrics = MetricsPort(edge, self._page)
        self._group = GroupSocket(state.monitor_path, self._serve_group)
        self._listener: socket.socket | None = None
        self._tasks = BackgroundTasks()  # of requests

    @property
    def metrics_error(self) -> str:
        """Why metrics are not served at the metrics_address, "" if they are."""
        return self._metrics.error

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Serve requests from now on. Raises PylvsError if the socket cannot be made."""
        self._listener = listener = self._listening()
        loop = asyncio.get_running_loop()

        def first_client() -> None:
            loop.remove_reader(listener)
            self._tasks.keep_running(partial(self._serve, listener), "serving the API")

        loop.add_reader(listener, first_client)
        self._tasks.keep_running(self._group.run, "serving the monitor_group")
        await self.apply(configuration)

    async def begin(self, tasks: BackgroundTasks) -> None:
        """Import the modules of requests."""
        tasks.start(self._prepare())

    async def apply(self, configuration: Configuration) -> None:
        """Serve the metrics_address and the monitor_group of these settings."""
        settings = configuration.settings
        self._group.follow(settings.monitor_group)
        self._metrics.follow(settings.metrics_address, settings.metrics_allow)

    async def close(self) -> None:
        """End requests and connections."""
        await self._tasks.end()
        self._metrics.close()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    def problems(self) -> Iterator[Problem]:
        for kind, text in (("metrics_address", self._metrics.error), ("api", self._group.error)):
            if text:
                yield Problem(kind, "", text)
        for what, text in self._tasks.failures().items():
            yield Problem("failed", what, f"failed and is restarted: {text}")

    async def reply(self, path: str, given: Mapping[str, Any]) -> bytes:
        """Return the content of the reply to a request of this process. Raises what its operation raises."""
        operations = (await _imported("pylvs.daemon.api.routes")).ROUTES
        operation = next(each for each in operations if each.path == path)
        content: bytes = (await operation.handler(self._daemon, given)).body
        return content

    async def execute(self, ask: Ask) -> Answer:
        """Execute a request of the web page."""
        answer: Answer = await (await _imported(_APPLICATION)).execute(self._daemon, ask)
        return answer

    async def _prepare(self) -> None:
        await _imported(_APPLICATION)

    async def _page(self) -> Page:
        page: Page = await (await _imported("pylvs.daemon.api.routes")).metrics_page(self._daemon)
        return page

    async def _serve(self, listener: socket.socket) -> None:
        await (await _imported(_APPLICATION)).server(self._daemon, listener).run()

    async def _serve_group(self, listener: socket.socket) -> None:
        await (await _imported(_APPLICATION)).group_server(self._daemon, listener).run()

    def _listening(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            with address_of(self._path) as address:
                before = os.umask(0o177)
                try:
                    listener.bind(address)
                finally:
                    os.umask(before)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise PylvsError(f"{self._path}: {error.strerror}") from None
        return listener


async def _imported(module: str) -> Any:
    """Import a module in a thread, for checks to continue."""
    return await to_thread(importlib.import_module, module)
