"""The configuration of an operator: services, their servers, checks, notifications and global settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pylvs.model.addresses import Address, Network
from pylvs.model.checks import Check, Script
from pylvs.model.client_rules import ClientRule
from pylvs.model.dataclass import dataclass, field
from pylvs.model.described import Descriptions
from pylvs.model.service import Destination, ServiceFlag, ServiceKey, Timeouts, VirtualService
from pylvs.model.sync.daemons import SyncWanted
from pylvs.model.vrrp import Fifo, VrrpConfiguration

# Metrics that can be selected: of services with their quorums, of destinations in the table, of their traffic, of real
# servers, and of their checks.
METRIC_SERIES = ("services", "backends", "traffic", "servers", "checks")


@dataclass(frozen=True, slots=True)
class WantedServer:
    """A real server: its destination with the configured weight, its checks and its notifications."""

    destination: Destination
    checks: tuple[Check, ...] = ()
    inhibit_on_failure: bool = False  # down is weight 0, not removal
    alpha: bool = False  # down until its checks succeed
    notify_up: Script | None = None
    notify_down: Script | None = None
    smtp_alert: bool = False
    checks_left_out: tuple[str, ...] = ()  # written checks that it lacks, as "KEYWORD: reason"


@dataclass(frozen=True, slots=True)
class WantedService:
    """One `virtual_server`: the same servers for one key, or for all keys of a group.

    `name` is what the configuration calls it ("192.0.2.1:80 tcp", "fwmark 7", "group web tcp"), unique within it.
    `group_name` is keepalived's name of a service of a `virtual_server_group`: "[web]:0" is the first one of web.
    """

    name: str
    keys: tuple[ServiceKey, ...]
    group_name: str = ""
    scheduler: str = "wlc"
    flags: ServiceFlag = ServiceFlag(0)
    timeout_s: int = 0
    netmask: int = -1
    engine: str = ""
    mss_clamp: int = 0
    client_rules: tuple[ClientRule, ...] = ()
    announce: bool = False  # its addresses by the routing daemon of this host, while it serves
    servers: tuple[WantedServer, ...] = ()
    sorry_server: Destination | None = None
    sorry_server_inhibit: bool = False  # while unused it stays with weight 0, instead of being removed
    quorum: int = 1  # sum of the weights of the servers that are up
    hysteresis: int = 0
    quorum_up: Script | None = None
    quorum_down: Script | None = None
    alpha: bool = False
    omega: bool = False  # at the end run notify_down and quorum_down
    ha_suspend: bool = False  # no checks while this host does not hold the address
    smtp_alert: bool = False
    virtualhost: str = ""
    # A server that completes less than this percentage of the handshakes that the others complete counts as down; 0:
    # it does not. So many handshakes must have begun in the last minute. After the time it counts as up again.
    handshake_share: int = 0
    handshake_minimum: int = 20
    handshake_retry_s: float = 60.0

    def services(self) -> tuple[VirtualService, ...]:
        """Return a virtual service for each key."""
        return tuple(
            VirtualService(key, self.scheduler, self.flags, self.timeout_s, self.netmask, self.engine, self.mss_clamp)
            for key in self.keys
        )

    def rules_of(self, key: ServiceKey) -> tuple[ClientRule, ...]:
        """Return the client rules of the family of a key."""
        return tuple(rule for rule in self.client_rules if rule.prefix.version == key.address.version)


def predecessors(old: Mapping[str, Sequence[ServiceKey]], new: Sequence[WantedService]) -> dict[str, str]:
    """Return the former names of services that continue old ones, which are given by name with their keys.

    Such a one has the same name. Or it was renamed: it has the same keys, or else one of them. A group's name depends
    on its entries: without an address it has no protocol.
    """
    found = {service.name: service.name for service in new if service.name in old}
    left = {name: tuple(keys) for name, keys in old.items() if name not in found}
    by_keys = {keys: name for name, keys in left.items()}
    by_key = {key: name for name, keys in left.items() for key in keys}
    renamed = [service for service in new if service.name not in found]
    for service in renamed:
        if (former := by_keys.get(service.keys)) in left:
            found[service.name] = former
            del left[former]
    for service in renamed:
        former = next((by_key[key] for key in service.keys if by_key.get(key) in left), None)
        if service.name not in found and former is not None:
            found[service.name] = former
            del left[former]
    return found


@dataclass(frozen=True, slots=True)
class WantedRow:
    """The desired state of one service, from its checks, its quorum and the operator's overrides."""

    service: VirtualService
    destinations: tuple[Destination, ...] = ()  # in the order of the configuration
    client_rules: tuple[ClientRule, ...] = ()  # in the order of their prefixes


@dataclass(frozen=True, slots=True)
class Mail:
    """Recipients, sender and server of mail alerts; without recipients, or without a server, none is sent."""

    recipients: tuple[str, ...] = ()
    sender: str = ""
    server: str = ""
    port: int = 25
    helo_name: str = ""
    connect_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a daemon runs. No reload changes it."""

    net_namespace: str = ""  # name of the network namespace; "": that of the start
    net_namespace_ipvs: str | None = None  # that of the tables; "": that of the start, None: as net_namespace
    instance: str = ""  # name of this daemon among several in one namespace
    use_pid_dir: bool = False  # the process IDs are in /run/keepalived


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The web page. Elsewhere than on this host it is served only with a certificate and a file of tokens."""

    address: tuple[Address, int] | None = None  # None: no page
    certificate: str = ""  # a file in PEM format
    key: str = ""  # "": it is in that file
    tokens: str = ""  # a file; "": each user of this host may read, none may operate
    url: str = ""  # as browsers see the page through a proxy

    @property
    def refused(self) -> str:
        """Why it is not served, "" if it may be."""
        if self.address is None or self.address[0].is_loopback:
            return ""
        absent = [] if self.certificate else ["web_certificate"]
        absent += [] if self.tokens else ["web_tokens"]
        return f"is not an address of this host alone: that needs {' and '.join(absent)}" if absent else ""


