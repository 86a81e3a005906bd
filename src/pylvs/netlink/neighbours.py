"""Neighbours, and those that do not answer ARP or neighbour discovery: struct ndmsg of linux/neighbour.h."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.netlink.codec import Netlink, NetlinkError, address_of, attributes

_GETNEIGH = 30
_NDMSG = struct.Struct("=B3xiHBB")  # family, ifindex, state, flags, type
_PERMANENT = 0x80  # NUD_PERMANENT
_SILENT = 0x01 | 0x20  # NUD_INCOMPLETE, NUD_FAILED: the kernel asks, or has given up


def silent() -> set[tuple[int, Address]]:
    """Return index of device and address of all neighbours that do not answer. Raises PylvsError, OSError.

    The kernel forgets such a neighbour some time after the last packet to it.
    """
    return {(index, address) for index, state, address, _ in _all() if state & _SILENT}


def permanent() -> dict[tuple[int, Address], bytes]:
    """Return the link addresses of static entries, by index of device and address. Raises PylvsError, OSError."""
    return {(index, address): mac for index, state, address, mac in _all() if mac and state & _PERMANENT}


def link_addresses() -> dict[tuple[int, Address], bytes]:
    """Return the known link addresses, by index of device and address. Raises PylvsError, OSError."""
    return {(index, address): mac for index, state, address, mac in _all() if mac and not state & _SILENT}


def _all() -> Iterator[tuple[int, int, Address, bytes]]:
    """Yield device, state, address and link address of each neighbour."""
    with Netlink() as link:
        try:
            messages = link.dump(_GETNEIGH, _NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        except NetlinkError as error:
            raise error.as_failure("asking for all neighbours") from None
    for message in messages:
        _family, index, state, _flags, _kind = _NDMSG.unpack_from(message)
        parts = attributes(message, _NDMSG.size)
        address = address_of(parts.get(1))  # NDA_DST
        if address is not None:
            yield index, state, address, parts.get(2, b"")  # NDA_LLADDR
