"""A client of pylvs-vrrp: its status, transitions, and dropped advertisements."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

from pylvs.model.errors import NoSuchDevice, PylvsError
from pylvs.model.vrrp import VrrpInstance
from pylvs.netlink import links
from pylvs.snmp.keepalived_mib import RouterStatus
from pylvs.vrrp.ipc import SOCKET_NAME, Client


class RouterClient:
    """The connections to pylvs-vrrp: one for its status, one for events."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / SOCKET_NAME
        self._events: Client | None = None

    def status(self) -> RouterStatus:
        """Return the status; without the process, one of no virtual router."""
        try:
            with Client(self._path) as client:
                return router_status(client.ask("status"))
        except PylvsError:
            return RouterStatus()

    def subscribe(self) -> None:
        """Connect for events, unless that is done. Without the process, a later call may succeed."""
        if self._events is not None:
            return
        with contextlib.suppress(PylvsError):
            client = Client(self._path)
            try:
                client.ask("subscribe_states")
            except PylvsError:
                client.close()
                raise
            self._events = client

    def fileno(self) -> int:
        """Return the descriptor of the subscription, -1 without one."""
        return -1 if self._events is None else self._events.fileno()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def events(self) -> list[dict[str, Any]]:
        """Return the transitions and dropped advertisements that have come."""
        if self._events is None:
            return []
        try:
            return [each for each in self._events.events() if isinstance(each, dict) and "kind" in each]
        except PylvsError:
            self.close()
            return []


def router_status(found: dict[str, Any]) -> RouterStatus:
    """Return the status that pylvs-vrrp reports."""
    devices = {each["name"]: each["device"] for each in found["instances"]}

    def device_of(instance: VrrpInstance) -> str:
        return str(devices.get(instance.name, instance.interface))

    instances = {each["name"]: each for each in found["instances"]}
    groups = {each["name"]: each["state"] for each in found["groups"]}
    unknown = sum(each["count"] for each in found["unknown_vrids"])
    return RouterStatus(instances, groups, index_of, device_of, link_address_of, unknown, time.time())


def index_of(device: str) -> int:
    """Return the index of a device, 0 if it does not exist."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def link_address_of(device: str) -> bytes:
    """Return the link address of a device, b"" if it does not exist."""
    try:
        return links.device(device).mac
    except (NoSuchDevice, OSError):
        return b""
