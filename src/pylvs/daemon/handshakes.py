"""Once a second, judge real servers by the handshakes of clients that the packet path has counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from pylvs.daemon.parts import Part
from pylvs.daemon.services import Services
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.health.events import ServerName
from pylvs.health.handshakes import NONE, HandshakeHistory, Shaken
from pylvs.model.errors import PylvsError
from pylvs.model.rows import Handshakes
from pylvs.model.service import DestinationKey, ServiceKey
from pylvs.model.wanted import Configuration
from pylvs.system.table_thread import TableThread

POLL_S = 1.0
SHARE = 10  # the pause is at least so many times the duration of a look: thousands of services may be busy
Named = tuple[ServiceKey, DestinationKey]


class HandshakeWatch(Part):
    """Reads them in the table thread, and lets the engine judge. Tables that cannot be read change nothing."""

    def __init__(self, services: Services, thread: TableThread, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._thread = thread
        self._clock = clock
        self._history: HandshakeHistory[ServerName] = HandshakeHistory()
        self._configuration: Configuration | None = None
        self._names: Mapping[Named, ServerName] = {}

    async def begin(self, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._run, "judging real servers by handshakes")

    async def _run(self) -> None:
        while True:
            began = self._clock()
            await self.step()
            await asyncio.sleep(max(POLL_S, SHARE * (self._clock() - began)))

    async def step(self) -> None:
        """Read and judge once."""
        engine = self._services.engine
        try:
            shaken = await self._thread.run(self._read, engine.configuration)
        except (PylvsError, OSError):  # the reconciler reports it
            return
        self._history.forget(engine.judge(shaken))

    def _read(self, configuration: Configuration) -> Shaken[ServerName]:
        """Return what the servers of the configuration did. In the table thread."""
        if configuration is not self._configuration:
            self._names = names_of(configuration)
            self._configuration = configuration
        counted: dict[ServerName, Handshakes] = {}
        for named, handshakes in self._services.reconciler.table.director.handshakes().items():
            name = self._names.get(named)
            if name is not None:
                counted[name] = counted.get(name, NONE) + handshakes
        now = self._clock()
        self._history.update(counted, now)
        return self._history.shaken(now)


def names_of(configuration: Configuration) -> dict[Named, ServerName]:
    """Return the names of servers by service and destination in the table."""
    found: dict[Named, ServerName] = {}
    for service in configuration.services:
        for key in service.keys:
            for server in service.servers:
                listed = server.destination.listed_by(key).key
                found.setdefault((key, listed), (service.name, server.destination.key))
    return found
