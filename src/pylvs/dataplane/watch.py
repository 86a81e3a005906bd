"""Reconcile attachments with the devices of a network namespace, for `pylvs watch`, where no `pylvs run` does.

It waits for rtnetlink(7) events about links, addresses, routes, rules, TC and `forwarding` of devices. Then it updates
attachments, snapshots and settings. Without it the next edit does that.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
import time
from collections.abc import Callable

from pylvs.dataplane.director import BpfDirector
from pylvs.model.errors import PylvsError
from pylvs.model.rows import warnings

# RTMGRP_LINK, TC, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE; as numbers of bits, RTNLGRP_IPV6_RULE,
# IPV4_NETCONF and IPV6_NETCONF
_GROUPS = 0x1 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18 | 1 << 23 | 1 << 24
POLL_S = 30.0  # for changes that the kernel does not report
RETRY_S = 5.0  # after a device was refused, or the tables were locked
GATHER_S = 0.05  # events within this time are handled together
SHARE = 4  # pause for so many times the work's duration: a fifth of the time at most is work
_READ_BYTES = 1 << 16
_MESSAGES = 1000  # events read in a row


def listen() -> socket.socket:
    """Return a socket that receives every change in this thread's network namespace."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    kernel.setblocking(False)
    kernel.bind((0, _GROUPS))
    return kernel


def drain(kernel: socket.socket) -> bool:
    """Read the pending events; return whether there were any."""
    changed = False
    for _ in range(_MESSAGES):
        try:
            kernel.recv(_READ_BYTES)
        except BlockingIOError:
            return changed
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # ENOBUFS: the kernel dropped events, which is a change, too
                raise
        changed = True
    return changed


def watch(director: BpfDirector, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> None:
    """Reconcile for ever; call `say` with a line for each new problem, for what is put right, and when all is."""
    reported: list[str] = []
    with listen() as kernel:
        while True:
            begin = time.monotonic()
            found = _look(director, say)
            for line in found:
                if line not in reported:
                    say(line)
            if reported and not found:
                say("all devices are attached again")
            reported = found
            time.sleep(min(SHARE * (time.monotonic() - begin), RETRY_S))  # of a run that waited for the lock, too
            select.select([kernel], [], [], RETRY_S if reported else POLL_S)
            time.sleep(GATHER_S)
            drain(kernel)


def _look(director: BpfDirector, say: Callable[[str], None]) -> list[str]:
    """Reconcile once, report what was put right, and return the problems as lines."""
    try:
        if director.edition():  # finds tables that another process has made
            for line in director.follow_host():
                say(line)
        return warnings(director)
    except (PylvsError, OSError) as error:
        return [str(error)]
