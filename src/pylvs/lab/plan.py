"""Address plans. Each topology has its own; a file may override fields.

A plan file is TOML or JSON with any of the fields of `AddressPlan`, for instance

    vip = "192.168.67.100"
    dip = "192.168.67.127/24"
    servers = ["192.168.67.129/24", "192.168.67.130/24"]
    client = "192.168.67.1/24"
    device = "ens32"
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import Any

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation

AnyInterface = IPv4Interface | IPv6Interface
MOST_SERVERS = 60
TUNNELS = ("ipip", "gre", "gue")
PEERS = ("pylvs", "keepalived")
ROUTING = ("bird", "frr", "gobgp")
_CHOICES = {"tunnel": TUNNELS, "peer": PEERS, "routing": ROUTING}

# The subnets of the built-in plans: the part before the host number.
SUBNETS = {
    "lan": ("10.0.0", "fd00:10:0:0:"),
    "outside": ("172.16.0", "fd00:172:16:0:"),
    "public": ("192.168.0", "fd00:192:168:0:"),
    "site": ("10.0.{n}", "fd00:10:0:{n}:"),
}


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """Addresses with prefix lengths. The topology decides which fields it uses."""

    vip: AnyInterface
    dip: AnyInterface
    servers: tuple[AnyInterface, ...]
    client: AnyInterface | None  # None: the gateway itself is the client (dr-routed)
    dip2: AnyInterface | None = None  # ha: the second director
    inside: AnyInterface | None = None  # nat: the director towards its real servers
    gateway: AnyInterface | None = None  # the router towards the servers
    gateway_vip: AnyInterface | None = None  # dr-routed: the router in the VIP's subnet
    outside: AnyInterface | None = None  # the router towards the client
    public: AnyInterface | None = None  # dr-behind-router: what it translates to the VIP
    device: str = "eth0"  # the director's and the servers' first network card
    port: int = 80
    scheduler: str = "rr"
    tunnel: str = "ipip"  # tun: the encapsulation
    peer: str = "pylvs"  # ha: the VRRP program of the second director
    routing: str = "bird"  # ecmp: the routing daemon of the directors

    @property
    def version(self) -> int:
        """Return 4 or 6."""
        return self.vip.version


def host_address(subnet: str, host: int, version: int, number: int = 0) -> AnyInterface:
    """Return address `host` of a built-in subnet: 10.0.0.21/24 or fd00:10::21/64."""
    v4, v6 = SUBNETS[subnet]
    if version == 4:
        return IPv4Interface(f"{v4.format(n=number)}.{host}/24")
    return IPv6Interface(f"{v6.format(n=number)}:{host}/64")


def built_in(servers: int, version: int, **hosts: tuple[str, int]) -> AddressPlan:
    """Return the usual addresses; `hosts` are other fields, each with a subnet and the number of the host in it."""
    fields = {"vip": ("lan", 100), "dip": ("lan", 10), "client": ("lan", 5)} | hosts
    addresses: dict[str, Any] = {
        name: host_address(subnet, number, version) for name, (subnet, number) in fields.items()
    }
    addresses["vip"] = single_address(addresses["vip"])
    addresses["servers"] = tuple(host_address("lan", 20 + number, version) for number in range(1, servers + 1))
    return AddressPlan(**addresses)


def single_address(interface: AnyInterface) -> AnyInterface:
    """Return the address with the prefix length of a single host."""
    return ip_interface(f"{interface.ip}/{interface.max_prefixlen}")


def first_of(interface: AnyInterface) -> AnyInterface:
    """Return the first address of a subnet, which is its router."""
    return ip_interface(f"{interface.network.network_address + 1}/{interface.network.prefixlen}")


def load_overrides(path: Path) -> dict[str, Any]:
    """Read and check a plan file. Raises InvalidOperation with the file and the field."""
    try:
        text = path.read_text(encoding="utf-8")
        return read_overrides(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
    except OSError as error:
        raise InvalidOperation(f"{path}: {error.strerror}") from None
    except (ValueError, InvalidOperation) as error:
        raise InvalidOperation(f"{path}: {error}") from None


def read_overrides(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the fields of a plan. Raises InvalidOperation."""
    known = {each.name for each in dataclasses.fields(AddressPlan)}
    result: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in known:
            raise InvalidOperation(f"{name}: a plan has no such field; there are: {', '.join(sorted(known))}")
        result[name] = _field(name, value)
    return result


def _field(name: str, value: Any) -> Any:
    if name == "port":
        if not isinstance(value, int) or not 0 < value < 65536:
            raise InvalidOperation(f"port = {value!r}: must be a number from 1 to 65535")
        return value
    if name == "device":
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", value):
            raise InvalidOperation(f"device = {value!r}: must be a device name of at most 15 characters")
        return value
    if name == "scheduler":
        return str(value)
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise InvalidOperation(f"{name} = {value!r}: must be one of {', '.join(_CHOICES[name])}")
        return value
    if name == "servers":
        if not isinstance(value, list) or not 0 < len(value) <= MOST_SERVERS:
            raise InvalidOperation(f"servers: must be a list of 1 to {MOST_SERVERS} addresses")
        return tuple(_interface(name, each) for each in value)
    if name == "client" and value in ("", None):
        return None
    return _interface(name, value)


def _interface(name: str, value: Any) -> AnyInterface:
    try:
        return ip_interface(str(value))
    except ValueError:
        raise InvalidOperation(f"{name} = {value!r}: not an address; write ADDRESS/PREFIX") from None


def override(plan: AddressPlan, overrides: Mapping[str, Any]) -> AddressPlan:
    """Return the plan with some fields replaced. Raises InvalidOperation if address families are mixed."""
    changed = dataclasses.replace(plan, **overrides)
    for field in dataclasses.fields(AddressPlan):
        value = getattr(changed, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, IPv4Interface | IPv6Interface) and one.version != changed.version:
                raise InvalidOperation(f"{field.name} = {one}: the VIP is IPv{changed.version}, this is not")
    return changed
