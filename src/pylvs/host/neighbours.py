"""Neighbours that the kernel itself keeps fresh: entries with NTF_EXT_MANAGED (Linux 5.16)."""

from __future__ import annotations

import errno

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pylvs.host.addresses import Device, explained
from pylvs.model.addresses import Address, family_of

NTF_USE = 0x01
NTF_EXT_MANAGED = 0x01


def manage(route: IPRoute, address: Address, where: Device) -> None:
    """Let the kernel resolve this neighbour now and again whenever it would grow stale. Raises PylvsError."""
    try:
        route.neigh(
            "replace",
            dst=str(address),
            ifindex=where.index,
            family=family_of(address),
            state="none",
            flags_ext=NTF_EXT_MANAGED,
        )
    except NetlinkError as error:
        raise explained(error, f"neighbour {address} on {where.name}") from None


def release(route: IPRoute, address: Address, where: Device) -> None:
    """Forget a managed neighbour; one that has gone already is no error. Raises PylvsError."""
    try:
        route.neigh("del", dst=str(address), ifindex=where.index, family=family_of(address))
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise explained(error, f"neighbour {address} on {where.name}") from None
