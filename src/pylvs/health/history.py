"""The last things that happened to each server, with their reasons."""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from pylvs.health.events import Event, ServerEvent
from pylvs.model.destination import DestinationKey

ServerName = tuple[str, DestinationKey]  # a service's name and a server of it


class History:
    """The last `length` events of each server, and of each service those that name no server."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._servers: dict[ServerName, deque[Event]] = {}
        self._services: dict[str, deque[Event]] = {}

    def add(self, event: Event) -> None:
        """Remember; the oldest goes."""
        if isinstance(event, ServerEvent):
            self._servers.setdefault((event.service, event.server), deque(maxlen=self._length)).append(event)
        else:
            self._services.setdefault(event.service, deque(maxlen=self._length)).append(event)

    def of_server(self, name: ServerName) -> tuple[Event, ...]:
        """Oldest first."""
        return tuple(self._servers.get(name, ()))

    def of_service(self, service: str) -> tuple[Event, ...]:
        """Its quorum's and checks' events, oldest first."""
        return tuple(self._services.get(service, ()))

    def keep(self, services: Container[str], servers: Container[ServerName]) -> None:
        """Forget everything about others."""
        self._services = {name: events for name, events in self._services.items() if name in services}
        self._servers = {name: events for name, events in self._servers.items() if name in servers}
