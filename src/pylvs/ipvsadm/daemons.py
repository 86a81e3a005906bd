"""The synchronisation daemons' commands: their arguments are checked as in ipvsadm, then they refuse."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from pylvs.ipvsadm.request import Request
from pylvs.model import sockets as socket
from pylvs.model.addresses import family_of
from pylvs.model.errors import InvalidOperation, NoSuchDevice, PylvsError, Unsupported
from pylvs.model.rows import ServiceRow

DEFAULT_INTERFACE = "eth0"


class NoDaemon(PylvsError):
    """Stopping a daemon that does not run."""

    errno = errno.ESRCH


def start(request: Request, rows: Iterable[ServiceRow]) -> None:
    """Raises InvalidOperation, NoSuchDevice, and Unsupported where ipvsadm would start one."""
    for row in rows:
        if any(family_of(each.destination.key.address) != row.service.key.family for each in row.destinations):
            raise InvalidOperation(f"{row.service.key} has a server of the other address family")
    interface = request.interface or DEFAULT_INTERFACE
    try:
        socket.if_nametoindex(interface)
    except (OSError, ValueError):
        raise NoSuchDevice(f"{interface}: no such device") from None
    raise Unsupported("--start-daemon: pylvs has no connection synchronisation; nothing was started")


def stop() -> None:
    """No daemon ever runs; raises NoDaemon."""
    raise NoDaemon("No daemon is running")
