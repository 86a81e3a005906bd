"""A client of pylvs-vrrp: its status, transitions, and dropped advertisements."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pylvs.model.errors import NoSuchDevice, PylvsError
from pylvs.netlink import links
from pylvs.snmp.keepalived_mib import RouterStatus
from pylvs.snmp.timeouts import BackOff, Cached, Clock
from pylvs.vrrp.ipc import SOCKET_NAME, Client, NoRouters


class RouterClient:
    """The connections to pylvs-vrrp: one for its status, one for events."""

    def __init__(self, state_dir: Path, clock: Clock = time.monotonic) -> None:
        self._path = state_dir / SOCKET_NAME
        self._back_off = BackOff(clock)
        self._status = Cached(self._read_status, RouterStatus(), NoRouters, self._back_off)
        self._events: Client | None = None

    def status(self, deadline: float) -> RouterStatus:
        """Return the status, the last known if there is no answer; without the process, one of no virtual router."""
        return self._status.get(deadline)

    def _read_status(self, deadline: float) -> RouterStatus:
        with self._client(deadline) as client:
            return router_status(client.ask("status"))

    def _client(self, deadline: float) -> Client:
        patience_s = max(deadline - time.monotonic(), 0.0) / 2  # half for the greeting, half for a request
        return Client(self._path, patience_s)

    def subscribe(self, deadline: float) -> None:
        """Connect for events, unless that is done. Without the process, a later call may succeed."""
        if self._events is not None or not self._back_off.over:
            return
        try:
            client = self._client(deadline)
            try:
                client.ask("subscribe_states")
            except PylvsError:
                client.close()
                raise
        except NoRouters:
            return
        except PylvsError:
            self._back_off.begin()
            return
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
            return [each for each in self._events.events() if "kind" in each]
        except PylvsError:
            self.close()
            return []


def router_status(found: dict[str, Any]) -> RouterStatus:
    """Return the status that pylvs-vrrp reports."""
    devices = {each["name"]: str(each["device"]) for each in found["instances"]}
    instances = {each["name"]: each for each in found["instances"]}
    groups = {each["name"]: each["state"] for each in found["groups"]}
    unknown = sum(each["count"] for each in found["unknown_vrids"])
    return RouterStatus(instances, groups, devices, index_of, link_address_of, unknown, time.time())


def event_status(event: Mapping[str, Any]) -> RouterStatus:
    """Return the status of the one virtual router that an event has."""
    name = event["instance"]
    devices = {name: str(event["device"])} if "device" in event else {}
    return RouterStatus({name: event}, devices=devices, index_of=index_of)


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
