"""The part of the module socket that is written in C, for commands that start often.

The module socket turns its constants into enumerations and imports selectors; that takes longer than a whole edit.
"""

from __future__ import annotations

from _socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    AF_UNSPEC,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    NETLINK_ROUTE,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_RAW,
    SOL_SOCKET,
    gethostbyaddr,
    gethostbyname,
    getservbyname,
    getservbyport,
    htons,
    if_indextoname,
    if_nametoindex,
    inet_aton,
    inet_ntop,
    inet_pton,
    ntohl,
    ntohs,
    socket,
)

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_NETLINK",
    "AF_UNIX",
    "AF_UNSPEC",
    "IPPROTO_SCTP",
    "IPPROTO_TCP",
    "IPPROTO_UDP",
    "NETLINK_ROUTE",
    "SOCK_CLOEXEC",
    "SOCK_DGRAM",
    "SOCK_RAW",
    "SOL_SOCKET",
    "gethostbyaddr",
    "gethostbyname",
    "getservbyname",
    "getservbyport",
    "htons",
    "if_indextoname",
    "if_nametoindex",
    "inet_aton",
    "inet_ntop",
    "inet_pton",
    "ntohl",
    "ntohs",
    "socket",
]
