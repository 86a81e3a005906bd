"""Alerts by mail, with keepalived's subjects and bodies: `[router] Realserver [10.0.0.2]:tcp:80 of ... - DOWN`."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from pylvs.daemon.telling.notify import server_of
from pylvs.health.events import Event, QuorumGained, QuorumLost, ServerDown, ServerEvent, ServerUp
from pylvs.model.destination import DestinationKey
from pylvs.model.wanted import Configuration, GlobalSettings, WantedService
from pylvs.notify.mail import Alert, Outbox


class Alerts:
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
            f"[{router_id}] Virtualserver {virtual_name(service)} - {state_of(event)}", _quorum(event), event.at
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


def _quorum(event: QuorumGained | QuorumLost) -> str:
    """With the arithmetic behind it."""
    if isinstance(event, QuorumLost):
        bound = event.quorum - event.hysteresis
        return f"Lost quorum {event.quorum}-{event.hysteresis}={bound} > {event.weight}"
    said = "Starting with quorum up" if event.initial else "Gained quorum"
    return f"{said} {event.quorum}+{event.hysteresis}={event.quorum + event.hysteresis} <= {event.weight}"
