"""Services and servers with their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Flag as EnumFlag
from enum import StrEnum
from ipaddress import IPv4Address

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.library.invalid import InvalidValue, located
from pylvs.library.keys import ServerKey, ServiceKey, any_address, boolean, choice, number, parse_server, setter, text
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.rows import ServiceRow
from pylvs.model.service import (
    DEFAULT_SCHEDULER,
    KNOWN_ENGINES,
    LONGEST_S,
    MAX_MSS,
    MAX_PORT,
    MAX_PREFIX,
    MAX_THRESHOLD,
    MAX_WEIGHT,
    MIN_MSS,
    NO_SCHEDULER,
    Destination,
    Method,
    Protocol,
    ServiceFlag,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from pylvs.model.service import Tunnel as ModelTunnel

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any, Literal

    from pylvs.library.keys import ProtocolName

    ForwardingName = Literal["dr", "nat", "tun", "local"]
    TunnelName = Literal["ipip", "gre", "gue"]
    EngineName = Literal["", "sip"]

DEFAULT_PERSISTENCE_S = 300  # ipvsadm's
_BITS_V4 = 32


class Flag(EnumFlag):
    """Flags of a service. The scheduler gives FALLBACK, PORT and THIRD their meaning: see `ipvsadm --sched-flags`."""

    ONE_PACKET = 0x4  # each packet is scheduled by itself; UDP and marks only
    FALLBACK = 0x8  # sh, mh: another server if the hashed one is unavailable
    PORT = 0x10  # sh, mh: hash the client's port, too
    THIRD = 0x20


NO_FLAGS = Flag(0)
_FLAGS = int(Flag.ONE_PACKET.value | Flag.FALLBACK.value | Flag.PORT.value | Flag.THIRD.value)


class Forwarding(StrEnum):
    """How packets reach a server."""

    DR = "dr"  # direct routing: new MAC addresses alone
    NAT = "nat"
    TUN = "tun"
    LOCAL = "local"  # the server is this host


_METHODS = {
    Forwarding.DR: Method.ROUTE,
    Forwarding.NAT: Method.MASQ,
    Forwarding.TUN: Method.TUNNEL,
    Forwarding.LOCAL: Method.LOCAL,
}
_FORWARDING = {method: forwarding for forwarding, method in _METHODS.items()}


@dataclass(frozen=True, slots=True)
class Persistence:
    """A client, or a network of clients, returns to the same server for `timeout_s` after its last connection.

    `netmask` is a prefix length, or an IPv4 mask with gaps; None: each address by itself. `engine` is "" or "sip".
    """

    timeout_s: int
    netmask: int | IPv4Address | None
    engine: str

    def __init__(
        self,
        timeout_s: int = DEFAULT_PERSISTENCE_S,
        netmask: int | IPv4Address | str | None = None,
        engine: EngineName = "",
    ) -> None:
        """Take a mask as `24`, `"255.255.255.0"` or an IPv4Address. Raises InvalidValue."""
        put = setter(self)
        put("timeout_s", number("timeout_s", timeout_s, 1, LONGEST_S))
        put("netmask", _netmask(netmask))
        if engine not in ("", *KNOWN_ENGINES):
            raise InvalidValue("engine", engine, f"must be empty or one of: {', '.join(KNOWN_ENGINES)}")
        put("engine", engine)


def _netmask(value: object) -> int | IPv4Address | None:
    if value is None:
        return None
    if isinstance(value, int):
        return number("netmask", value, 0, MAX_PREFIX)
    try:
        mask = int(IPv4Address(value if isinstance(value, str | IPv4Address) else ""))
    except ValueError:
        raise InvalidValue("netmask", value, "must be a prefix length or an IPv4 mask") from None
    bits = mask.bit_count()
    return bits if mask == _mask_of(bits) else IPv4Address(mask)


def _mask_of(bits: int) -> int:
    return (1 << _BITS_V4) - (1 << _BITS_V4 - bits)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The encapsulation of packets to a server: IP in IP, GRE, or GUE with its UDP port.

    `checksum` (GRE, GUE) sends checksums; `remote_checksum` (GUE) offloads that of the inner packet to the server.
    """

    kind: TunnelKind
    port: int
    checksum: bool
    remote_checksum: bool

    def __init__(
        self,
        kind: TunnelKind | TunnelName = "ipip",
        port: int = 0,
        checksum: bool = False,
        remote_checksum: bool = False,
    ) -> None:
        """Raise InvalidValue for a field that this kind of tunnel cannot have."""
        put = setter(self)
        put("kind", choice("kind", kind, TunnelKind))
        is_gue = self.kind is TunnelKind.GUE
        put("port", number("port", port, 1, MAX_PORT) if is_gue else number("port", port, 0, 0))
        put("checksum", boolean("checksum", checksum))
        put("remote_checksum", boolean("remote_checksum", remote_checksum))
        if checksum and self.kind is TunnelKind.IPIP:
            raise InvalidValue("checksum", checksum, "an ipip tunnel has no checksum; use gre or gue")
        if remote_checksum and not is_gue:
            raise InvalidValue("remote_checksum", remote_checksum, "is a flag of gue alone")


