"""Changes of addresses and devices, whose errors are text of one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable
from ipaddress import ip_interface

from pylvs.model.addresses import Address
from pylvs.model.errors import InvalidOperation, NotPermitted, Unsupported
from pylvs.model.routing import HeldAddress
from pylvs.netlink import codec
from pylvs.netlink.addresses import encoded, named
from pylvs.netlink.codec import Netlink, Request
from pylvs.netlink.links import AssignedAddress, Device

LONGEST_LABEL = 15  # IFNAMSIZ - 1


def change(what: str, request: Request, expected: Collection[int] = ()) -> int:
    """Change one thing by rtnetlink; return 0, or an expected errno. Raises PylvsError with `what` in its text."""
    with Netlink() as link:
        ((number, _),) = link.do([request])
    if number in (0, *expected):
        return number
    if number == errno.EPERM:
        raise NotPermitted(f"{what}: Operation not permitted; CAP_NET_ADMIN is needed: run as root")
    if number == errno.EOPNOTSUPP:
        raise Unsupported(f"{what}: this kernel cannot")
    raise InvalidOperation(f"{what}: {os.strerror(number)}")


def free_label(held: Iterable[AssignedAddress], name: str) -> str:
    """Return `lo:0`, or with the next free number; "" if the device's name is too long for a label."""
    taken = {each.label for each in held}
    number = next(n for n in range(len(taken) + 1) if f"{name}:{n}" not in taken)
    label = f"{name}:{number}"
    return label if len(label) <= LONGEST_LABEL else ""


def add_address(address: Address, where: Device, label: str = "") -> None:
    """Add a host address (/32, /128) to a device; for IPv6 without duplicate address detection. Raises PylvsError."""
    held = HeldAddress(interface=ip_interface(address), no_dad=True)
    switched_off: tuple[int, ...] = (errno.EACCES,)
    if address.version == 4:
        # A host route's broadcast address is itself, as in the usual script lvs_rs.sh.
        held, switched_off = HeldAddress(interface=ip_interface(address), broadcast=address, label=label), ()
    what = f"{held.interface} on {where.name}"
    if change(what, (codec.NEWADDR, encoded(held, where.index), codec.CREATE | codec.EXCL), switched_off):
        switch = f"net.ipv6.conf.{where.name}.disable_ipv6"
        raise Unsupported(f"{what}: IPv6 is switched off there; sysctl {switch}=0")


def remove_address(address: Address, where: Device) -> None:
    """Remove an address; a missing one is no error. Raises PylvsError."""
    held = HeldAddress(interface=ip_interface(address))
    request = codec.DELADDR, named(held, where.index), 0
    change(f"{held.interface} on {where.name}", request, (errno.EADDRNOTAVAIL,))


def set_up(where: Device, up: bool) -> None:
    """Switch a device on or off. Raises PylvsError."""
    flags = codec.IFF_UP if up else 0
    change(where.name, (codec.NEWLINK, codec.IFINFOMSG.pack(0, 0, where.index, flags, codec.IFF_UP), 0))


def remove_device(where: Device) -> None:
    """Remove a virtual device. Raises PylvsError."""
    change(where.name, (codec.DELLINK, codec.IFINFOMSG.pack(0, 0, where.index, 0, 0), 0))
