"""The operator's scripts at events: notify_up, notify_down, quorum_up, quorum_down.

As in keepalived they get the words of the configuration and nothing more, in argument or environment. What happens to
one server, or to one service's quorum, is told in order, each script after the end of the one before; keepalived runs
them side by side. Checks wait for none of this: scripts run here have a runner of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.health.events import Event, QuorumGained, QuorumLost, ServerDown, ServerEvent, ServerUp
from pylvs.model.destination import DestinationKey
from pylvs.model.scripts import Script
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.notify.serial_scripts import InTurn
from pylvs.system.processes.scripts import Processes

AT_ONCE = 50

Subject = tuple[str, DestinationKey | None]  # a service's name, and its server or its quorum


class Notifier:
    """Runs the scripts of a configuration at the events that it is told of."""

    def __init__(self, processes: Processes | None = None) -> None:
        self.processes = processes or Processes(at_once=AT_ONCE)
        self._turns: InTurn[Subject] = InTurn(self.processes)
        self._now: Mapping[str, WantedService] = {}
        self._before: Mapping[str, WantedService] = {}

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
                server = event.server if isinstance(event, ServerEvent) else None
                where = {"service": event.service} | ({"server": str(server)} if server else {})
                self._turns.put((event.service, server), *found, where)
                return

    async def finish(self) -> None:
        """Let everything be told for a while; then end what still runs."""
        await self._turns.finish()
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
