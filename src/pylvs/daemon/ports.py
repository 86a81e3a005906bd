"""What the daemon needs of the world."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from pylvs.daemon.drains import Drains
from pylvs.daemon.event_bus import EventBus
from pylvs.daemon.loading import Loaded, Reloaded
from pylvs.daemon.options import Options
from pylvs.daemon.process import ServiceManager
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.table.cache import LongLivedDirector
from pylvs.daemon.table.reconciler import Reconciler, TableThread
from pylvs.daemon.virtual_routers import VirtualRouters
from pylvs.health.engine import Engine
from pylvs.health.events import Event
from pylvs.health.outcome import Probe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check
from pylvs.model.wanted import Configuration, WantedRow, WantedServer, WantedService


class HostPort(Protocol):
    """What the daemon meets: `pylvs.daemon.host_services` on a real machine, something imagined in tests."""

    manager: ServiceManager

    def load(self, options: Options) -> Loaded:
        """The configuration in its file. In a thread; raises nothing."""

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        """In words. In a thread."""

    def director(self) -> LongLivedDirector:
        """Who holds the tables. In the editor's thread. Raises PylvsError."""

    def addresses(self) -> Iterable[Address]:
        """This machine's. In the editor's thread."""

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        """What makes a check."""

    def configure(self, configuration: Configuration) -> None:
        """What holds from now on, before the first check or the next."""

    async def begin(self, configuration: Configuration) -> None:
        """What comes before everything else, in bounded time."""

    def rows(self) -> tuple[WantedRow, ...]:
        """What checks need of the table beside the configured services; the same object while nothing changes."""

    def adapt(self, state: StateDirectory) -> None:
        """Change this machine as checks need it, and again whenever it changed. In the editor's thread."""

    def restore(self, state: StateDirectory) -> None:
        """Take that back. In the editor's thread."""

    def start_routers(self, state: StateDirectory, log_format: str) -> subprocess.Popen[bytes]:
        """A process for virtual routers, which outlives this one. In a thread. Raises OSError."""

    def heard(self, event: Event) -> None:
        """Tell whom the configuration wants told; at once, whatever comes of it later."""

    async def close(self) -> None:
        """End what was begun here, in bounded time."""


# --- desk ------------------------------------------------------------------------------------------------------------
# What the API needs of the daemon; the supervisor is one.


class ApiContext(Protocol):
    """Where questions and words go. Times: wall clock, seconds; 0 before."""

    state: StateDirectory
    engine: Engine
    keeper: Reconciler
    editor: TableThread
    drains: Drains
    routers: VirtualRouters
    news: EventBus
    loaded: Loaded
    reloads: Counter[str]  # by result: done, refused
    started_at: float  # of the first complete table
    loaded_at: float  # of the configuration in force

    async def reload(self, dry_run: bool = False, allow_empty: bool = False, force: bool = False) -> Reloaded:
        """Read the file again and run it, as a whole or not at all. Raises Refused."""
