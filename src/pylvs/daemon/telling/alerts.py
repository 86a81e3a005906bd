"""Alerts by mail, with the subjects and bodies of keepalived's: `[router] Realserver [10.0.0.2]:tcp:80 of ... - DOWN`.

One after the other, from a queue of a bounded length, so that neither many events nor a mail server that is down or
slow cost the checks anything.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate

import structlog

from pylvs.daemon.telling.notify import server_of
from pylvs.daemon.telling.smtp import Refused, deliver
from pylvs.health.events import Event, QuorumGained, QuorumLost, ServerDown, ServerEvent, ServerUp
from pylvs.model.destination import DestinationKey
from pylvs.model.wanted import Configuration, GlobalSettings, Mail, WantedService

MOST_WAITING = 500
OLDEST_S = 600.0  # an alert that could not be sent for so long is no news
FINISH_S = 5.0  # at the end, for what is not sent yet


@dataclass(frozen=True, slots=True)
class Alert:
    """A mail to be sent."""

    subject: str
    body: str
    at: float  # wall clock


class Alerts:
    """Sends what a configuration wants sent."""

    def __init__(self) -> None:
        self._services: Mapping[str, WantedService] = {}
        self._settings = GlobalSettings()
        self._waiting: deque[Alert] = deque()
        self._task: asyncio.Task[None] | None = None
        self._lost = 0
        self._log = structlog.get_logger()

    def configure(self, configuration: Configuration) -> None:
        """The configuration from now on."""
        self._services, self._settings = configuration.by_name(), configuration.settings

    def heard(self, event: Event) -> None:
        """Something happened."""
        service = self._services.get(event.service)
        if service is None or not self._settings.mail.recipients:
            return
        alert = alert_of(event, service, self._settings.router_id or socket.gethostname())
        if alert is None:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(alert)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            alert = self._waiting.popleft()
            mail = self._settings.mail
            try:
                if time.time() - alert.at > OLDEST_S:
                    raise Refused(f"it has waited for more than {OLDEST_S:g} s")
                refused = await deliver(message(alert, mail), mail)
                for recipient, reason in refused.items():
                    self._log.warning("an alert was refused", to=recipient, subject=alert.subject, reason=reason)
            except Refused as error:
                self._log.warning("an alert was not sent", subject=alert.subject, reason=str(error))
            if self._lost and not self._waiting:
                self._log.warning("alerts were not sent: too many waited", count=self._lost)
                self._lost = 0

    async def finish(self) -> None:
        """Send what waits for a while, then let it be."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=FINISH_S)
            if self._task.cancel():
                self._log.warning("alerts were not sent before the end", count=len(self._waiting) + 1)
            await asyncio.gather(self._task, return_exceptions=True)


def alert_of(event: Event, service: WantedService, router_id: str) -> Alert | None:
    """The mail about an event, if one is wanted; of the end of a daemon keepalived sends none, of a start one for each
    quorum that is there."""
    if getattr(event, "ending", False):
        return None
    if isinstance(event, QuorumGained | QuorumLost):
        if not service.smtp_alert or (isinstance(event, QuorumLost) and event.silent):
            return None
        return Alert(f"[{router_id}] Virtualserver {_virtual(service)} - {_state(event)}", _quorum(event), event.at)
    if isinstance(event, ServerUp | ServerDown):
        server = server_of(event, service)
        if server is None or not server.smtp_alert or (isinstance(event, ServerDown) and event.initial):
            return None
        subject = f"[{router_id}] Realserver {_real(event, service)} of virtual server {_virtual(service)}"
        return Alert(f"{subject} - {_state(event)}", event.reason, event.at)
    return None


def _state(event: Event) -> str:
    return "UP" if isinstance(event, ServerUp | QuorumGained) else "DOWN"


def _virtual(service: WantedService) -> str:
    """As keepalived names it: `[192.0.2.1]:tcp:80`, `FWM 7`, `[web]:0` for a group."""
    kind, _, name = service.name.partition(" ")
    if kind == "group":
        return f"[{name}]:0"
    key = service.keys[0]
    if key.mark:
        return f"FWM {key.mark}"
    return f"[{key.address}]:{key.protocol.name.lower()}:{key.port}"


def _real(event: ServerEvent, service: WantedService) -> str:
    key: DestinationKey = event.server
    protocol = "none" if service.keys[0].mark else service.keys[0].protocol.name.lower()
    return f"[{key.address}]:{protocol}:{key.port}"


def _quorum(event: QuorumGained | QuorumLost) -> str:
    """With the arithmetic behind it."""
    if isinstance(event, QuorumLost):
        bound = event.quorum - event.hysteresis
        return f"Lost quorum {event.quorum}-{event.hysteresis}={bound} > {event.weight}"
    said = "Starting with quorum up" if event.initial else "Gained quorum"
    return f"{said} {event.quorum}+{event.hysteresis}={event.quorum + event.hysteresis} <= {event.weight}"


def message(alert: Alert, mail: Mail) -> bytes:
    """As it goes over the wire, but for the dots (RFC 5322)."""
    made = EmailMessage()
    made["Date"] = formatdate(alert.at, localtime=True)
    made["From"] = mail.sender or f"keepalived@{socket.gethostname()}"
    made["Subject"] = _one_line(alert.subject)
    made["X-Mailer"] = "pylvs"
    made["To"] = ", ".join(mail.recipients)
    made.set_content(f"=> {_one_line(alert.body)} <=\n")
    return made.as_bytes(policy=made.policy.clone(linesep="\r\n", max_line_length=998))


def _one_line(text: str) -> str:
    return " ".join(text.split())
