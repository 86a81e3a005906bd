"""Report events of servers, services and the daemon: log lines, scripts, mails, FIFOs, and `GET /v1/events`."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from pylvs.config.language.tree import Finding, Severity
from pylvs.config.repeats import folded
from pylvs.health.events import (
    CheckFailed,
    CheckInconclusive,
    Event,
    HandshakesLow,
    Override,
    QuorumGained,
    QuorumLost,
    ServerAdded,
    ServerDown,
    ServerEvent,
    ServerUp,
    ServiceHandshakesLow,
    SorryServerIn,
)
from pylvs.model.checks import Script
from pylvs.model.dataclass import field_names
from pylvs.model.service import DestinationKey
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService
from pylvs.notify.fifos import FifoSet
from pylvs.notify.mail import THIS_HOST, Alert, Outbox
from pylvs.system.http.lines import json_line
from pylvs.system.logs import get_logger
from pylvs.system.processes.edge import Edge
from pylvs.system.processes.notify_scripts import NotifyScripts
from pylvs.system.processes.scripts import Processes, ScriptRunner

_WARNINGS = (ServerDown, QuorumLost, SorryServerIn, CheckInconclusive, HandshakesLow, ServiceHandshakesLow)
_IN_REASON = {*field_names(ServerEvent), "override"}  # fields that the reason contains
MAX_QUEUED = 10_000  # events that are kept for subscribers that do not read them
REMEMBERED = 1000  # events, with those of former daemons
MAX_LINES = 1 << 16  # bytes that a subscriber gets at once
_FORGET_EVERY = 64  # events

Subject = tuple[str, DestinationKey | None]  # the name of a service, with a server, or None for its quorum


def log_event(event: Event) -> None:
    """Log an event as one line, except a quorum at the start and failures that do not count (log_all_failures)."""
    if isinstance(event, CheckFailed) and not (event.counted or event.log_all):
        return
    if isinstance(event, QuorumGained) and event.initial:
        return
    more = {
        name: value
        for name in field_names(event)
        if name not in _IN_REASON and (value := getattr(event, name)) is not False
    }
    if isinstance(event, ServerEvent):
        more["server"] = str(event.server)
    logger = get_logger()
    log = logger.warning if isinstance(event, _WARNINGS) and not _is_ending(event) else logger.info
    log(event.name.replace("_", " "), service=event.service, **more, reason=event.reason)


def log_findings(findings: Iterable[Finding]) -> None:
    """Log the findings of a configuration, one line each; those that one cause repeats are folded."""
    logger = get_logger()
    for finding, more in folded(findings):
        log = {Severity.ERROR: logger.error, Severity.NOTE: logger.info}.get(finding.severity, logger.warning)
        advice = f"; {finding.advice}" if finding.advice else ""
        log(f"{finding.location}: {finding.text}{advice}")
        if more:
            log(more)


class Notifier:
    """Runs the scripts, writes the FIFO lines and sends the mails that the configuration has for events.

    Scripts get the configured arguments and nothing else, as keepalived's do. Those about one server, or about the
    quorum of one service, begin in order; keepalived starts them at once. They have their own limit of scripts that
    run, so checks do not wait for them.
    """

    def __init__(
        self, processes: Processes | None = None, edge: Edge | None = None, runner: ScriptRunner | None = None
    ) -> None:
        self.processes = processes or Processes(runner=runner)
        self.outbox = Outbox(edge=edge)
        self._scripts: NotifyScripts[Subject] = NotifyScripts(self.processes)
        self._fifos = FifoSet(runner)
        self._settings = GlobalSettings()
        self._services: Mapping[str, WantedService] = {}
        self._before: Mapping[str, WantedService] = {}  # with the services that the last reload removed

    def configure(self, configuration: Configuration, routers: bool = False) -> None:
        """Use this configuration from now on. With `routers`, pylvs-vrrp runs the reader of a shared FIFO."""
        self._settings = settings = configuration.settings
        self._before, self._services = self._services, configuration.by_name()
        self.processes.configure(settings.script_user, settings.script_group, settings.script_security, settings.umask)
        self._scripts.configure(settings.notify_timeout_s)
        self.outbox.configure(settings.mail)
        shared = [fifo for fifo in configuration.vrrp.settings.fifos if fifo.services]
        own = [settings.fifo] if settings.fifo else []
        foreign = [fifo.path for fifo in shared] if routers else []
        self._fifos.configure([*shared, *own], settings, foreign)

    def notify(self, event: Event) -> None:
        """Start what the event has, and do not wait for it."""
        if isinstance(event, ServerAdded):
            if not (event.up and self._settings.rs_init_notifies):
                return
            event = ServerUp(
                at=event.at, service=event.service, reason=event.reason, server=event.server, weight=event.weight
            )
        service = self._definition(event)
        if service is None:
            return
        if script := script_of(event, service):
            server = event.server if isinstance(event, ServerEvent) else None
            where = {"service": event.service} | ({"server": str(server)} if server else {})
            self._scripts.put((event.service, server), *script, where)
        if line := fifo_line(event, service):
            self._fifos.write(line)
        if self._settings.mail.recipients:
            alert = alert_of(event, service, self._settings.router_id or THIS_HOST)
            if alert is not None:
                self.outbox.put(alert)

    def scripts(self) -> dict[str, Any]:
        """Return which notify scripts run, wait, or had to be ended."""
        return self._scripts.report()

    def _definition(self, event: Event) -> WantedService | None:
        """Return the event's service as configured; as before the last reload if that removed it, or its server."""
        for services in (self._services, self._before):
            service = services.get(event.service)
            if service and (not isinstance(event, ServerEvent) or server_of(event, service)):
                return service
        return None

    async def finish(self) -> None:
        """Wait for scripts, mails and readers of FIFOs, in bounded time, and end the scripts that still run."""
        await asyncio.gather(self._finish_scripts(), self.outbox.finish(), self._fifos.finish())

    async def _finish_scripts(self) -> None:
        await self._scripts.finish()
        await self.processes.close()


