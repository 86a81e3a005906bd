"""Sync daemons in memory: that they run, and with which parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pylvs.model.errors import DaemonRuns, NoDaemon, NoSuchDevice, PylvsError
from pylvs.model.rows import ServiceRow
from pylvs.model.sync.daemons import ROLES, RunningDaemon, SyncDaemon, check

DEVICES = {"eth0": 1500, "lo": 65536}  # their MTU, as in the recordings of the real ipvsadm


class OwnedDaemons:
    """The daemons of a host as `pylvs run` starts them. `refused` is the error of each start, "" for none.

    `on_start` is called before each one runs.
    """

    def __init__(self) -> None:
        self.roles: dict[str, RunningDaemon] = {}
        self.history: list[str] = []
        self.refused = ""
        self.on_start: Callable[[], object] = lambda: None

    def running(self) -> list[RunningDaemon]:
        return [self.roles[role] for role in ROLES if role in self.roles]

    def start(self, daemon: SyncDaemon, announce: bool = False, owner: str = "") -> None:
        if self.refused:
            raise PylvsError(self.refused)
        assert daemon.role not in self.roles
        self.on_start()
        self.history.append(f"start {daemon.role}{' announce' if announce else ''}")
        self.roles[daemon.role] = RunningDaemon(daemon, 1472, 1, owner)

    def stop(self, role: str) -> None:
        if role not in self.roles:
            raise NoDaemon("No daemon is running")
        self.history.append(f"stop {role}")
        del self.roles[role]


class MemoryDaemons:
    """The daemons of a host with these devices."""

    def __init__(self) -> None:
        self._running: dict[str, RunningDaemon] = {}

    def start(self, daemon: SyncDaemon, rows: Iterable[ServiceRow]) -> None:
        check(rows)
        if daemon.interface not in DEVICES:
            raise NoSuchDevice(f"{daemon.interface}: no such device")
        if daemon.role in self._running:
            raise DaemonRuns("Daemon has already run")
        self._running[daemon.role] = RunningDaemon(daemon, daemon.longest(DEVICES[daemon.interface]), 1)

    def stop(self, role: str) -> None:
        if role not in self._running:
            raise NoDaemon("No daemon is running")
        del self._running[role]

    def running(self) -> list[RunningDaemon]:
        return [self._running[role] for role in ROLES if role in self._running]
