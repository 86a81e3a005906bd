"""A question and its answer in datagrams: what name servers, UDP services and ICMP echoes have in common."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from pylvs.health.checkers.failures import CheckFailed, failure
from pylvs.health.checkers.sockets import Limit, ready

_LONGEST = 1 << 16
_BATCH = 64  # datagrams read before others of the event loop have their turn

# What an ICMP error becomes on a connected socket (net/ipv4/icmp.c, net/ipv6/icmp.c).
_ICMP_WORDS = {
    errno.ECONNREFUSED: "connection refused (ICMP: port unreachable)",
    errno.EHOSTUNREACH: "no route to host (ICMP: host unreachable)",
    errno.ENETUNREACH: "network unreachable (ICMP)",
    errno.ENOPROTOOPT: "protocol unreachable (ICMP)",
    errno.EPROTO: "parameter problem (ICMP)",
    errno.EACCES: "administratively prohibited (ICMP)",
}


def icmp_failure(error: OSError, where: str) -> CheckFailed:
    """The failure that a connected socket for datagrams tells of."""
    words = _ICMP_WORDS.get(error.errno or 0)
    return CheckFailed(words) if words else failure(error.errno or 0, where)


def send(sock: socket.socket, data: bytes) -> None:
    """Send one datagram. Raises CheckFailed."""
    try:
        sock.send(data)
    except OSError as error:
        raise icmp_failure(error, "while sending") from None


async def answer(sock: socket.socket, limit: Limit, is_mine: Callable[[bytes], bool]) -> bytes | None:
    """The first datagram that is mine; None when none came in time. An ICMP error raises CheckFailed."""
    while await ready(sock, limit):
        for _ in range(_BATCH):
            try:
                data = sock.recv(_LONGEST)
            except BlockingIOError:
                break
            except OSError as error:
                raise icmp_failure(error, "while waiting for the answer") from None
            if is_mine(data):
                return data
    return None
