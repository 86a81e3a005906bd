"""Adding and removing many addresses in one call that does not wait."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from pylvs.model.addresses import family_of
from pylvs.model.dataclass import dataclass
from pylvs.model.routing import FOREVER, HeldAddress
from pylvs.netlink.codec import CREATE, DELADDR, IFADDRMSG, NEWADDR, REPLACE, Netlink, Request, attribute, text, u32

LIFETIMES = struct.Struct("=4I")  # ifa_cacheinfo
ADDRESS, LOCAL, LABEL, BROADCAST, CACHEINFO, FLAGS = 1, 2, 3, 4, 6, 8  # IFA_*
NO_DAD, HOME, MANAGE_TEMPORARY, NO_PREFIX_ROUTE, JOIN_GROUP = 0x02, 0x10, 0x100, 0x200, 0x400  # IFA_F_*
ENDLESS = 0xFFFFFFFF
GONE = (errno.EADDRNOTAVAIL, errno.ENODEV)

Placed = tuple[HeldAddress, str]  # an address and its device
Thing = TypeVar("Thing")


class NoSuchDevice(Exception):
    """A device does not exist; the text names it or the cause."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a change is in force, and otherwise the kernel's error as text."""

    done: bool
    error: str = ""


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
    # IPv4 ignores the lifetime when it chooses a source address.
    if held.interface.version == 6 and held.preferred_lft_s != FOREVER:
        body += attribute(CACHEINFO, LIFETIMES.pack(held.preferred_lft_s, ENDLESS, 0, 0))
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


def index_of(device: str) -> int:
    """Return a device's index in this network namespace; 0 if there is none of that name."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def in_words(number: int, words: str) -> str:
    """Return the text of an errno with the kernel's message."""
    plain = os.strerror(number)
    return f"{plain} ({words})" if words else plain


def execute(
    things: Sequence[Thing],
    request: Callable[[Thing], Request],
    failed: Callable[[Thing], str],
    fine: Collection[int],
) -> list[Outcome]:
    """Execute one request for each thing without waiting; an errno that is `fine` is no failure.

    `request` may raise NoSuchDevice. `failed` begins the text of a failure.
    """
    requests: list[Request] = []
    missing: dict[int, str] = {}
    for at, thing in enumerate(things):
        try:
            requests.append(request(thing))
        except NoSuchDevice as error:
            missing[at] = str(error)
    with Netlink() as route:
        replies = iter(route.do(requests))
    outcomes = []
    for at, thing in enumerate(things):
        number, words = (errno.ENODEV, "") if at in missing else next(replies)
        if number == 0 or number in fine:
            outcomes.append(Outcome(True))
        else:
            outcomes.append(Outcome(False, f"{failed(thing)}: {missing.get(at) or in_words(number, words)}"))
    return outcomes


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
