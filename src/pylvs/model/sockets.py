"""The part of the module socket that is written in C, for commands that start often.

The module socket turns its constants into enumerations and imports selectors; that takes longer than a whole edit.
"""

from __future__ import annotations

import _socket

AF_INET = _socket.AF_INET
AF_INET6 = _socket.AF_INET6
AF_NETLINK = _socket.AF_NETLINK
AF_UNIX = _socket.AF_UNIX
AF_UNSPEC = _socket.AF_UNSPEC
IPPROTO_SCTP = _socket.IPPROTO_SCTP
IPPROTO_TCP = _socket.IPPROTO_TCP
IPPROTO_UDP = _socket.IPPROTO_UDP
NETLINK_ROUTE = _socket.NETLINK_ROUTE
SOCK_CLOEXEC = _socket.SOCK_CLOEXEC
SOCK_DGRAM = _socket.SOCK_DGRAM
SOCK_RAW = _socket.SOCK_RAW
SOL_SOCKET = _socket.SOL_SOCKET
gethostbyaddr = _socket.gethostbyaddr
gethostbyname = _socket.gethostbyname
getservbyname = _socket.getservbyname
getservbyport = _socket.getservbyport
htons = _socket.htons
if_indextoname = _socket.if_indextoname
if_nametoindex = _socket.if_nametoindex
inet_aton = _socket.inet_aton
inet_ntop = _socket.inet_ntop
inet_pton = _socket.inet_pton
ntohl = _socket.ntohl
ntohs = _socket.ntohs
socket = _socket.socket
