"""Virtual services, their destinations, changes of both, and IPVS's checks of both (IPVS-SEMANTICS 1.1 to 1.8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, ip_address

from pylvs.model import sockets as socket
from pylvs.model.addresses import ANY_V4, ANY_V6, Address, endpoint, family_of
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.errors import InvalidOperation, NoSuchScheduler, OutOfRange

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.model.client_rules import ClientRule

DEFAULT_SCHEDULER = "wlc"
NO_SCHEDULER = "none"  # a service without one: every new connection finds no destination
SIP = "sip"  # the persistence engine that takes the Call-ID of SIP messages for the client
KNOWN_ENGINES = (SIP,)  # persistence engines of IPVS
NAME_LENGTH = 15  # longer names are cut, as ipvsadm does
MAX_WEIGHT = MAX_THRESHOLD = 0x7FFFFFFF
MAX_PORT = 0xFFFF
MAX_PREFIX = 128  # bits of an IPv6 address
MIN_MSS, MAX_MSS = 536, 0xFFFF  # of an MSS clamp; 536 is the MSS of hosts that send none (RFC 9293, 3.7.1)
LONGEST_S = 2678400  # ipvsadm's limit: 31 days

TIMEOUT_NAMES = ("tcp", "tcpfin", "udp")  # as keepalived and ipvsadm call the fields of `Timeouts`


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds without packets after which a connection expires: established TCP, TCP after a FIN, UDP.

    `ipvsadm --set` changes them (IPVS-SEMANTICS 4.4). To set a timeout to 0 leaves it unchanged, as in IPVS.
    """

    tcp_s: int = 900
    tcp_fin_s: int = 120
    udp_s: int = 300

    def over(self, present: Timeouts) -> Timeouts:
        """Return what is in force after these were set."""
        return Timeouts(*(new or old for new, old in zip(self, present, strict=True)))

    def __iter__(self) -> Iterator[int]:
        return iter((self.tcp_s, self.tcp_fin_s, self.udp_s))

    def __str__(self) -> str:
        """Return those that are not 0, as lvs_timeouts has them."""
        return " ".join(f"{name} {value}" for name, value in zip(TIMEOUT_NAMES, self, strict=True) if value)


UNCHANGED = Timeouts(0, 0, 0)


# The firewall marks of checks through a virtual address (`via_vip`): each stands for one real server. They apply only
# to packets of the director's own sockets, not to received packets. BPF has the same numbers. `ipvsadm` does not list
# their services.
FIRST_PROBE_MARK = 0x50560000
PROBE_MARK_MASK = 0xFFFF0000
PROBE_MARKS = 0x10000


def is_probe_mark(mark: int) -> bool:
    """Return whether a mark is one of these."""
    return mark & PROBE_MARK_MASK == FIRST_PROBE_MARK


NETMASK_V4_ALL = 0xFFFFFFFF
NETMASK_V6_ALL = 128
PROTOCOL_TEMPLATE = 0  # the protocol of a firewall mark's template, listed as "IP"


class Protocol(IntEnum):
    """Transport protocols a service can have, by their IP protocol numbers."""

    TCP = 6
    UDP = 17
    SCTP = 132


class ServiceFlag(IntFlag):
    """A service's flags, with IPVS's values; the scheduler defines SCHED_1 to SCHED_3."""

    PERSISTENT = 0x1
    ONE_PACKET = 0x4
    SCHED_1 = 0x8
    SCHED_2 = 0x10
    SCHED_3 = 0x20


# The names of these flags, in ipvsadm and in keepalived.conf: those that every scheduler has, and those of one alone.
GENERIC_FLAGS = {"flag-1": ServiceFlag.SCHED_1, "flag-2": ServiceFlag.SCHED_2, "flag-3": ServiceFlag.SCHED_3}
SCHEDULER_FLAGS = {
    name: {f"{name}-fallback": ServiceFlag.SCHED_1, f"{name}-port": ServiceFlag.SCHED_2} for name in ("sh", "mh")
}


def flags_of(scheduler: str) -> dict[str, ServiceFlag]:
    """Return the flags of a scheduler's service by name; a scheduler's own name is behind the one of all."""
    return {"ops": ServiceFlag.ONE_PACKET, **GENERIC_FLAGS, **SCHEDULER_FLAGS.get(scheduler, {})}


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """What identifies a service: an address with protocol and port, or a firewall mark with a family.

    A mark's service has protocol TCP, the zero address of its family and port 0.
    """

    protocol: Protocol
    address: Address
    port: int
    mark: int = 0

    @classmethod
    def of_mark(cls, mark: int, family: int = socket.AF_INET) -> ServiceKey:
        """Return the key of a firewall mark's service in one address family."""
        return cls(Protocol.TCP, ANY_V4 if family == socket.AF_INET else ANY_V6, 0, mark)

    @property
    def family(self) -> int:
        """Return socket.AF_INET or socket.AF_INET6."""
        return family_of(self.address)

    def __hash__(self) -> int:
        return hash((int(self.address), self.port, self.mark))  # an address itself hashes the text of its number

    def __str__(self) -> str:
        if self.mark:
            return f"FWM {self.mark}" + ("" if self.address.version == 4 else " IPv6")
        return f"{self.protocol.name} {endpoint(self.address, self.port)}"