@dataclass(frozen=True, slots=True)
class Server:
    """A real server of a service, with its settings.

    `upper` and `lower` are thresholds of connections: from `upper` on the server gets no new clients, until it has
    fewer than `lower`. With 0 there is no limit. `tunnel` is set for the forwarding method "tun" alone.
    """

    address: Address
    port: int
    weight: int
    forwarding: Forwarding
    upper: int
    lower: int
    tunnel: Tunnel | None

    def __init__(
        self,
        address: Address | str,
        port: int,
        *,
        weight: int = 1,
        forwarding: Forwarding | ForwardingName = Forwarding.DR,
        upper: int = 0,
        lower: int = 0,
        tunnel: Tunnel | None = None,
    ) -> None:
        """Raise InvalidValue for a field that no server can have."""
        put, key = setter(self), ServerKey(address, port)
        put("address", key.address)
        put("port", key.port)
        with located(key):
            put("weight", number("weight", weight, 0, MAX_WEIGHT))
            put("forwarding", choice("forwarding", forwarding, Forwarding, by_value=True))
            put("upper", number("upper", upper, 0, MAX_THRESHOLD))
            put("lower", number("lower", lower, 0, MAX_THRESHOLD))
            if self.lower > self.upper:
                raise InvalidValue("lower", lower, f"must not be above upper, {upper}")
            is_tunnel = self.forwarding is Forwarding.TUN
            if tunnel is not None and not (is_tunnel and isinstance(tunnel, Tunnel)):
                raise InvalidValue("tunnel", tunnel, 'must be a Tunnel, of a server with forwarding "tun"')
            put("tunnel", (tunnel or Tunnel()) if is_tunnel else None)

    @property
    def key(self) -> ServerKey:
        """What identifies the server within its service."""
        return ServerKey(self.address, self.port)

    def to_dict(self) -> dict[str, Any]:
        """Return this as JSON types; `from_dict` inverts it."""
        return _server_to_dict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Server:
        """Return the server that `to_dict` describes; what has a default may be left out. Raises InvalidValue."""
        return _server_from_dict(data)

    @classmethod
    def from_model(cls, found: Destination) -> Server:
        """Return a server of the table, without checks."""
        made = cls.__new__(cls)
        put = setter(made)
        put("address", found.key.address)
        put("port", found.key.port)
        put("weight", found.weight)
        put("forwarding", _FORWARDING[found.method])
        put("upper", found.upper)
        put("lower", found.lower)
        put("tunnel", _tunnel_of(found.tunnel) if found.method is Method.TUNNEL else None)
        return made

    def to_model(self) -> Destination:
        """Return what the data plane edits."""
        tunnel = ModelTunnel()
        if self.tunnel:
            flags = TunnelFlag.CSUM * self.tunnel.checksum | TunnelFlag.REMCSUM * self.tunnel.remote_checksum
            tunnel = ModelTunnel(self.tunnel.kind, self.tunnel.port, TunnelFlag(flags))
        method = _METHODS[self.forwarding]
        return Destination(self.key.to_model(), method, self.weight, self.upper, self.lower, tunnel)


def _tunnel_of(found: ModelTunnel) -> Tunnel:
    made = Tunnel.__new__(Tunnel)
    put = setter(made)
    put("kind", found.kind)
    put("port", found.port)
    put("checksum", bool(found.flags & TunnelFlag.CSUM))
    put("remote_checksum", bool(found.flags & TunnelFlag.REMCSUM))
    return made


