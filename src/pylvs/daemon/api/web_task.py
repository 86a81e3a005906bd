"""`web_address`: the process that serves the web page, as long as the daemon runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.wanted import Configuration, WebSettings

if TYPE_CHECKING:
    from pylvs.daemon.notifications import EventBus
    from pylvs.daemon.state.directory import StateDirectory
    from pylvs.web.asked import Send
    from pylvs.web.parent import WebParent


class WebTask(Part):
    """Starts the process with the first web_address; its modules are imported then."""

    def __init__(self, send: Send, events: EventBus, state: StateDirectory, files: Callable[[], Sequence[str]]) -> None:
        """`send` executes a request; `files` are those of the configuration."""
        self._send, self._bus, self._state, self._files = send, events, state, files
        self._parent: WebParent | None = None

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        await self.apply(configuration)

    async def apply(self, configuration: Configuration) -> None:
        """Serve the page of these settings. Tokens and certificate are read again."""
        settings = configuration.settings.web
        if self._parent is None and settings == WebSettings():
            return
        if self._parent is None:
            self._parent = self._made()
        await self._parent.follow(settings)

    async def close(self) -> None:
        if self._parent is not None:
            await self._parent.close()

    def problems(self) -> Iterator[Problem]:
        if self._parent is not None and self._parent.error:
            yield Problem("web", "", self._parent.error)

    def _made(self) -> WebParent:
        from pylvs.web import jobs, parent  # late: few daemons serve the page

        of_this = jobs.Jobs(("--state-dir", str(self._state.path)), self._files)
        return parent.WebParent(self._send, self._events, of_this)

    async def _events(self) -> AsyncIterator[bytes]:
        """Yield the last events, and those that follow."""
        subscriber = self._bus.subscribe()
        try:
            for line in self._bus.recent_lines():
                yield line
            while True:
                yield await subscriber.next_lines()
        finally:
            subscriber.close()
