"""Connections of the SNMP sub-agent that record what is asked of them."""

from __future__ import annotations

import os
import socket
from typing import Any

from pylvs.snmp.checker_mib import ServerStatus
from pylvs.snmp.connections import Events, Services
from pylvs.snmp.keepalived_mib import RouterStatus


class FakeConnections:
    """`end` is the connection to snmpd; a new socket without it."""

    def __init__(self, end: socket.socket | None = None) -> None:
        self.calls: list[Any] = []
        self.alive = 0
        self.error: Exception | None = None  # of the next call
        self._master = end
        self._waiting = Events()
        self._event, self._notify = os.pipe()

    def close(self) -> None:
        os.close(self._event)
        os.close(self._notify)

    def _call(self, *call: object) -> None:
        self.calls.append(call)
        error, self.error = self.error, None
        if error:
            raise error

    def happen(self, events: Events) -> None:
        """Have these events, until they are read."""
        self._waiting = events
        os.write(self._notify, b"x")

    def master(self) -> socket.socket:
        self._call("master")
        return self._master or socket.socket(socket.AF_UNIX)

    def routers(self, _deadline: float) -> RouterStatus:
        return RouterStatus({"VI_1": {"state": "MASTER"}}, devices={"VI_1": "vrrp.51"})

    def servers(self, _deadline: float) -> ServerStatus:
        return ServerStatus({"web": {"name": "web"}})

    def services(self, deadline: float) -> Services:
        self._call("services", deadline)
        return {"web": {"name": "x" * 1_000_000}}

    def set_weight(self, service: str, server: str, weight: int | None, deadline: float) -> None:
        self._call("set_weight", service, server, weight)

    def subscribe(self, _deadline: float) -> None:
        self._call("subscribe")

    def unsubscribe(self) -> None:
        self._call("unsubscribe")

    def filenos(self) -> list[int]:
        return [self._event]

    def events(self) -> Events:
        found, self._waiting = self._waiting, Events()
        if found.routers or found.servers:
            os.read(self._event, 1)
        return found

    def report_alive(self) -> None:
        self.alive += 1

    def cpu_s(self) -> float:
        return float(len(self.calls))
