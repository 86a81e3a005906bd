"""Dummy devices: they carry addresses and no packets."""

from __future__ import annotations

import errno
import socket
import struct

from pylvs.model.errors import InvalidOperation
from pylvs.netlink.changes import in_words, index_of
from pylvs.netlink.codec import CREATE, DELLINK, EXCL, IFF_UP, IFINFOMSG, NEWLINK, Netlink, attribute, nested, text

IFLA_IFNAME, IFLA_LINKINFO, IFLA_AF_SPEC, INFO_KIND = 3, 18, 26, 1
ADDR_GEN_MODE, GEN_MODE_NONE = 8, 1  # IFLA_INET6_ADDR_GEN_MODE: without a link-local address
KINDS = "dummy", "ifb"  # some kernels lack the first; without a redirection an ifb carries nothing either


def make_dummy(name: str) -> None:
    """Create a device that is up, unless it exists. Raises PylvsError with the kernel's reason."""
    if index_of(name):
        return
    head = IFINFOMSG.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name)
    requests = [(NEWLINK, head + nested(IFLA_LINKINFO, text(INFO_KIND, kind)), CREATE | EXCL) for kind in KINDS]
    quiet = nested(socket.AF_INET6, attribute(ADDR_GEN_MODE, struct.pack("=B", GEN_MODE_NONE)))
    with Netlink() as route:
        for request in requests:
            ((number, words),) = route.do([request])
            if number != errno.EOPNOTSUPP:
                break
        if number in (0, errno.EEXIST):
            route.do([(NEWLINK, head + nested(IFLA_AF_SPEC, quiet), 0)])  # refused by a kernel without IPv6
            up = IFINFOMSG.pack(0, 0, 0, IFF_UP, IFF_UP) + text(IFLA_IFNAME, name)
            ((number, words),) = route.do([(NEWLINK, up, 0)])
    if number:
        raise InvalidOperation(f"the device {name} could not be created: {in_words(number, words)}")


def remove_dummy(name: str) -> None:
    """Remove a device; a missing one is no error."""
    if index := index_of(name):
        with Netlink() as route:
            route.do([(DELLINK, IFINFOMSG.pack(0, 0, index, 0, 0), 0)])
