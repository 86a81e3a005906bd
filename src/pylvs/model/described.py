"""What only SNMP shows of virtual servers: names, groups, and keywords of checks as the blocks have them."""

from __future__ import annotations

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Method, Tunnel


@dataclass(frozen=True, slots=True)
class CheckDefaults:
    """The defaults that a block gives to its checks. None: each check has its own."""

    delay_loop_s: float
    connect_timeout_s: float
    retry: int | None = None
    delay_before_retry_s: float | None = None
    warmup_s: float | None = None


@dataclass(frozen=True, slots=True)
class DescribedServer:
    """A real server."""

    name: str  # snmp_name
    virtualhost: str  # of its own block
    checks: CheckDefaults


@dataclass(frozen=True, slots=True)
class DescribedService:
    """A virtual server; its real servers are in the order of the service's."""

    name: str  # snmp_name
    group: str  # "" without one
    method: Method
    tunnel: Tunnel
    weight: int  # the default of the real servers
    inhibit_on_failure: bool  # the default of the real servers
    checks: CheckDefaults
    servers: tuple[DescribedServer, ...]


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """Addresses of a virtual_server_group with one port, 0 for every port."""

    first: Address
    last: Address
    port: int


@dataclass(frozen=True, slots=True)
class DescribedGroup:
    """A virtual_server_group."""

    name: str
    marks: tuple[int, ...]
    addresses: tuple[AddressEntry, ...]


@dataclass(frozen=True, slots=True)
class Descriptions:
    """The groups of a configuration, and its services in their order."""

    groups: tuple[DescribedGroup, ...] = ()
    services: tuple[DescribedService, ...] = ()