@dataclass(frozen=True, slots=True)
class Service:
    """A virtual service, with its settings and servers.

    `servers` are in the order in which they were added. The order does not count when services are compared. `mark` is
    the firewall mark of a service that `of_mark` made, else 0. `mss_clamp` is the largest MSS of TCP's SYNs; 0: any.
    """

    protocol: Protocol
    address: Address
    port: int
    servers: tuple[Server, ...]
    scheduler: str
    persistence: Persistence | None
    flags: Flag
    mss_clamp: int
    mark: int

    def __init__(
        self,
        protocol: Protocol | ProtocolName,
        address: Address | str,
        port: int,
        servers: Iterable[Server] = (),
        *,
        scheduler: str = DEFAULT_SCHEDULER,
        persistence: Persistence | None = None,
        flags: Flag = NO_FLAGS,
        mss_clamp: int = 0,
        mark: int = 0,
    ) -> None:
        """Raise InvalidValue for a field that no service can have."""
        put, key = setter(self), ServiceKey(protocol, address, port, mark=mark)
        for name in "protocol", "address", "port", "mark":
            put(name, getattr(key, name))
        with located(key):
            if scheduler != NO_SCHEDULER and scheduler not in SCHEDULERS:
                raise InvalidValue("scheduler", scheduler, f"must be one of: {', '.join((*SCHEDULERS, NO_SCHEDULER))}")
            put("scheduler", scheduler)
            put("persistence", _persistence(persistence, key))
            put("flags", _flags(flags, key))
            put("mss_clamp", number("mss_clamp", mss_clamp, MIN_MSS if mss_clamp != 0 else 0, MAX_MSS))
            if not (key.mark or key.port or persistence):
                raise InvalidValue("port", port, "a service of all ports needs persistence")
            put("servers", _servers(servers, key))

    @classmethod
    def of_mark(
        cls,
        mark: int,
        servers: Iterable[Server] = (),
        *,
        version: int = 4,
        scheduler: str = DEFAULT_SCHEDULER,
        persistence: Persistence | None = None,
        flags: Flag = NO_FLAGS,
        mss_clamp: int = 0,
    ) -> Service:
        """Return the service of a firewall mark, for packets of IPv4 or IPv6 (`version` 6). Raises InvalidValue."""
        key = ServiceKey.of_mark(mark, version)
        return cls(
            key.protocol,
            any_address(version),
            0,
            servers,
            scheduler=scheduler,
            persistence=persistence,
            flags=flags,
            mss_clamp=mss_clamp,
            mark=key.mark,
        )

    @property
    def key(self) -> ServiceKey:
        """What identifies the service."""
        return ServiceKey(self.protocol, self.address, self.port, mark=self.mark)

    def to_dict(self) -> dict[str, Any]:
        """Return this with its servers as JSON types; `from_dict` inverts it."""
        return _service_to_dict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Service:
        """Return the service that `to_dict` describes; what has a default may be left out. Raises InvalidValue."""
        return _service_from_dict(data)

    def server(self, key: Server | ServerKey | str) -> Server | None:
        """Return the server with this key as it is in this service, or None. Raises InvalidValue."""
        wanted = server_key(key, "key")
        return next((each for each in self.servers if each.key == wanted), None)

    @property
    def settings(self) -> tuple[str, Persistence | None, Flag, int]:
        """Scheduler, persistence, flags and MSS clamp: all but the servers."""
        return self.scheduler, self.persistence, self.flags, self.mss_clamp

    def _identity(self) -> tuple[object, ...]:
        return self.key, self.settings, frozenset(self.servers)

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, Service) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    @classmethod
    def from_model(cls, row: ServiceRow) -> Service:
        """Return a service of the table, without checks."""
        found = row.service
        made = cls.__new__(cls)
        put = setter(made)
        for name in "protocol", "address", "port", "mark":
            put(name, getattr(found.key, name))
        put("servers", tuple(Server.from_model(each.destination) for each in reversed(row.destinations)))
        put("scheduler", found.scheduler)
        put("persistence", _persistence_of(found))
        put("flags", Flag(int(found.flags) & _FLAGS))
        put("mss_clamp", found.mss_clamp)
        return made

    def to_model(self) -> VirtualService:
        """Return what the data plane edits, without the servers."""
        flags, persistence = ServiceFlag(self.flags.value), self.persistence
        if persistence is None:
            return VirtualService(self.key.to_model(), self.scheduler, flags, mss_clamp=self.mss_clamp)
        netmask = persistence.netmask
        if netmask is None:
            mask = -1
        elif isinstance(netmask, int) and self.address.version == 6:
            mask = netmask
        else:
            mask = _mask_of(netmask) if isinstance(netmask, int) else int(netmask)
        flags |= ServiceFlag.PERSISTENT
        return VirtualService(
            self.key.to_model(),
            self.scheduler,
            flags,
            persistence.timeout_s,
            mask,
            persistence.engine,
            self.mss_clamp,
        )