@dataclass(frozen=True, slots=True)
class SnmpSettings:
    """Which MIBs a sub-agent serves, and what else of `global_defs` they show. None: the configuration does not say."""

    socket: str = "unix:/var/agentx/master"  # of the master agent
    vrrp: bool = False  # the VRRP part of KEEPALIVED-MIB
    checker: bool = False  # its part of virtual servers
    rfc_v2: bool = False  # VRRP-MIB
    rfc_v3: bool = False  # VRRPV3-MIB
    traps: bool = False
    smtp_alert: bool | None = None
    smtp_alert_vrrp: bool | None = None
    smtp_alert_checker: bool | None = None
    linkbeat: bool = False

    @property
    def enabled(self) -> bool:
        """Whether there is anything to serve."""
        return self.checker or self.routers

    @property
    def routers(self) -> bool:
        """Whether a MIB shows virtual routers."""
        return self.vrrp or self.rfc_v2 or self.rfc_v3


@dataclass(frozen=True, slots=True)
class DbusSettings:
    """Whether and how virtual routers are served on the system bus."""

    enabled: bool = False
    service_name: str = "org.keepalived.Vrrp1"
    no_interface_name: str = "none"  # in the path of a virtual router without an interface


PEER_PORT = 8848  # TCP; IPVS's sync protocol has the same number of UDP
PEER_RATE = 250_000  # connections a second
PEER_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """`peer_director` and the words that belong to it; without an address there is no other director."""

    address: Address | None = None
    port: int = PEER_PORT
    key_file: str = ""
    rate: int = PEER_RATE  # connections that this director sends in a second, at most
    wait_s: float = PEER_WAIT_S  # the longest that its virtual routers wait for connections before they take over


@dataclass(frozen=True, slots=True)
class GlobalSettings:
    """The settings of `global_defs` for checks and tables."""

    placement: Placement = field(default_factory=Placement)
    process_name: str = ""  # shown by ps and top
    umask: int | None = None  # None: as started; scripts then get 077
    router_id: str = ""
    script_user: str = ""
    script_group: str = ""
    script_security: bool = False
    mail: Mail = field(default_factory=Mail)
    snmp: SnmpSettings = field(default_factory=SnmpSettings)
    dbus: DbusSettings = field(default_factory=DbusSettings)
    peer: PeerSettings = field(default_factory=PeerSettings)
    smtp_alert: bool = False  # the default of all others
    lvs_timeouts: Timeouts | None = None
    sync: SyncWanted | None = None
    announce_lease_s: int = 10  # after which the kernel withdraws announced addresses, unless pylvs run extends it
    announce_leave_s: int = 30  # at the stop, with lower preference, before they are withdrawn
    lvs_flush: bool = False  # empty the table at the start
    lvs_flush_on_stop: str = ""  # "", "all", "vs" (those configured)
    exclusive: bool = False  # remove services that the configuration does not have
    checker_nice: int = 0
    checker_cpu_affinity: tuple[int, ...] = ()
    checker_no_swap: bool = False
    rs_init_notifies: bool = False  # at the start, notify of the servers that are up
    metrics_address: tuple[Address, int] | None = None  # serve /metrics over TCP, too
    metrics_allow: tuple[Network, ...] = ()  # clients of that address; () allows all
    metrics_series: tuple[str, ...] = ()  # of METRIC_SERIES; () selects all
    metrics_services: tuple[str, ...] = ()  # patterns of names; () selects all
    web: WebSettings = field(default_factory=WebSettings)
    monitor_group: str = ""  # its members may read the API; "": the group pylvs, if there is one
    checker_share: bool = True
    log_level: str = "info"
    fifo: Fifo | None = None  # for events of services and servers only
    startup_script: Script | None = None  # runs to its end before anything else
    startup_script_timeout_s: float = 10.0
    notify_timeout_s: float = 300.0
    shutdown_script: Script | None = None  # runs after everything else
    shutdown_script_timeout_s: float = 10.0
    reload_time_file: str = ""  # has the time of the next reload
    reload_repeat: bool = False  # keep that file, and reload at this time of each day
    reload_file: str = ""  # exists while the configuration is read
    data_use_instance: bool = False  # the names of dumps have namespace and instance


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole configuration file, with its includes and defaults."""

    services: tuple[WantedService, ...] = ()
    settings: GlobalSettings = field(default_factory=GlobalSettings)
    vrrp: VrrpConfiguration = field(default_factory=VrrpConfiguration)
    described: Descriptions = field(default_factory=Descriptions)  # with enable_snmp_checker

    def by_name(self) -> Mapping[str, WantedService]:
        """Return the services by their names."""
        return {service.name: service for service in self.services}
