"""What happened to servers and services, and what is wrong with a configuration, as lines of a log."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import fields

from pylvs.config.findings import Finding, Severity
from pylvs.health.events import (
    CheckFailed,
    Event,
    QuorumGained,
    QuorumLost,
    ServerDown,
    ServerEvent,
    ServerUp,
    SorryServerIn,
)
from pylvs.host.fifo_set import FifoSet
from pylvs.host.in_turn import InTurn
from pylvs.host.logs import get_logger
from pylvs.host.mail import Alert, Outbox
from pylvs.host.processes import Processes
from pylvs.model.destination import DestinationKey
from pylvs.model.scripts import Script
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService

_WARNINGS = (ServerDown, QuorumLost, SorryServerIn)
_IN_REASON = {field.name for field in fields(ServerEvent)} | {"override"}  # which the reason tells in words


def log_event(event: Event) -> None:
    """One line; none for a good start, nor for a failure that does not count yet and that nobody asked to hear of."""
    if isinstance(event, CheckFailed) and not (event.counted or event.log_all):
        return
    if isinstance(event, QuorumGained) and event.initial:
        return
    more = {
        field.name: getattr(event, field.name)
        for field in fields(event)
        if field.name not in _IN_REASON and getattr(event, field.name) is not False
    }
    if isinstance(event, ServerEvent):
        more["server"] = str(event.server)
    log = get_logger()
    expected = getattr(event, "ending", False)
    tell = log.warning if isinstance(event, _WARNINGS) and not expected else log.info
    tell(event.name.replace("_", " "), service=event.service, **more, reason=event.reason)


def log_findings(findings: Iterable[Finding]) -> None:
    """One line each."""
    log = get_logger()
    for finding in findings:
        tell = {Severity.ERROR: log.error, Severity.NOTE: log.info}.get(finding.severity, log.warning)
        advice = f"; {finding.advice}" if finding.advice else ""
        tell(f"{finding.place}: {finding.text}{advice}")


# --- notify ----------------------------------------------------------------------------------------------------------
# The operator's scripts at events: notify_up, notify_down, quorum_up, quorum_down.
#
# As in keepalived they get the words of the configuration and nothing more, in argument or environment. What happens to
# one server, or to one service's quorum, is told in order, each script after the end of the one before; keepalived runs
# them side by side. Checks wait for none of this: scripts run here have a runner of their own.


MAX_SCRIPTS = 50

Subject = tuple[str, DestinationKey | None]  # a service's name, and its server or its quorum


class ScriptNotifier:
    """Runs the scripts of a configuration at the events that it is told of."""

    def __init__(self, processes: Processes | None = None) -> None:
        self.processes = processes or Processes(at_once=MAX_SCRIPTS)
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


# --- alerts ----------------------------------------------------------------------------------------------------------
# Alerts by mail, with keepalived's subjects and bodies: `[router] Realserver [10.0.0.2]:tcp:80 of ... - DOWN`.


class MailAlerts:
    """Sends what a configuration wants sent."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._services: Mapping[str, WantedService] = {}
        self._settings = GlobalSettings()

    def configure(self, configuration: Configuration) -> None:
        """The configuration from now on."""
        self._services, self._settings = configuration.by_name(), configuration.settings
        self.outbox.configure(configuration.settings.mail)

    def heard(self, event: Event) -> None:
        """Something happened."""
        service = self._services.get(event.service)
        if service is None or not self._settings.mail.recipients:
            return
        alert = alert_of(event, service, self._settings.router_id or socket.gethostname())
        if alert is not None:
            self.outbox.put(alert)

    async def finish(self) -> None:
        """Send what waits for a while, then let it be."""
        await self.outbox.finish()


def alert_of(event: Event, service: WantedService, router_id: str) -> Alert | None:
    """The mail about an event, if one is wanted; of the end of a daemon keepalived sends none, of a start one for each
    quorum that is there."""
    if getattr(event, "ending", False):
        return None
    if isinstance(event, QuorumGained | QuorumLost):
        if not service.smtp_alert or (isinstance(event, QuorumLost) and event.silent):
            return None
        return Alert(
            f"[{router_id}] Virtualserver {virtual_name(service)} - {state_of(event)}", _quorum_text(event), event.at
        )
    if isinstance(event, ServerUp | ServerDown):
        server = server_of(event, service)
        if server is None or not server.smtp_alert or (isinstance(event, ServerDown) and event.initial):
            return None
        subject = f"[{router_id}] Realserver {real_name(event, service)} of virtual server {virtual_name(service)}"
        return Alert(f"{subject} - {state_of(event)}", event.reason, event.at)
    return None


def state_of(event: Event) -> str:
    """UP or DOWN."""
    return "UP" if isinstance(event, ServerUp | QuorumGained) else "DOWN"


def virtual_name(service: WantedService) -> str:
    """As keepalived names it: `[192.0.2.1]:tcp:80`, `FWM 7`, `[web]:0` for a group."""
    kind, _, name = service.name.partition(" ")
    if kind == "group":
        return f"[{name}]:0"
    key = service.keys[0]
    if key.mark:
        return f"FWM {key.mark}"
    return f"[{key.address}]:{key.protocol.name.lower()}:{key.port}"


def real_name(event: ServerEvent, service: WantedService) -> str:
    """As keepalived names it: `[10.0.0.2]:tcp:80`."""
    key: DestinationKey = event.server
    protocol = "none" if service.keys[0].mark else service.keys[0].protocol.name.lower()
    return f"[{key.address}]:{protocol}:{key.port}"


def _quorum_text(event: QuorumGained | QuorumLost) -> str:
    """With the arithmetic behind it."""
    if isinstance(event, QuorumLost):
        bound = event.quorum - event.hysteresis
        return f"Lost quorum {event.quorum}-{event.hysteresis}={bound} > {event.weight}"
    said = "Starting with quorum up" if event.initial else "Gained quorum"
    return f"{said} {event.quorum}+{event.hysteresis}={event.quorum + event.hysteresis} <= {event.weight}"


# --- fifos -----------------------------------------------------------------------------------------------------------
# Named pipes that are told of services and servers, with keepalived's lines:
#
# VS [192.0.2.1]:tcp:80 UP
# RS [10.0.0.2]:tcp:80 [192.0.2.1]:tcp:80 DOWN


class FifoNotifier:
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
            line = fifo_line(event, service) if service else ""
            if line:
                self._fifos.write(line)
                return

    async def finish(self) -> None:
        """Give readers a little time."""
        await self._fifos.finish()


def fifo_line(event: Event, service: WantedService) -> str:
    """The line about an event, "" if there is none."""
    if isinstance(event, QuorumGained | QuorumLost):
        silent = isinstance(event, QuorumLost) and event.silent
        return "" if silent else f"VS {virtual_name(service)} {state_of(event)}"
    if isinstance(event, ServerUp | ServerDown) and server_of(event, service):
        return f"RS {real_name(event, service)} {virtual_name(service)} {state_of(event)}"
    return ""
