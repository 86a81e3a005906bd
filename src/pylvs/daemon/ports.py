"""The two interfaces at the daemon's edge: what it needs of the host, and what the API needs of the daemon."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from pylvs.config.findings import Finding
from pylvs.daemon.drains import Drains
from pylvs.daemon.event_bus import EventBus
from pylvs.daemon.loading import Loaded
from pylvs.daemon.options import Options
from pylvs.daemon.process import ServiceManager
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.table.cache import LongLivedDirector
from pylvs.daemon.table.reconciler import Reconciler, ReconcileResult, TableThread
from pylvs.daemon.virtual_routers import ConfigureResult, VirtualRouters
from pylvs.health.engine import Engine
from pylvs.health.events import Event
from pylvs.health.outcome import Probe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check
from pylvs.model.dataclass import dataclass, field
from pylvs.model.wanted import Configuration, WantedRow, WantedServer, WantedService


class HostPort(Protocol):
    """What the daemon needs of the host: `host_services.HostServices`, or a fake in tests."""

    manager: ServiceManager

    def load(self, options: Options) -> Loaded:
        """Read the configuration. In a thread; errors are findings."""

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        """Describe what a reload changes. In a thread."""

    def director(self) -> LongLivedDirector:
        """Open the tables. In the table thread. Raises PylvsError."""

    def addresses(self) -> Iterable[Address]:
        """Return this host's addresses. In the table thread."""

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        """Return the probe of a check."""

    def configure(self, configuration: Configuration) -> None:
        """Use this configuration for scripts, checks and notifications from now on."""

    async def run_startup_script(self, configuration: Configuration) -> None:
        """Run the startup_script before anything else, until it ends or its timeout expires."""

    def check_rows(self) -> tuple[WantedRow, ...]:
        """Return rows that checks need besides the configured services; the same object while nothing changes."""

    def adapt_host(self, state: StateDirectory) -> None:
        """Change host settings that checks need; called again after changes of the host. In the table thread."""

    def restore_host(self, state: StateDirectory) -> None:
        """Revert `adapt_host`. In the table thread."""

    def start_routers(self, state: StateDirectory, log_format: str) -> subprocess.Popen[bytes]:
        """Start pylvs-vrrp, which outlives the daemon. In a thread. Raises OSError."""

    def notify(self, event: Event) -> None:
        """Start the scripts, FIFO lines and mails that the configuration has for the event; do not wait for them."""

    async def close(self) -> None:
        """Finish notifications and end what runs, in bounded time."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The result of a reload; `table` is None for a dry run."""

    findings: tuple[Finding, ...]
    differences: tuple[str, ...]
    table: ReconcileResult | None = None
    routers: ConfigureResult = field(default_factory=ConfigureResult)


class ApiContext(Protocol):
    """What the API needs of the daemon: the supervisor. Times are Unix times; 0 means not yet."""

    state: StateDirectory
    engine: Engine
    reconciler: Reconciler
    table_thread: TableThread
    drains: Drains
    routers: VirtualRouters
    events: EventBus
    loaded: Loaded
    reloads: Counter[str]  # by result: done, refused
    started_at: float  # when the first table was complete
    loaded_at: float  # when the configuration in force was loaded

    async def reload(self, dry_run: bool = False, allow_empty: bool = False, force: bool = False) -> Reloaded:
        """Read the file again and run all of it. Raises Refused; then nothing has changed."""
