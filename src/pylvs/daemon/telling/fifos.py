"""Named pipes that are told of services and servers, with keepalived's lines:

VS [192.0.2.1]:tcp:80 UP
RS [10.0.0.2]:tcp:80 [192.0.2.1]:tcp:80 DOWN
"""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.daemon.telling.alerts import real_name, state_of, virtual_name
from pylvs.daemon.telling.notify import server_of
from pylvs.health.events import Event, QuorumGained, QuorumLost, ServerDown, ServerUp
from pylvs.model.wanted import Configuration, WantedService
from pylvs.notify.fifos import FifoSet


class Fifos:
    """Writes what a configuration wants written; lines come whenever the operator's scripts would run."""

    def __init__(self) -> None:
        self._fifos = FifoSet()
        self._now: Mapping[str, WantedService] = {}
        self._before: Mapping[str, WantedService] = {}

    def configure(self, configuration: Configuration, routers: bool) -> None:
        """From now on. With `routers` another process tells of virtual routers, and runs the shared pipe's reader."""
        self._before, self._now = self._now, configuration.by_name()
        shared = [fifo for fifo in configuration.vrrp.settings.fifos if fifo.services]
        own = [configuration.settings.fifo] if configuration.settings.fifo else []
        foreign = [fifo.path for fifo in shared] if routers else []
        self._fifos.configure([*shared, *own], configuration.settings, foreign)

    def heard(self, event: Event) -> None:
        """Something happened."""
        ending = getattr(event, "ending", False)
        for services in (self._before, self._now) if ending else (self._now, self._before):
            service = services.get(event.service)
            line = line_of(event, service) if service else ""
            if line:
                self._fifos.write(line)
                return

    async def finish(self) -> None:
        """Give readers a little time."""
        await self._fifos.finish()


def line_of(event: Event, service: WantedService) -> str:
    """The line about an event, "" if there is none."""
    if isinstance(event, QuorumGained | QuorumLost):
        silent = isinstance(event, QuorumLost) and event.silent
        return "" if silent else f"VS {virtual_name(service)} {state_of(event)}"
    if isinstance(event, ServerUp | ServerDown) and server_of(event, service):
        return f"RS {real_name(event, service)} {virtual_name(service)} {state_of(event)}"
    return ""
