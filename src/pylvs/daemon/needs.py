"""What the daemon needs of the world."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Protocol

from pylvs.daemon.loading import Loaded
from pylvs.daemon.options import Options
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.systemd import Manager
from pylvs.daemon.table.known import Holder
from pylvs.health.events import Event
from pylvs.health.outcome import Probe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check
from pylvs.model.wanted import Configuration, WantedRow, WantedServer, WantedService


class Outside(Protocol):
    """What the daemon meets: `pylvs.daemon.outside` on a real machine, something imagined in tests."""

    manager: Manager

    def load(self, options: Options) -> Loaded:
        """The configuration in its file. In a thread; raises nothing."""

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        """In words. In a thread."""

    def director(self) -> Holder:
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