@dataclass(frozen=True, slots=True)
class VirtualService:
    """A service with its scheduler, flags and persistence."""

    key: ServiceKey
    scheduler: str = DEFAULT_SCHEDULER
    flags: ServiceFlag = ServiceFlag(0)
    timeout_s: int = 0  # of persistence; 0 when not persistent
    netmask: int = -1  # IPv4: the mask as a host-order number; IPv6: a prefix length; -1: the whole address
    engine: str = ""  # persistence engine
    mss_clamp: int = 0  # largest MSS of TCP's SYNs that pass; 0: any

    @property
    def mask(self) -> int:
        """Return the netmask, or its default."""
        if self.netmask >= 0:
            return self.netmask
        return NETMASK_V4_ALL if isinstance(self.key.address, IPv4Address) else NETMASK_V6_ALL


class Method(IntEnum):
    """Forwarding methods, with IPVS's numbers."""

    MASQ = 0
    LOCAL = 1
    TUNNEL = 2
    ROUTE = 3


# As keepalived.conf and the daemon's log write them.
METHOD_NAMES = {Method.MASQ: "NAT", Method.LOCAL: "local", Method.TUNNEL: "TUN", Method.ROUTE: "DR"}


class TunnelKind(IntEnum):
    """Encapsulations of the tunnel method, with IPVS's numbers."""

    IPIP = 0
    GUE = 1
    GRE = 2


class TunnelFlag(IntFlag):
    """Checksum choices of a tunnel; none of them is "nocsum"."""

    CSUM = 1
    REMCSUM = 2


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How a tunnelled destination is reached; port in host order, GUE only."""

    kind: TunnelKind = TunnelKind.IPIP
    port: int = 0
    flags: TunnelFlag = TunnelFlag(0)


@dataclass(frozen=True, slots=True)
class DestinationKey:
    """What identifies a destination within its service; port 0 means "the port of the packet"."""

    address: Address
    port: int

    def __hash__(self) -> int:
        return hash((int(self.address), self.port))  # an address itself hashes the text of its number

    def __str__(self) -> str:
        return endpoint(self.address, self.port)


@dataclass(frozen=True, slots=True)
class Destination:
    """A real server of a service, with its weight, thresholds and forwarding method."""

    key: DestinationKey
    method: Method = Method.ROUTE
    weight: int = 1
    upper: int = 0  # overloaded from this number of connections; 0: never
    lower: int = 0  # available again below this number; 0: three quarters of upper
    tunnel: Tunnel = Tunnel()

    def listed_by(self, service: ServiceKey) -> Destination:
        """Return it as the table lists it in a service: by all methods but NAT with the service's port, 0 of a mark.

        Only NAT changes the port of packets. keepalived 2.2.7 lists the same (`ipvs_group_cmd` in ipvswrapper.c).
        """
        if self.method is Method.MASQ or self.key.port == service.port:
            return self
        return replace(self, key=DestinationKey(self.key.address, service.port))


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """What becomes of one service: it is added (with `is_new`), edited, or deleted (without `service`).

    A deleted service has no further changes: its destinations go with it.
    """

    key: ServiceKey
    service: VirtualService | None
    is_new: bool = False
    deleted: tuple[DestinationKey, ...] = ()
    edited: tuple[Destination, ...] = ()
    added: tuple[Destination, ...] = ()  # in this order, so the last one becomes the head of the list
    client_rules: tuple[ClientRule, ...] | None = None  # None: as they are


def _server_pattern() -> str:
    word, port = "[0-9A-Fa-f]{1,4}", "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    shortened = (f"({word}:){{1,{before}}}(:{word}){{1,{7 - before}}}" for before in range(1, 7))
    ipv6 = "|".join((f"({word}:){{7}}{word}", f"({word}:){{1,7}}:", *shortened, f":(:{word}){{1,7}}", "::"))
    return rf"^({byte}(\.{byte}){{3}}(:{port})?|{ipv6}|\[({ipv6})\](:{port})?)$"


SERVER_PATTERN = _server_pattern()  # the syntax of `server_named` as a regular expression of JSON Schema


def server_named(text: str) -> DestinationKey | Address:
    """Parse `10.0.0.2:80` or `[2001:db8::2]:80`, one server, or an address: every server with it.

    Raises InvalidOperation.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        if colon and (bracketed or ":" not in host):
            address = ip_address(host[1:-1] if bracketed else host)
            if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
                raise ValueError
            return DestinationKey(address, int(port))
        return ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise InvalidOperation(
            f"{text}: must be ADDRESS or ADDRESS:PORT of a real server, [ADDRESS]:PORT in IPv6"
        ) from None


