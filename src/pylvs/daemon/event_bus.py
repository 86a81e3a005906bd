"""Events of the daemon as JSON objects, for the clients of `GET /v1/events`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from pylvs.health.events import Event, Override
from pylvs.model.service import DestinationKey

MAX_QUEUED = 10_000  # events for one subscriber that does not read them
REMEMBERED = 1000  # events


class Subscriber:
    """A queue of events. If it overflows, the subscriber gets the number of events that it missed."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(MAX_QUEUED)
        self._missed = 0

    def put(self, event: Mapping[str, Any]) -> None:
        """Queue an event without waiting."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._missed += 1

    async def next(self) -> Mapping[str, Any]:
        """Wait for the next event."""
        if self._missed and self._queue.empty():
            missed, self._missed = self._missed, 0
            return {"event": "missed", "at": time.time(), "count": missed}
        return await self._queue.get()


class EventBus:
    """Publishes events to all subscribers, and remembers the last ones."""

    def __init__(self) -> None:
        self._subscribers: set[Subscriber] = set()
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=REMEMBERED)

    def recent(self) -> tuple[Mapping[str, Any], ...]:
        """Return the last events, oldest first."""
        return tuple(self._recent)

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[Subscriber]:
        """Return a queue that gets the events published within the block."""
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers.discard(subscriber)

    def publish(self, event: str, **fields: Any) -> None:
        """Publish an event of the daemon."""
        self._put({"event": event, "at": time.time(), **fields})

    def publish_health(self, event: Event) -> None:
        """Publish an event of the health engine."""
        self._put(encode_event(event))

    def _put(self, event: Mapping[str, Any]) -> None:
        self._recent.append(event)
        for subscriber in self._subscribers:
            subscriber.put(event)


def json_line(content: Any) -> bytes:
    """Encode as one line of UTF-8; a byte of an argument or file that is not UTF-8 becomes a JSON escape."""
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def encode_event(event: Event) -> dict[str, Any]:
    """Return an event of the health engine as JSON types: `event` is its name, `at` in seconds since 1970."""
    return {"event": event.name} | {field.name: _encode_value(getattr(event, field.name)) for field in fields(event)}


def _encode_value(value: Any) -> Any:
    if isinstance(value, DestinationKey):
        return str(value)
    if isinstance(value, Override):
        return {"standing": value.standing.value, "weight": value.weight}
    return value
