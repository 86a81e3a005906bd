"""What the daemon meets outside of itself, on a real machine."""

from __future__ import annotations

from collections.abc import Iterable

from pylvs.config.building import build
from pylvs.config.reading import read
from pylvs.daemon.loading import Loaded, without_checks
from pylvs.daemon.options import Options
from pylvs.daemon.systemd import Manager
from pylvs.daemon.table import Holder
from pylvs.dataplane.devices import local_addresses
from pylvs.dataplane.director import open_director
from pylvs.health.checkers import probe_of
from pylvs.health.context import Context
from pylvs.health.outcome import Probe
from pylvs.host.processes import Processes
from pylvs.model.addresses import Address
from pylvs.model.checks import Check
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService


class Machine:
    """Files, BPF tables, the kernel's addresses, checks over the network, the service manager that started us."""

    def __init__(self) -> None:
        self.manager = Manager()
        self._processes = Processes()

    def load(self, options: Options) -> Loaded:
        """The configuration in its file; what is wrong with it is a finding."""
        document, findings = read(options.file, options.ids)
        built, more = build(document)
        return Loaded(built if options.checks else without_checks(built), (*findings, *more), not document.nodes)

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        """In words."""
        return [] if old == new else ["the configuration differs"]

    def director(self) -> Holder:
        """The tables of this network namespace. Raises NotPermitted, Unsupported."""
        return open_director()

    def addresses(self) -> Iterable[Address]:
        """Those that devices of this network namespace hold."""
        return local_addresses()

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        """The checker's."""
        return probe_of(check, Context(server.destination.weight, service.virtualhost, self._processes))

    def configure(self, settings: GlobalSettings) -> None:
        """Whom scripts run as."""
        self._processes.configure(settings.script_user, settings.script_group, settings.script_security)

    async def close(self) -> None:
        """End scripts that still run."""
        await self._processes.close()
