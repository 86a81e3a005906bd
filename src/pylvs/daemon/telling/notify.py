"""The operator's scripts at events: notify_up, notify_down, quorum_up, quorum_down.

As in keepalived they get the words of the configuration and nothing more, in argument or environment. What happens to
one server, or to one service's quorum, is told in order, each script after the end of the one before; keepalived runs
them side by side. Checks wait for none of this: scripts run here have a runner of their own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

import structlog

from pylvs.health.events import Event, QuorumGained, QuorumLost, ServerDown, ServerEvent, ServerUp
from pylvs.host.processes import Processes
from pylvs.model.destination import DestinationKey
from pylvs.model.scripts import Script
from pylvs.model.wanted import Configuration, WantedServer, WantedService

TIMEOUT_S = 300.0  # keepalived knows none; but here the next script waits for this one
MOST_WAITING = 64  # of one server; what is older gives way
FINISH_S = 15.0  # at the end, for what is not told yet
AT_ONCE = 50

Subject = tuple[str, DestinationKey | None]  # a service's name, and its server or its quorum


class Notifier:
    """Runs the scripts of a configuration at the events that it is told of."""

    def __init__(self, processes: Processes | None = None) -> None:
        self.processes = processes or Processes(at_once=AT_ONCE)
        self._now: Mapping[str, WantedService] = {}
        self._before: Mapping[str, WantedService] = {}
        self._waiting: dict[Subject, deque[tuple[str, Script]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()

    def configure(self, configuration: Configuration) -> None:
        """The configuration from now on; the one before still says what its last events run."""
        settings = configuration.settings
        self.processes.configure(settings.script_user, settings.script_group, settings.script_security)
        self._before, self._now = self._now, configuration.by_name()

    def heard(self, event: Event) -> None:
        """Something happened."""
        ending = getattr(event, "ending", False)
        for services in (self._before, self._now) if ending else (self._now, self._before):
            service = services.get(event.service)
            found = script_of(event, service) if service else None
            if found is not None:
                self._put((event.service, event.server if isinstance(event, ServerEvent) else None), *found)
                return

    def _put(self, subject: Subject, what: str, script: Script) -> None:
        waiting = self._waiting.get(subject)
        if waiting is not None:
            if len(waiting) >= MOST_WAITING:
                lost, _ = waiting.popleft()
                self._log.warning(f"{lost} is not run: {MOST_WAITING} later ones wait", service=subject[0])
            waiting.append((what, script))
            return
        self._waiting[subject] = deque([(what, script)])
        task = asyncio.get_running_loop().create_task(self._tell(subject))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, subject: Subject) -> None:
        """All that waits for this subject, one after the other."""
        waiting = self._waiting[subject]
        try:
            while waiting:
                what, script = waiting.popleft()
                await self._run(subject, what, script)
        finally:
            del self._waiting[subject]

    async def _run(self, subject: Subject, what: str, script: Script) -> None:
        service, server = subject
        where = {"service": service} | ({"server": str(server)} if server else {})
        ended = await self.processes.run(script, TIMEOUT_S)
        tell = self._log.info if ended.status == 0 and not ended.timed_out else self._log.warning
        tell(f"{what} has run", script=str(script), end=str(ended), **where)
        for line in ended.lines():
            self._log.info(f"{what} said: {line}", **where)

    async def finish(self) -> None:
        """Let everything be told for a while; then end what still runs."""
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=FINISH_S)
            for task in left:
                task.cancel()
            if left:
                self._log.warning("scripts were ended with the daemon", count=len(left))
                await asyncio.gather(*left, return_exceptions=True)
        await self.processes.close()


def script_of(event: Event, service: WantedService) -> tuple[str, Script] | None:
    """What the event runs, by the configuration's word, if anything.

    As in keepalived: a server that is down from the start (alpha) runs notify_down, a quorum that is there at the start
    runs quorum_up, and one that is not there quorum_down only where a sorry server must serve.
    """
    found: tuple[str, Script | None] = ("", None)
    if isinstance(event, QuorumGained):
        found = "quorum_up", service.quorum_up
    elif isinstance(event, QuorumLost) and not event.silent:
        found = "quorum_down", service.quorum_down
    elif isinstance(event, ServerUp | ServerDown) and (server := server_of(event, service)):
        up = isinstance(event, ServerUp)
        found = ("notify_up", server.notify_up) if up else ("notify_down", server.notify_down)
    what, script = found
    return (what, script) if script else None


def server_of(event: ServerEvent, service: WantedService) -> WantedServer | None:
    """The server that an event is about."""
    return next((each for each in service.servers if each.destination.key == event.server), None)