# The checks do not look up objects. To keep IPVS's order of errors, a Director looks up a service before
# `check_service`. It calls `check_destination` before it looks up the destination.


def check_service(
    service: VirtualService, known_schedulers: Collection[str], known_engines: Collection[str] = KNOWN_ENGINES
) -> None:
    """Check a service to add or to edit. Raises NoSuchScheduler, InvalidOperation, OutOfRange."""
    if service.scheduler != NO_SCHEDULER and service.scheduler not in known_schedulers:
        raise NoSuchScheduler(
            f"{service.key}: no scheduler {service.scheduler!r}; there are: {', '.join(known_schedulers)}",
            "scheduler",
        )
    if service.engine and service.engine not in known_engines:
        raise NoSuchScheduler(
            f"{service.key}: no persistence engine {service.engine!r}; there are: {', '.join(known_engines)}",
            "engine",
        )
    if service.mss_clamp and not MIN_MSS <= service.mss_clamp <= MAX_MSS:
        raise OutOfRange(
            f"{service.key}: an MSS clamp of {service.mss_clamp}; it must be from {MIN_MSS} to {MAX_MSS}", "mss_clamp"
        )
    if service.key.family == socket.AF_INET6 and not 1 <= service.mask <= MAX_PREFIX:
        raise InvalidOperation(
            f"{service.key}: a prefix length of {service.mask}; it must be from 1 to {MAX_PREFIX}", "netmask"
        )


def check_destination(
    service: VirtualService,
    destination: Destination,
    is_broadcast: Callable[[Address], bool] | None = None,
    is_local: Callable[[Address], bool] | None = None,
) -> None:
    """Check a destination of a service. Raises OutOfRange, InvalidOperation.

    As in IPVS, the address is checked only when a destination is added: callers then pass `is_broadcast`. It returns
    whether the routing table has an IPv4 address as a broadcast one. `is_local` returns whether this host has an IPv6
    address, which may then be link-local.
    """

    def where() -> str:  # only for an error: for many destinations, this text would take most of the time
        return f"{service.key} -> {destination.key}"

    if destination.key.address.version != service.key.address.version and destination.method != Method.TUNNEL:
        raise InvalidOperation(f"{where()}: a server of the other address family is reached by tunnels only", "method")
    if not 0 <= destination.weight <= MAX_WEIGHT:
        raise OutOfRange(f"{where()}: weight {destination.weight}; it must be from 0 to {MAX_WEIGHT}", "weight")
    if not (0 <= destination.upper <= MAX_THRESHOLD and 0 <= destination.lower <= MAX_THRESHOLD):
        raise InvalidOperation(f"{where()}: thresholds must be from 0 to {MAX_THRESHOLD}", "upper")
    if destination.lower > destination.upper:
        raise OutOfRange(
            f"{where()}: lower threshold {destination.lower} above the upper one, {destination.upper}", "lower"
        )
    if (
        destination.method == Method.TUNNEL
        and destination.tunnel.kind == TunnelKind.GUE
        and not destination.tunnel.port
    ):
        raise InvalidOperation(f"{where()}: a GUE tunnel needs a port", "tunnel")
    if is_broadcast is not None and not may_serve(destination.key.address, is_broadcast, is_local):
        raise InvalidOperation(f"{where()}: not the address of a single host", "address")


def may_serve(
    address: Address, is_broadcast: Callable[[Address], bool], is_local: Callable[[Address], bool] | None = None
) -> bool:
    """Return whether IPVS accepts an address of a real server: unicast, or one of this host."""
    if isinstance(address, IPv4Address):
        in_network_zero = int(address) >> 24 == 0
        limited_broadcast = int(address) == 0xFFFFFFFF
        return not (in_network_zero or limited_broadcast or address.is_multicast or is_broadcast(address))
    unspecified = int(address) == 0
    if not (unspecified or address.is_multicast or address.is_link_local or address.ipv4_mapped is not None):
        return True
    return is_local is not None and is_local(address)


def moved(before: Collection[DestinationKey], now: Iterable[Destination]) -> dict[DestinationKey, DestinationKey]:
    """Return the former keys of servers of one service that have another one now, by their new keys.

    The port of a server without one depends on the service's ports; by DR and TUN that of each server does. By NAT
    another written port is another server. A former key that fits several servers fits none, and vice versa.
    """
    new = {each.key: each for each in now}
    left: dict[Address, list[DestinationKey]] = {}
    for key in before:
        if key not in new:
            left.setdefault(key.address, []).append(key)
    fitting = {
        key: [old for old in left.get(key.address, ()) if 0 in (old.port, key.port) or each.method is not Method.MASQ]
        for key, each in new.items()
        if key not in before
    }
    uses = Counter(old for keys in fitting.values() for old in keys)
    return {key: keys[0] for key, keys in fitting.items() if len(keys) == 1 and uses[keys[0]] == 1}
