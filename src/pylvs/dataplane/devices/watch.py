"""Follow the devices of a network namespace where no `pylvs run` does: `pylvs watch`.

It waits for what rtnetlink(7) tells of links, addresses, routes and TC, and brings attachments and snapshots up to
date. Without it the next edit does that.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
import time
from collections.abc import Callable

from pylvs.dataplane.director import BpfDirector
from pylvs.model.director import warnings
from pylvs.model.errors import PylvsError

# RTMGRP_LINK, TC, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_GROUPS = 0x1 | 0x8 | 0x10 | 0x40 | 0x100 | 0x400
RETRY_S = 5.0  # after a device was refused, or the tables were locked
GATHER_S = 0.05  # what comes together is looked at together
SHARE = 4  # at most every fifth part of the time is spent on looking
_READ_BYTES = 1 << 16
_MESSAGES = 1000  # read at a time


def listen() -> socket.socket:
    """A socket that hears of every change in this thread's network namespace."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    kernel.setblocking(False)
    kernel.bind((0, _GROUPS))
    return kernel


def drain(kernel: socket.socket) -> bool:
    """Read what came; whether anything did."""
    changed = False
    for _ in range(_MESSAGES):
        try:
            kernel.recv(_READ_BYTES)
        except BlockingIOError:
            return changed
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # there was more than there is room for
                raise
        changed = True
    return changed


def watch(director: BpfDirector, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> None:
    """Without an end; `say` gets a line when something goes wrong, and when it is right again."""
    told: list[str] = []
    with listen() as kernel:
        while True:
            begin = time.monotonic()
            found = _look(director)
            for line in found:
                if line not in told:
                    say(line)
            if told and not found:
                say("all devices are attached again")
            told = found
            time.sleep(SHARE * (time.monotonic() - begin))
            select.select([kernel], [], [], RETRY_S if told else None)
            time.sleep(GATHER_S)
            drain(kernel)


def _look(director: BpfDirector) -> list[str]:
    """Bring everything up to date; what went wrong, in lines."""
    try:
        if director.edition():  # finds tables that were made since
            director.follow_host()
        return warnings(director)
    except (PylvsError, OSError) as error:
        return [str(error)]


__all__ = ["GATHER_S", "RETRY_S", "SHARE", "drain", "listen", "watch"]
