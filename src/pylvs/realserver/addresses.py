"""Devices of this network namespace and their addresses, by pyroute2."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pylvs.model.addresses import Address, family_of
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation, NoSuchDevice, NotPermitted, PylvsError, Unsupported

LONGEST_LABEL = 15  # IFNAMSIZ - 1
IFF_UP = 1
IFA_F_NODAD = 0x02
IFA_F_NOPREFIXROUTE = 0x200


@dataclass(frozen=True, slots=True)
class Device:
    """A network device."""

    index: int
    name: str
    up: bool
    kind: str  # "veth", "ipip"...; "" for hardware
    loopback: bool
    enslaved: bool  # a port of a bridge or a bond


@dataclass(frozen=True, slots=True)
class Holding:
    """An address that a device holds; the label is ifconfig's alias (IPv4 only)."""

    address: Address
    prefix: int
    device: str
    label: str


@contextmanager
def netlink() -> Iterator[IPRoute]:
    """Yield a route socket for several operations: opening one is expensive."""
    with IPRoute() as route:
        yield route


def explained(error: NetlinkError, what: str) -> PylvsError:
    """Return the kernel's error with a text of one line."""
    if error.code == errno.EPERM:
        return NotPermitted(f"{what}: Operation not permitted; CAP_NET_ADMIN is needed: run as root")
    if error.code == errno.EOPNOTSUPP:
        return Unsupported(f"{what}: this kernel cannot")
    return InvalidOperation(f"{what}: {_words(error)}")


def _words(error: NetlinkError) -> str:
    text = error.args[1] if len(error.args) > 1 else errno.errorcode.get(error.code, str(error.code))
    return str(text)


def devices(route: IPRoute) -> list[Device]:
    """Return all devices, sorted by index."""
    found = [
        Device(
            index=link["index"],
            name=link.get_attr("IFLA_IFNAME"),
            up=bool(link["flags"] & IFF_UP),
            kind=_kind(link),
            loopback=bool(link["flags"] & 8),
            enslaved=link.get_attr("IFLA_MASTER") is not None,
        )
        for link in route.get_links()
    ]
    return sorted(found, key=lambda device: device.index)


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info else ""


def device(route: IPRoute, name: str) -> Device:
    """Return the device of this name. Raises NoSuchDevice, which lists those that exist."""
    known = devices(route)
    for each in known:
        if each.name == name:
            return each
    raise NoSuchDevice(f"{name}: no such device; there are: {', '.join(each.name for each in known)}")


def holdings(route: IPRoute) -> list[Holding]:
    """Return every address of every device."""
    names = {each.index: each.name for each in devices(route)}
    found = []
    for message in route.get_addr():
        raw = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if raw is None or message["index"] not in names:
            continue
        found.append(
            Holding(ip_address(raw), message["prefixlen"], names[message["index"]], message.get_attr("IFA_LABEL") or "")
        )
    return found


def free_label(held: list[Holding], name: str) -> str:
    """Return `lo:0`, or with the next free number; "" if the device's name is too long for a label."""
    taken = {each.label for each in held}
    number = next(n for n in range(len(taken) + 1) if f"{name}:{n}" not in taken)
    label = f"{name}:{number}"
    return label if len(label) <= LONGEST_LABEL else ""


def add_address(route: IPRoute, address: Address, where: Device, label: str = "") -> None:
    """Add a host address (/32, /128) to a device; for IPv6 without duplicate address detection. Raises PylvsError."""
    bits = address.max_prefixlen
    more: dict[str, Any] = {}
    if address.version == 4:
        more["broadcast"] = str(address)  # a host route's broadcast is itself, as in the usual script lvs_rs.sh
        if label:
            more["label"] = label
    else:
        more["flags"] = IFA_F_NODAD
    try:
        route.addr("add", index=where.index, family=family_of(address), address=str(address), prefixlen=bits, **more)
    except NetlinkError as error:
        if error.code == errno.EACCES and address.version == 6:
            switch = f"net.ipv6.conf.{where.name}.disable_ipv6"
            raise Unsupported(
                f"{address}/{bits} on {where.name}: IPv6 is switched off there; sysctl {switch}=0"
            ) from None
        raise explained(error, f"{address}/{bits} on {where.name}") from None


def remove_address(route: IPRoute, address: Address, where: Device) -> None:
    """Remove an address; a missing one is no error. Raises PylvsError."""
    bits = address.max_prefixlen
    try:
        route.addr("del", index=where.index, family=family_of(address), address=str(address), prefixlen=bits)
    except NetlinkError as error:
        if error.code != errno.EADDRNOTAVAIL:
            raise explained(error, f"{address}/{bits} on {where.name}") from None


def set_up(route: IPRoute, where: Device, up: bool) -> None:
    """Switch a device on or off. Raises PylvsError."""
    try:
        route.link("set", index=where.index, state="up" if up else "down")
    except NetlinkError as error:
        raise explained(error, where.name) from None


def has_family(route: IPRoute, family: int, names: set[str]) -> bool:
    """Return whether one of the devices has an address of the family beyond link-local ones."""
    return any(
        each.device in names and family_of(each.address) == family and not each.address.is_link_local
        for each in holdings(route)
    )
