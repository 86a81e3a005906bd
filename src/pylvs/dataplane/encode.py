"""Between the model's nouns and the bytes of the maps."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.destination import Destination, DestinationKey, Method, Tunnel, TunnelFlag, TunnelKind
from pylvs.model.scheduler import scheduler_name, scheduler_number
from pylvs.model.service import Protocol, ServiceFlag, ServiceKey, VirtualService

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

ADDRESS_BYTES = 16
LONGEST_TICKS = 0x7FFFFFFF  # beyond, a tick in the future would look past
_PLAIN_TUNNEL = Tunnel()
_METHODS = {int(method): method for method in Method}
_KEY4 = struct.Struct("!4sHBx")
_KEY6 = struct.Struct("!16sHBx")
_NAME = struct.Struct("<16s16sIHHBBBx")


def address_bytes(address: Address) -> bytes:
    """16 bytes: IPv4 in the first four."""
    return address.packed.ljust(ADDRESS_BYTES, b"\0")


def address_of(raw: bytes, version: int) -> Address:
    """The inverse of `address_bytes`."""
    return IPv4Address(raw[:4]) if version == 4 else IPv6Address(raw)


def service_key(key: ServiceKey) -> bytes:
    """A key of services4 or services6; a mark stands in the address, with protocol 0."""
    form = _KEY4 if key.address.version == 4 else _KEY6
    if key.mark:
        return form.pack(struct.pack("<I", key.mark), 0, 0)
    return form.pack(key.address.packed, key.port, key.protocol)


def destination_name(key: ServiceKey, destination: DestinationKey) -> bytes:
    """A key of names."""
    return _NAME.pack(
        address_bytes(key.address),
        address_bytes(destination.address),
        key.mark,
        key.port,
        destination.port,
        key.protocol,
        key.address.version,
        destination.address.version,
    )


def version_fields(service: VirtualService, ticks_per_second: float) -> dict[str, Any]:
    """The fields of struct service_version that a service as such has."""
    key = service.key
    return {
        "flags": int(service.flags),
        "timeout_s": service.timeout_s,
        "timeout": min(round(service.timeout_s * ticks_per_second) or 1, LONGEST_TICKS),
        "netmask": service.mask,
        "mark": key.mark,
        "address": address_bytes(key.address),
        "port": key.port,
        "present": 1,
        "scheduler": scheduler_number(service.scheduler),
        "protocol": key.protocol,
        "family": key.address.version,
        "engine": service.engine.encode(),
    }


def key_of(version: dict[str, Any]) -> ServiceKey:
    """The key of a service from its version's fields."""
    family = socket.AF_INET if version["family"] == 4 else socket.AF_INET6
    if version["mark"]:
        return ServiceKey.of_mark(version["mark"], family)
    return ServiceKey(Protocol(version["protocol"]), address_of(version["address"], version["family"]), version["port"])


def service_of(version: dict[str, Any]) -> VirtualService:
    """A service from its version's fields."""
    return VirtualService(
        key_of(version),
        scheduler_name(version["scheduler"]),
        ServiceFlag(version["flags"]),
        version["timeout_s"],
        version["netmask"],
        version["engine"].rstrip(b"\0").decode(),
    )


def tunnel_word(tunnel: Tunnel) -> int:
    """A member's tunnel field."""
    return int(tunnel.kind) | int(tunnel.flags) << 8 | tunnel.port << 16


def tunnel_state(destination: Destination) -> int:
    """What a destination's state says of its tunnel, from bit DESTINATION_TUNNEL on; 0 but for GRE and GUE."""
    tunnel = destination.tunnel
    if destination.method != Method.TUNNEL or tunnel.kind == TunnelKind.IPIP:
        return 0
    flags = tunnel.flags if tunnel.kind == TunnelKind.GUE else tunnel.flags & TunnelFlag.CSUM
    return int(tunnel.kind) | int(flags) << 2 | tunnel.port << 4


def tunnel_of(word: int) -> Tunnel:
    """The inverse of `tunnel_word`."""
    if not word:
        return _PLAIN_TUNNEL
    return Tunnel(TunnelKind(word & 0xFF), word >> 16, TunnelFlag(word >> 8 & 0xFF))


def destination_of(
    address: bytes, family: int, port: int, weight: int, upper: int, lower: int, method: int, tunnel: int
) -> Destination:
    """A destination from its slot's address and port (network order) and what its member says."""
    key = DestinationKey(address_of(address, family), socket.ntohs(port))
    return Destination(key, _METHODS[method], weight, upper, lower, tunnel_of(tunnel))