def script_of(event: Event, service: WantedService) -> tuple[str, Script] | None:
    """Return keyword and script of an event, None if it has none.

    As in keepalived, a server that is down from the start (alpha) runs notify_down. A quorum at the start runs
    quorum_up; a missing one runs quorum_down only if a sorry server must serve.
    """
    found: tuple[str, Script | None] = ("", None)
    if isinstance(event, QuorumGained):
        found = "quorum_up", service.quorum_up
    elif isinstance(event, QuorumLost) and not event.silent:
        found = "quorum_down", service.quorum_down
    elif isinstance(event, ServerUp | ServerDown) and (server := server_of(event, service)):
        up = isinstance(event, ServerUp)
        found = ("notify_up", server.notify_up) if up else ("notify_down", server.notify_down)
    keyword, script = found
    return (keyword, script) if script else None


def server_of(event: ServerEvent, service: WantedService) -> WantedServer | None:
    """Return the event's server as the service defines it."""
    return next((each for each in service.servers if each.destination.key == event.server), None)


def alert_of(event: Event, service: WantedService, router_id: str) -> Alert | None:
    """Return the mail of an event, None if it has none.

    Subjects and bodies are keepalived's. As there, the end of a daemon sends none, and its start one for each quorum.
    A reload sends one for each server that it removes while it is up.
    """
    removed = getattr(event, "removed", False)
    if _is_ending(event) and not removed:
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
        return Alert(f"{subject} - {state_of(event)}", "Removing" if removed else event.reason, event.at)
    return None


def _quorum_text(event: QuorumGained | QuorumLost) -> str:
    if isinstance(event, QuorumLost):
        bound = event.quorum - event.hysteresis
        return f"Lost quorum {event.quorum}-{event.hysteresis}={bound} > {event.weight}"
    prefix = "Starting with quorum up" if event.initial else "Gained quorum"
    return f"{prefix} {event.quorum}+{event.hysteresis}={event.quorum + event.hysteresis} <= {event.weight}"


def fifo_line(event: Event, service: WantedService) -> str:
    """Return the line of an event, as `RS [10.0.0.2]:tcp:80 [192.0.2.1]:tcp:80 DOWN`, "" if it has none."""
    if isinstance(event, QuorumGained | QuorumLost):
        silent = isinstance(event, QuorumLost) and event.silent
        return "" if silent else f"VS {virtual_name(service)} {state_of(event)}"
    if isinstance(event, ServerUp | ServerDown) and server_of(event, service):
        return f"RS {real_name(event, service)} {virtual_name(service)} {state_of(event)}"
    return ""


def state_of(event: Event) -> str:
    """Return UP or DOWN."""
    return "UP" if isinstance(event, ServerUp | QuorumGained) else "DOWN"


def virtual_name(service: WantedService) -> str:
    """Return `[192.0.2.1]:tcp:80`, `FWM 7`, or `[web]:0` for a group."""
    if service.group_name:
        return service.group_name
    key = service.keys[0]
    if key.mark:
        return f"FWM {key.mark}"
    return f"[{key.address}]:{key.protocol.name.lower()}:{key.port}"


