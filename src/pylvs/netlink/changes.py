"""Changes by rtnetlink: many at once whose errors are values, or one whose error is for the user."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation, NoSuchDevice, NotPermitted, Unsupported
from pylvs.netlink.codec import DELLINK, IFF_UP, IFINFOMSG, NEWLINK, Netlink, Request
from pylvs.system import syscalls

if TYPE_CHECKING:
    from pylvs.netlink.links import Device

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a change; without `done` it is not in force, and `error` is the kernel's text."""

    done: bool
    error: str = ""
    shortage: bool = False  # of descriptors or memory: the same change may succeed later


def execute(
    things: Sequence[Thing],
    request: Callable[[Thing], Request],
    failed: Callable[[Thing], str],
    fine: Collection[int],
) -> list[Outcome]:
    """Execute one request for each thing without waiting; an errno that is `fine` is no failure.

    `request` may raise NoSuchDevice. `failed` begins the text of a failure. Raises OSError without a free descriptor.
    """
    if not things:
        return []
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
            text = f"{failed(thing)}: {missing.get(at) or in_words(number, words)}"
            outcomes.append(Outcome(False, text, number in syscalls.SHORTAGES))
    return outcomes


def index_of(device: str) -> int:
    """Return a device's index in this network namespace; 0 if there is none of that name.

    Raises OSError without a free descriptor, which if_nametoindex does not distinguish from a missing device.
    """
    try:
        return socket.if_nametoindex(device)
    except OSError:
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).close()
        return 0


def in_words(number: int, words: str) -> str:
    """Return the text of an errno with the kernel's message."""
    plain = os.strerror(number)
    return f"{plain} ({words})" if words else plain


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


def set_up(device: Device, up: bool) -> None:
    """Switch a device on or off. Raises PylvsError."""
    flags = IFF_UP if up else 0
    change(device.name, (NEWLINK, IFINFOMSG.pack(0, 0, device.index, flags, IFF_UP), 0))


def remove_device(device: Device) -> None:
    """Remove a virtual device. Raises PylvsError."""
    change(device.name, (DELLINK, IFINFOMSG.pack(0, 0, device.index, 0, 0), 0))