def _persistence(value: object, key: ServiceKey) -> Persistence | None:
    """Return the persistence with its netmask as a listing has it."""
    if value is None:
        return None
    if not isinstance(value, Persistence):
        raise InvalidValue("persistence", value, "must be a Persistence, or None")
    netmask = value.netmask
    is_ipv4 = key.address.version == 4
    whole = _BITS_V4 if is_ipv4 else MAX_PREFIX
    if netmask is None or netmask == whole:
        return replace(value, netmask=None)
    if isinstance(netmask, int) and not (0 if is_ipv4 else 1) <= netmask <= whole:
        hint = f"must be from 0 to {whole}" if is_ipv4 else f"must be a prefix length from 1 to {whole}"
        raise InvalidValue("netmask", netmask, hint)
    if not isinstance(netmask, int) and not is_ipv4:
        raise InvalidValue("netmask", str(netmask), f"must be a prefix length from 1 to {whole}")
    return value


def _persistence_of(found: VirtualService) -> Persistence | None:
    if not found.flags & ServiceFlag.PERSISTENT:
        return None
    made = Persistence.__new__(Persistence)
    put = setter(made)
    put("timeout_s", found.timeout_s)
    is_ipv4 = found.key.address.version == 4
    netmask = _netmask(IPv4Address(found.mask)) if is_ipv4 else found.mask
    put("netmask", None if netmask == (_BITS_V4 if is_ipv4 else MAX_PREFIX) else netmask)
    put("engine", found.engine)
    return made


def _flags(value: object, key: ServiceKey) -> Flag:
    if not isinstance(value, Flag):
        raise InvalidValue("flags", value, "must be of pylvs.Flag, as Flag.FALLBACK | Flag.PORT")
    if Flag.ONE_PACKET in value and not key.mark and key.protocol is not Protocol.UDP:
        raise InvalidValue("flags", value, "ONE_PACKET is for UDP and marks alone")
    return value