def real_name(event: ServerEvent, service: WantedService) -> str:
    """Return `[10.0.0.2]:tcp:80`."""
    key: DestinationKey = event.server
    protocol = "none" if service.keys[0].mark else service.keys[0].protocol.name.lower()
    return f"[{key.address}]:{protocol}:{key.port}"


def _is_ending(event: Event) -> bool:
    """Return whether the event is the end of a server or service, not a failure."""
    return getattr(event, "ending", False)


class Subscriber:
    """A reader of the events from now on. If it is too slow, it gets the number of events that it missed."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._position = bus.end  # the number of the next event
        self._more = asyncio.Event()

    @property
    def position(self) -> int:
        """The number of the next event that it reads."""
        return self._position

    def wake(self) -> None:
        """Let `next_lines` return: there is an event."""
        self._more.set()

    async def next_lines(self) -> bytes:
        """Wait for events; return lines of JSON, as many as fit into MAX_LINES."""
        while True:
            missed, lines = self._bus.lines(self._position)
            if missed or lines:
                break
            self._more.clear()
            await self._more.wait()
        self._position += missed + len(lines)
        if missed:
            lines = [json_line({"event": "missed", "at": time.time(), "count": missed}), *lines]
        return b"".join(lines)

    def close(self) -> None:
        """Read no more."""
        self._bus.unsubscribe(self)


class EventBus:
    """Publishes events to all subscribers, and remembers the last ones. `listener` gets each event, too.

    There is one copy of an event, as its line of JSON. A subscriber has only a position, also if it does not read.
    """

    def __init__(self) -> None:
        self.listener: Callable[[Mapping[str, Any]], None] = lambda _: None
        self._subscribers: set[Subscriber] = set()
        self._lines: deque[bytes] = deque()
        self.end = 0  # the number of the next event

    def restore(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Remember events of former daemons, oldest first."""
        self._lines.extendleft(map(json_line, reversed(list(events))))
        self._forget()

    def recent(self) -> tuple[Mapping[str, Any], ...]:
        """Return the last events, oldest first."""
        return tuple(map(json.loads, self.recent_lines()))

    def recent_lines(self) -> list[bytes]:
        """Return the last events as lines of JSON, oldest first."""
        return list(islice(self._lines, max(0, len(self._lines) - REMEMBERED), None))

    def lines(self, position: int) -> tuple[int, list[bytes]]:
        """Return how many events from this number on are forgotten, and the following ones, up to MAX_LINES bytes."""
        first = self.end - len(self._lines)
        missed = max(0, first - position)
        found, size = list[bytes](), 0
        for line in islice(self._lines, position + missed - first, None):
            size += len(line)
            if found and size > MAX_LINES:
                break
            found.append(line)
        return missed, found

    def subscribe(self) -> Subscriber:
        """Return a reader of the events that are published until it is closed."""
        subscriber = Subscriber(self)
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        self._forget()

    def publish(self, event: str, /, **fields: Any) -> None:
        """Publish an event of the daemon."""
        self._put({"event": event, "at": time.time(), **fields})

    def publish_health(self, event: Event) -> None:
        """Publish an event of the health engine."""
        self._put(encode_event(event))

    def _put(self, event: Mapping[str, Any]) -> None:
        self._lines.append(json_line(event))
        self.end += 1
        if len(self._lines) > REMEMBERED and (self.end % _FORGET_EVERY == 0 or len(self._lines) > MAX_QUEUED):
            self._forget()
        self.listener(event)
        for subscriber in self._subscribers:
            subscriber.wake()

    def _forget(self) -> None:
        """Keep the last events, and those that a subscriber has not read, but not more than MAX_QUEUED."""
        unread = self.end - min((each.position for each in self._subscribers), default=self.end)
        most = min(max(REMEMBERED, unread), MAX_QUEUED)
        while len(self._lines) > most:
            self._lines.popleft()


def encode_event(event: Event) -> dict[str, Any]:
    """Return an event of the health engine as JSON types: `event` is its name, `at` in seconds since 1970."""
    return {"event": event.name} | {name: _encode_value(getattr(event, name)) for name in field_names(event)}


def _encode_value(value: Any) -> Any:
    if isinstance(value, DestinationKey):
        return str(value)
    if isinstance(value, Override):
        return {"standing": value.standing.value, "weight": value.weight}
    return value
