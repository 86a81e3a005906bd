"""Adding and removing many addresses in one call that does not wait."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Collection, Sequence

from pylvs.model.addresses import family_of
from pylvs.model.errors import NoSuchDevice
from pylvs.model.routing import FOREVER, HeldAddress
from pylvs.netlink.changes import Outcome, execute, index_of
from pylvs.netlink.codec import CREATE, DELADDR, IFADDRMSG, NEWADDR, REPLACE, Request, attribute, text, u32

LIFETIMES = struct.Struct("=4I")  # ifa_cacheinfo
ADDRESS, LOCAL, LABEL, BROADCAST, CACHEINFO, FLAGS, METRIC = 1, 2, 3, 4, 6, 8, 9  # IFA_*
NO_DAD, HOME, MANAGE_TEMPORARY, NO_PREFIX_ROUTE, JOIN_GROUP = 0x02, 0x10, 0x100, 0x200, 0x400  # IFA_F_*
ENDLESS = 0xFFFFFFFF
GONE = (errno.EADDRNOTAVAIL, errno.ENODEV)

Placed = tuple[HeldAddress, str]  # an address and its device


def hold(addresses: Sequence[Placed]) -> list[Outcome]:
    """Add addresses; one that exists already gets the requested lifetimes and flags."""
    return _each(addresses, lambda held, index: (NEWADDR, encoded(held, index), CREATE | REPLACE), "put on", ())


def release(addresses: Sequence[Placed]) -> list[Outcome]:
    """Remove addresses; a missing address or device is no error."""
    return _each(addresses, lambda held, index: (DELADDR, named(held, index), 0), "taken off", GONE)


def encoded(held: HeldAddress, index: int) -> bytes:
    """Encode an address on the device of this index, for RTM_NEWADDR."""
    body = named(held, index)
    if held.broadcast is not None:
        body += attribute(BROADCAST, held.broadcast.packed)
    if held.label:
        body += text(LABEL, held.label)
    if flags := flags_of(held):
        body += u32(FLAGS, flags)
    if held.metric:
        body += u32(METRIC, held.metric)
    valid_s = ENDLESS if held.valid_lft_s == FOREVER else held.valid_lft_s
    # IPv4 ignores the preferred lifetime when it chooses a source address, and refuses 0.
    preferred_s = valid_s if held.interface.version == 4 or held.preferred_lft_s == FOREVER else held.preferred_lft_s
    if (preferred_s, valid_s) != (ENDLESS, ENDLESS):
        body += attribute(CACHEINFO, LIFETIMES.pack(preferred_s, valid_s, 0, 0))
    return body


def named(held: HeldAddress, index: int) -> bytes:
    """Encode what identifies an address on its device: itself, its prefix length and its peer."""
    own = held.interface
    head = IFADDRMSG.pack(family_of(own.ip), own.network.prefixlen, 0, held.scope, index)
    if own.version == 6 and held.peer is None:
        return head + attribute(ADDRESS, own.ip.packed)
    return head + attribute(LOCAL, own.ip.packed) + attribute(ADDRESS, (held.peer or own.ip).packed)


def flags_of(held: HeldAddress) -> int:
    """Return the flags of an address, IFA_F_*."""
    given = (
        (held.no_dad, NO_DAD),
        (held.home, HOME),
        (held.manage_temporary, MANAGE_TEMPORARY),
        (held.no_prefix_route, NO_PREFIX_ROUTE),
        (held.join_group, JOIN_GROUP),
    )
    return sum(flag for wanted, flag in given if wanted)


def _each(
    addresses: Sequence[Placed],
    request: Callable[[HeldAddress, int], Request],
    doing: str,
    fine: Collection[int],
) -> list[Outcome]:
    indexes = {device: index_of(device) for device in {device for _, device in addresses}}

    def of(placed: Placed) -> Request:
        held, device = placed
        if not indexes[device]:
            raise NoSuchDevice(os.strerror(errno.ENODEV))
        return request(held, indexes[device])

    return execute(addresses, of, lambda placed: f"{placed[0].interface} could not be {doing} {placed[1]}", fine)
