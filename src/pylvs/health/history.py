"""The last things that happened to each server, with their reasons."""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from pylvs.health.events import Event, ServerEvent
from pylvs.model.destination import DestinationKey

ServerName = tuple[str, DestinationKey]  # a service's name and a server of it


class History:
    """The last `length` events of each server."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._servers: dict[ServerName, deque[Event]] = {}

    def add(self, event: Event) -> None:
        """Remember it where it is a server's; the oldest goes."""
        if isinstance(event, ServerEvent):
            self._servers.setdefault((event.service, event.server), deque(maxlen=self._length)).append(event)

    def of_server(self, name: ServerName) -> tuple[Event, ...]:
        """Oldest first."""
        return tuple(self._servers.get(name, ()))

    def keep(self, servers: Container[ServerName]) -> None:
        """Forget all others."""
        self._servers = {name: events for name, events in self._servers.items() if name in servers}
