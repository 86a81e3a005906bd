"""Settings of virtual routers (VRRP; RFC 3768 for version 2, RFC 9568 for version 3).

Times are in seconds. Omitted settings already have their values: those of `global_defs`, then keepalived's defaults.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import Address
from pylvs.model.bfd import BfdSession
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import HeldAddress, Interface, Route, RoutingRule

TYPE_CHECKING = False  # without importing typing

HIDDEN = "hidden"  # shown instead of a password
OWNER = 255  # the priority of a router that owns the virtual addresses
MULTICAST_V4 = IPv4Address("224.0.0.18")
MULTICAST_V6 = IPv6Address("ff02::12")


class Authentication(Enum):
    """Authentication of version 2: RFC 2338's simple password, or its authentication header."""

    PASS = "PASS"
    AH = "AH"


class OldChecksum(Enum):
    """Version 3 over unicast IPv4: whether the checksum covers the multicast group, as before keepalived 1.3.7."""

    DETECT = "detect"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another router of a unicast group, and the range of TTLs (or hop limits) of its packets."""

    address: Address
    least_ttl: int = 0
    most_ttl: int = 255


class IpvlanMode(Enum):
    """IPVLAN_F_* of linux/if_link.h: whether the ipvlans above one device exchange packets."""

    BRIDGE = 0
    PRIVATE = 1
    VEPA = 2


@dataclass(frozen=True, slots=True)
class Ipvlan:
    """An ipvlan of mode L2 instead of a macvlan; IPv6 needs no address."""

    mode: IpvlanMode = IpvlanMode.BRIDGE
    address: Interface | None = None


@dataclass(frozen=True, slots=True)
class Vmac:
    """A macvlan or ipvlan of the virtual router's own; "" is a name, and None an address, by keepalived's rule."""

    name: str = ""
    mac: bytes | None = None  # 6 octets, or 5 where the last is the VRID
    here: bool = True  # above the virtual router's device, for advertisements and addresses
    for_addresses: bool = False  # use_vmac_addr: one more above each other device that holds a virtual address
    send_from_base: bool = False  # advertisements go through the device below
    ipvlan: Ipvlan | None = None  # None: a macvlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcements:
    """Numbers and intervals of gratuitous ARP and unsolicited neighbour advertisements."""

    repeat: int = 5
    delay_s: int = 5  # until the second round after a take-over; 0: none
    refresh_s: int = 0  # interval while master; 0: never
    refresh_repeat: int = 1
    lower_priority_repeat: int = 5  # after an advertisement of lower priority
    lower_priority_delay_s: int = 5
    extra_interval_s: int = 0  # on the other devices that hold virtual addresses; 0: never
    extra_everywhere: bool = False  # also on those that are no VMACs


@dataclass(frozen=True, slots=True)
class Track:
    """A tracked object of a virtual router, by name.

    With weight 0 its failure is a fault. Otherwise the priority changes: a positive weight is added while the object
    is up, a negative one while it is down. `reverse` exchanges up and down. The weight is a factor of a file's number.
    """

    name: str
    weight: int = 0
    reverse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracks:
    """The tracked objects of a virtual router or group."""

    interfaces: tuple[Track, ...] = ()
    scripts: tuple[Track, ...] = ()
    files: tuple[Track, ...] = ()
    processes: tuple[Track, ...] = ()
    sessions: tuple[Track, ...] = ()  # of BFD


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """Notify scripts of transitions; `every` runs after the others, with type, name, state and priority."""

    master: Script | None = None
    backup: Script | None = None
    fault: Script | None = None
    stop: Script | None = None
    every: Script | None = None
    deleted: Script | None = None
    say_deleted: bool = False  # state DELETED instead of FAULT after a reload has removed it
    lower_priority_received: Script | None = None  # while master
    priority_changes: bool = False  # to the FIFOs
    smtp_alert: bool = False

    @property
    def reports_deleted(self) -> bool:
        """Whether a virtual router that a reload removes ends in DELETED, not in FAULT."""
        return self.say_deleted or self.deleted is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class VrrpInstance:
    """One virtual router."""

    name: str
    interface: str = ""  # "": unicast follows the routes
    vrf: str = ""  # without an interface: the VRF of these routes
    vrid: int
    family: int = 4  # of its virtual addresses
    version: int = 2
    starts_as_master: bool = False  # together with the owner's priority: without waiting for other masters
    priority: int = 100  # 1 to 255
    advert_interval_s: float = 1.0
    max_interval_s: float = 0.0  # version 3: the longest one that a single advertisement sets; 0: ten times its own
    addresses: tuple[HeldAddress, ...] = ()  # in the advertisements
    excluded: tuple[HeldAddress, ...] = ()  # held, but not advertised; of either family
    routes: tuple[Route, ...] = ()
    rules: tuple[RoutingRule, ...] = ()
    preempt: bool = True
    preempt_delay_s: float = 0.0
    accept: bool = True  # packets to the virtual addresses reach this host while it is master
    strict: bool = False  # keepalived.json shows it; other fields have its effects
    authentication: Authentication | None = None
    password: bytes = b""  # 8 octets at most
    source: Address | None = None  # of the advertisements; None: the interface's first address
    track_source: bool = False  # fault while no device holds `source`
    multicast: Address = MULTICAST_V4
    peers: tuple[Peer, ...] = ()  # with any, unicast
    unicast_ttl: int = 255
    check_source: bool = False  # only from `peers`
    fault_without_peers: bool = False
    old_checksum: OldChecksum = OldChecksum.DETECT
    vmac: Vmac | None = None
    announcements: Announcements = field(default_factory=Announcements)
    lower_priority_unanswered: bool = False
    higher_priority_answered: bool = True  # by a last advertisement, so that the winner of a split brain announces
    down_after_adverts: int = 3
    track_primary: bool = True  # `interface` down is a fault
    track_data_plane: Track | None = None  # a data plane that cannot forward; None: only report it
    tracks: Tracks = field(default_factory=Tracks)
    notify: Notify = field(default_factory=Notify)
    skip_address_check: bool = False  # of the list in later advertisements of the same router
    promote_secondaries: bool = False
    linkbeat: bool = False  # linkbeat_use_polling is written; VrrpSettings.polled_links names all polled devices
    receive_buffer: int = 0  # octets; 0: the kernel's

    @property
    def owner(self) -> bool:
        """Return whether it owns the addresses: its priority does not change."""
        return self.priority == OWNER


@dataclass(frozen=True, slots=True, kw_only=True)
class VrrpGroup:
    """Virtual routers that change state together."""

    name: str
    members: tuple[str, ...]
    tracks: Tracks = field(default_factory=Tracks)
    notify: Notify = field(default_factory=Notify)
    member_weights: bool = False  # use the members' own weights, which may differ


@dataclass(frozen=True, slots=True, kw_only=True)
class VrrpScript:
    """A program that runs periodically; exit status 0 is success."""

    name: str
    script: Script
    interval_s: float = 1  # whole seconds in a configuration
    timeout_s: float = 0  # 0: the interval
    track: Track  # the default for virtual routers
    rise: int = 1  # successes in a row until it is up
    fall: int = 1  # failures in a row until it is down
    down_at_start: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackFile:
    """A file that contains a number."""

    name: str
    path: str
    track: Track
    initial: int | None = None  # written to a missing file at the start
    overwrite: bool = False  # also to an existing one


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackProcess:
    """Processes that must run: up with `least` to `most` of them."""

    name: str
    command: tuple[str, ...]
    match_arguments: bool = False  # compare the arguments, too, also if there are none
    arguments_begin: bool = False  # param_match initial: the last argument may be longer
    arguments_partly: bool = False  # param_match partial: there may be more arguments
    full_command: bool = False  # compared with the command line, not with the process's name
    track: Track
    least: int = 1
    most: int = 0xFFFFFFFF
    fork_delay_s: float = 0.0
    terminate_delay_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingLimit:
    """The minimum time between two announcements over all these devices together."""

    devices: tuple[str, ...]  # (): each device that no other limit names, by itself
    arp_s: float = 0.0
    neighbour_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkDelay:
    """How long a device must be up, or down, before that counts."""

    device: str
    down_s: float
    up_s: float


class LinkPolling(Enum):
    """How to ask for the state of a link."""

    MII = "MII"
    ETHTOOL = "ETHTOOL"
    IOCTL = "IOCTL"


@dataclass(frozen=True, slots=True)
class PolledLink:
    """A device whose link is polled; a device that cannot answer is asked in another way."""

    device: str
    polling: LinkPolling = LinkPolling.MII


@dataclass(frozen=True, slots=True)
class Fifo:
    """A named pipe for transitions, with its owner and the program that reads it."""

    path: str
    user: str = ""
    group: str = ""
    reader: Script | None = None
    services: bool = False  # also for events of services and servers


@dataclass(frozen=True, slots=True, kw_only=True)
class VrrpSettings:
    """The settings of `global_defs` for all virtual routers."""

    fifos: tuple[Fifo, ...] = ()
    states_on_reload: bool = False  # write all states to the FIFOs
    startup_delay_s: float = 0.0
    copy_wait_s: float = 0.0  # for connections of the other director, before a take-over from it; 0: none
    no_fault_mails: bool = False
    dynamic_interfaces: bool = False  # interfaces may appear later
    default_interface: str = "eth0"  # of fixed addresses and routes
    nice: int = 0
    realtime_priority: int = 0  # 0: not real-time
    cpus: tuple[int, ...] = ()
    process_name: str = ""  # "": its own
    log_unknown_vrids: bool = False
    vmac_prefix: str = "vrrp"
    vmac_address_prefix: str = "vrrp"
    limits: tuple[SendingLimit, ...] = ()
    link_delays: tuple[LinkDelay, ...] = ()
    data_plane_lease_s: float = 10.0  # without a report of the daemon, until the state of the data plane is unknown
    polled_links: tuple[PolledLink, ...] = ()
    disable_local_igmp: bool = False  # reports of 224.0.0.0/24


@dataclass(frozen=True, slots=True, kw_only=True)
class VrrpConfiguration:
    """All virtual routers, their tracked objects, and fixed addresses, routes and rules.

    BFD sessions are here also for health checks alone: the process of the virtual routers runs them.
    """

    instances: tuple[VrrpInstance, ...] = ()
    groups: tuple[VrrpGroup, ...] = ()
    scripts: tuple[VrrpScript, ...] = ()
    files: tuple[TrackFile, ...] = ()
    processes: tuple[TrackProcess, ...] = ()
    sessions: tuple[BfdSession, ...] = ()
    addresses: tuple[HeldAddress, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[RoutingRule, ...] = ()
    settings: VrrpSettings = field(default_factory=VrrpSettings)

    @property
    def needs_process(self) -> bool:
        """Return whether there is anything to run."""
        return any((self.instances, self.addresses, self.routes, self.rules, self.sessions))


if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class Roles(Protocol):
    """The interface by which VRRP sets the role of virtual addresses in the packet path."""

    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        """Make exactly these addresses standby: packets to them pass unmodified. Atomic and idempotent.

        `held` are the addresses for which this host is master. The packet path serves them at once, even shortly before
        a device has them. Raises PylvsError after it has applied all that it can.
        """
