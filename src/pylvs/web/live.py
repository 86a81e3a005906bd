"""Server-sent events: one connection a page. What all pages get is encoded once.

A page that does not read costs its last part and a position. When it reads again, it gets the newest sample, and the
number of events that it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from pylvs.system.http.server import Refusal
from pylvs.web.snapshot import Given
from pylvs.web.views import Views, encoded

CONTENT_TYPE = "text/event-stream; charset=utf-8"
SHOWN = 50  # events that a page gets at its start
MOST_AT_ONCE = 200  # events in one part
_POLL_S = 10.0  # the page takes a connection that is silent for 25 s for lost
_ALIVE = b"event: alive\ndata: {}\n\n"


def frame(event: str, data: bytes) -> bytes:
    """Return one event. JSON has no line break."""
    return b"event: %s\ndata: %s\n\n" % (event.encode(), data)


class Hub:
    """The pages that are open."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._pages: set[asyncio.Event] = set()
        self._frames: dict[tuple[str, bytes], bytes] = {}
        self._of: Any = None  # the sample of these
        views.daemon.changed = self._wake
        views.daemon.watched = lambda: bool(self._pages)

    def _wake(self) -> None:
        for each in self._pages:
            each.set()

    @contextlib.contextmanager
    def opened(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set by each sample, and by each change of tokens."""
        more = asyncio.Event()
        self._pages.add(more)
        self._views.daemon.wake()
        try:
            yield more
        finally:
            self._pages.discard(more)

    async def page(self, hello: Any, view: str, given: Given, problem: Callable[[], str]) -> AsyncIterator[bytes]:
        """Yield the parts of a page until `problem` returns why it ends."""
        daemon = self._views.daemon
        position = max(0, daemon.events_end - SHOWN)
        state: Any = None
        last: Any = None
        with self.opened() as more:
            yield b"retry: 2000\n\n" + frame("hello", encoded(hello))
            while not (reason := problem()):
                more.clear()
                parts = []
                now = daemon.state.encoded()
                if now != state:
                    state = now
                    parts.append(frame("daemon", encoded(now)))
                missed, lines, position = self._events(position)
                parts += [frame("missed", encoded({"count": missed}))] if missed else []
                parts += [frame("event", each) for each in lines]
                snapshot = daemon.snapshot
                if snapshot is not last and snapshot is not None and daemon.state.connected:
                    last = snapshot
                    parts.append(self._framed("overview", await self._views.encoded("overview", {})))
                    if view:
                        parts.append(self._framed("view", await self._view(view, given)))
                for part in parts or [_ALIVE]:
                    yield part
                if position < daemon.events_end:
                    continue
                try:
                    async with asyncio.timeout(_POLL_S):
                        await more.wait()
                except TimeoutError:
                    continue
            yield frame("bye", encoded({"reason": reason}))

    def _events(self, position: int) -> tuple[int, list[bytes], int]:
        """Return how many events were missed, the next ones, and the new position."""
        daemon = self._views.daemon
        first = daemon.events_end - len(daemon.events)
        missed = max(0, first - position)
        position += missed
        at = position - first
        lines = [daemon.events[each] for each in range(at, min(at + MOST_AT_ONCE, len(daemon.events)))]
        return missed, lines, position + len(lines)

    def _framed(self, event: str, data: bytes) -> bytes:
        """Return the one copy of what several pages get."""
        if self._of is not self._views.daemon.snapshot:
            self._of, self._frames = self._views.daemon.snapshot, {}
        key = event, data
        if key not in self._frames:
            self._frames[key] = frame(event, data)
        return self._frames[key]

    async def _view(self, view: str, given: Given) -> bytes:
        try:
            return await self._views.encoded(view, given)
        except Refusal as refusal:
            return json.dumps({"error": refusal.text, "status": int(refusal.status)}).encode()