def _servers(value: object, key: ServiceKey) -> tuple[Server, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue("servers", value, "must be servers, as [Server('10.0.0.1', 80)]")
    servers, keys = tuple(value), set[ServerKey]()
    for server in servers:
        check_server(key, server, "servers")
        if server.key in keys:
            raise InvalidValue("servers", str(server.key), "is listed twice")
        keys.add(server.key)
    return servers


def service_key(service: object) -> ServiceKey:
    """Return the key of a service, that of a text, or the key itself. Raises InvalidValue."""
    if isinstance(service, str):
        return ServiceKey.parse(service)
    if not isinstance(service, Service | ServiceKey):
        raise InvalidValue("service", service, "must be a Service, a ServiceKey or its text")
    return service if isinstance(service, ServiceKey) else service.key


def server_key(server: object, field: str = "server") -> ServerKey:
    """Return the key of a server, that of a text, or the key itself. Raises InvalidValue."""
    if isinstance(server, str):
        return parse_server(server, field)
    if not isinstance(server, Server | ServerKey):
        raise InvalidValue(field, server, "must be a Server, a ServerKey or its text")
    return server if isinstance(server, ServerKey) else server.key


def check_server(key: ServiceKey, server: Server, field: str = "server") -> None:
    """Check that a service can have a server. Raises InvalidValue; `field` is the name of the argument."""
    if not isinstance(server, Server):
        raise InvalidValue(field, server, "must be a Server")
    if server.address.version != key.address.version and server.forwarding is not Forwarding.TUN:
        hint = f'IPv{server.address.version} behind IPv{key.address.version} needs forwarding="tun"'
        raise InvalidValue("address", server.address, hint, str(server.key))
    if server.port != key.port and not key.mark and server.forwarding is not Forwarding.NAT:
        hint = f'forwarding="{server.forwarding}" keeps the port of the service, {key.port}; only "nat" changes it'
        raise InvalidValue("port", server.port, hint, str(server.key))


# Dictionaries of JSON types: for files, queues and other programs.

_SERVICE = ("protocol", "address", "port", "scheduler", "persistence", "flags", "mss_clamp", "servers")
_MARK = ("mark", "version", *_SERVICE[3:])
_SERVER = ("address", "port", "weight", "forwarding", "upper", "lower", "tunnel")
_PERSISTENCE = ("timeout_s", "netmask", "engine")
_TUNNEL = ("kind", "port", "checksum", "remote_checksum")


def _service_to_dict(service: Service) -> dict[str, Any]:
    """Return a service with its servers."""
    named: dict[str, Any] = {"mark": service.mark, "version": service.address.version}
    if not service.mark:
        protocol = service.protocol.name.lower()
        named = {"protocol": protocol, "address": str(service.address), "port": service.port}
    persistence = service.persistence
    return {
        **named,
        "scheduler": service.scheduler,
        "persistence": persistence and _persistence_to_dict(persistence),
        "flags": [flag.name for flag in Flag if flag in service.flags],
        "mss_clamp": service.mss_clamp,
        "servers": [_server_to_dict(each) for each in service.servers],
    }


def _persistence_to_dict(found: Persistence) -> dict[str, Any]:
    netmask = str(found.netmask) if isinstance(found.netmask, IPv4Address) else found.netmask
    return {"timeout_s": found.timeout_s, "netmask": netmask, "engine": found.engine}


def _server_to_dict(server: Server) -> dict[str, Any]:
    """Return a server with its tunnel."""
    tunnel = server.tunnel
    return {
        "address": str(server.address),
        "port": server.port,
        "weight": server.weight,
        "forwarding": server.forwarding.value,
        "upper": server.upper,
        "lower": server.lower,
        "tunnel": tunnel
        and {
            "kind": tunnel.kind.name.lower(),
            "port": tunnel.port,
            "checksum": tunnel.checksum,
            "remote_checksum": tunnel.remote_checksum,
        },
    }


def _service_from_dict(data: object) -> Service:
    """Return the service of a dictionary. Raises InvalidValue, with the position of the value."""
    is_mark = isinstance(data, Mapping) and "mark" in data
    given = _given(data, "service", _MARK if is_mark else _SERVICE, ("mark",) if is_mark else _SERVICE[:3])
    if given.get("persistence") is not None:
        with located("persistence"):
            given["persistence"] = Persistence(**_given(given["persistence"], "persistence", _PERSISTENCE, ()))
    if "flags" in given:
        given["flags"] = _flag_names(given["flags"])
    servers = given.pop("servers", [])
    if not isinstance(servers, list | tuple):
        raise InvalidValue("servers", servers, "must be a list")
    found = []
    for at, server in enumerate(servers):
        with located(f"servers[{at}]"):
            found.append(_server_from_dict(server))
    return Service.of_mark(**given, servers=found) if is_mark else Service(**given, servers=found)


def _server_from_dict(data: object) -> Server:
    """Return the server of a dictionary. Raises InvalidValue, with the position of the value."""
    given = _given(data, "server", _SERVER, _SERVER[:2])
    if given.get("tunnel") is not None:
        with located("tunnel"):
            given["tunnel"] = Tunnel(**_given(given["tunnel"], "tunnel", _TUNNEL, ()))
    return Server(given.pop("address"), given.pop("port"), **given)


def _given(data: object, what: str, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of a dictionary with known names alone. Raises InvalidValue."""
    if not isinstance(data, Mapping):
        raise InvalidValue(what, data, f"must be a dictionary with {', '.join(needed or known)}")
    for name in data:
        if name not in known:
            raise InvalidValue(str(name), data[name], f"is unknown; a {what} has: {', '.join(known)}")
    for name in needed:
        if name not in data:
            raise InvalidValue(name, None, f"is missing; a {what} has: {', '.join(known)}")
    return dict(data)


def _flag_names(names: object) -> Flag:
    if not isinstance(names, list | tuple):
        raise InvalidValue("flags", names, 'must be a list of names, as ["FALLBACK"]')
    flags = NO_FLAGS
    for each in names:
        flags |= choice("flags", text("flags", each, "must be names"), Flag)
    return flags
