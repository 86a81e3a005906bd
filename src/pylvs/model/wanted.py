"""What an operator's configuration wants of the tables: services, their servers, their checks, what to do when."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.model.addresses import Address
from pylvs.model.checks import Check, Script
from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import Destination
from pylvs.model.service import ServiceFlag, ServiceKey, Timeouts, VirtualService
from pylvs.model.vrrp import Fifo, VrrpConfiguration


@dataclass(frozen=True, slots=True)
class WantedServer:
    """A real server: its destination with the configured weight, its checks, and what it does to the table."""

    destination: Destination
    checks: tuple[Check, ...] = ()
    inhibit_on_failure: bool = False  # down is weight 0, not removal
    alpha: bool = False  # down until its checks succeed
    notify_up: Script | None = None
    notify_down: Script | None = None
    smtp_alert: bool = False


@dataclass(frozen=True, slots=True)
class WantedService:
    """One `virtual_server`: the same servers for one key, or for all keys of a group.

    `name` is what the configuration calls it ("192.0.2.1:80 tcp", "fwmark 7", "group web tcp"), unique within it.
    """

    name: str
    keys: tuple[ServiceKey, ...]
    scheduler: str = "wlc"
    flags: ServiceFlag = ServiceFlag(0)
    timeout_s: int = 0
    netmask: int = -1
    engine: str = ""
    servers: tuple[WantedServer, ...] = ()
    sorry_server: Destination | None = None
    sorry_server_inhibit: bool = False  # while it does not serve it is there with weight 0 instead of not at all
    quorum: int = 1  # sum of the weights of the servers that are up
    hysteresis: int = 0
    quorum_up: Script | None = None
    quorum_down: Script | None = None
    alpha: bool = False
    omega: bool = False  # at the end run notify_down and quorum_down
    ha_suspend: bool = False  # no checks while the address is not here
    smtp_alert: bool = False
    virtualhost: str = ""

    def services(self) -> tuple[VirtualService, ...]:
        """As rows of the table."""
        return tuple(
            VirtualService(key, self.scheduler, self.flags, self.timeout_s, self.netmask, self.engine)
            for key in self.keys
        )


@dataclass(frozen=True, slots=True)
class WantedRow:
    """One row that the table should have now: what the checks, the quorum and the operator's words come to."""

    service: VirtualService
    destinations: tuple[Destination, ...] = ()  # in the order of the configuration


@dataclass(frozen=True, slots=True)
class Mail:
    """Where alerts go by mail, and as whom; nothing is sent without `recipients`."""

    recipients: tuple[str, ...] = ()
    sender: str = ""
    server: str = "127.0.0.1"
    port: int = 25
    helo_name: str = ""
    connect_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class GlobalSettings:
    """`global_defs`, as far as checks and the table are concerned."""

    router_id: str = ""
    script_user: str = ""
    script_group: str = ""
    script_security: bool = False
    mail: Mail = field(default_factory=Mail)
    smtp_alert: bool = False  # for everything that does not say otherwise
    lvs_timeouts: Timeouts | None = None
    lvs_flush: bool = False  # empty the table at the start
    lvs_flush_on_stop: str = ""  # "", "all", "vs" (those configured)
    exclusive: bool = False  # services that the configuration does not have are removed
    checker_nice: int = 0
    metrics_address: tuple[Address, int] | None = None  # where /metrics is served over TCP as well
    shared_probes: bool = False
    fifo: Fifo | None = None  # that services and servers alone are told to
    startup_script: Script | None = None  # runs to its end before anything else
    startup_script_timeout_s: float = 10.0
    shutdown_script: Script | None = None  # runs after everything else
    shutdown_script_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole configuration file, its includes and defaults in place."""

    services: tuple[WantedService, ...] = ()
    settings: GlobalSettings = field(default_factory=GlobalSettings)
    vrrp: VrrpConfiguration = field(default_factory=VrrpConfiguration)

    def by_name(self) -> Mapping[str, WantedService]:
        """The services by their names."""
        return {service.name: service for service in self.services}
