"""What happens, as JSON objects, to whoever follows it."""

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
from pylvs.model.destination import DestinationKey

MAX_QUEUED = 10_000  # lines for one follower who does not read them
REMEMBERED = 1000  # lines


class Subscriber:
    """One who follows: lines wait for him, and if he is too slow he is told how many he missed."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(MAX_QUEUED)
        self._missed = 0

    def put(self, line: Mapping[str, Any]) -> None:
        """Never waits."""
        try:
            self._lines.put_nowait(line)
        except asyncio.QueueFull:
            self._missed += 1

    async def next(self) -> Mapping[str, Any]:
        """The next line."""
        if self._missed and self._lines.empty():
            missed, self._missed = self._missed, 0
            return {"event": "missed", "at": time.time(), "count": missed}
        return await self._lines.get()


class EventBus:
    """Everything that is told goes to all who follow at that moment."""

    def __init__(self) -> None:
        self._followers: set[Subscriber] = set()
        self._last: deque[Mapping[str, Any]] = deque(maxlen=REMEMBERED)

    def last(self) -> tuple[Mapping[str, Any], ...]:
        """What was told last, oldest first."""
        return tuple(self._last)

    @contextlib.contextmanager
    def following(self) -> Iterator[Subscriber]:
        """Within, lines are kept for this follower."""
        follower = Subscriber()
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def tell(self, event: str, **more: Any) -> None:
        """Something that happened to the daemon."""
        self._put({"event": event, "at": time.time(), **more})

    def tell_event(self, event: Event) -> None:
        """Something that happened to services and servers."""
        self._put(encode_event(event))

    def _put(self, line: Mapping[str, Any]) -> None:
        self._last.append(line)
        for follower in self._followers:
            follower.put(line)


def json_line(content: Any) -> bytes:
    """One line in UTF-8; of what was no text in an argument or a file, each byte as an escape of JSON."""
    return json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def encode_event(event: Event) -> dict[str, Any]:
    """An event of the health engine: `event` is its name, `at` seconds since 1970."""
    return {"event": event.name} | {field.name: _encode_value(getattr(event, field.name)) for field in fields(event)}


def _encode_value(value: Any) -> Any:
    if isinstance(value, DestinationKey):
        return str(value)
    if isinstance(value, Override):
        return {"standing": value.standing.value, "weight": value.weight}
    return value
