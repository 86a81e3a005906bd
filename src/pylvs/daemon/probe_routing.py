"""Settings of this host that its own checks of a virtual address need.

A rule of policy routing sends packets with a probe's mark to lo, where the packet path forwards them. It does so
whether this host holds the address or not. If it does, an answer has a source address of this host. IPv4 drops such a
packet as forged unless `accept_local` of the device is on; IPv6 has no such rule.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable
from ipaddress import ip_address, ip_network

from pylvs.model.addresses import Address, family_of
from pylvs.model.errors import PylvsError
from pylvs.model.routing import NextHop, Route, RoutingRule
from pylvs.model.service import FIRST_PROBE_MARK, PROBE_MARK_MASK
from pylvs.netlink.changes import change
from pylvs.netlink.codec import CREATE, DELROUTE, DELRULE, EXCL, NEWROUTE, NEWRULE, REPLACE
from pylvs.netlink.links import Routes, local_addresses
from pylvs.netlink.routes import encoded, encoded_rule
from pylvs.system import proc

TABLE = FIRST_PROBE_MARK >> 16  # of policy routing: 20566
PRIORITY = 100
_DISCARD = 9  # a port to name in a question about routes; nothing is sent
_LOOPBACK = 1
_UNSPECIFIED, _STATIC = 0, 4  # RTPROT_*
_GONE = (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT, errno.ENODEV)  # what is to be removed is gone


def route_marks(versions: Collection[int]) -> None:
    """Route packets with a probe's mark to lo, for these versions of IP and no other. Raises PylvsError."""
    to_lo = (NextHop(device=socket.if_indextoname(_LOOPBACK)),)
    for version, everything in ((4, "0.0.0.0/0"), (6, "::/0")):
        route = Route(destination=ip_network(everything), kind="local", next_hops=to_lo, table=TABLE, protocol=_STATIC)
        rule = RoutingRule(
            family=version,
            table=TABLE,
            preference=PRIORITY,
            mark=FIRST_PROBE_MARK,
            mark_mask=PROBE_MARK_MASK,
            protocol=_UNSPECIFIED,
        )
        if version in versions:
            change("the routes of checks", (NEWROUTE, encoded(route), CREATE | REPLACE))
            change("the rule of checks", (NEWRULE, encoded_rule(rule), CREATE | EXCL), (errno.EEXIST,))
        else:
            change("the routes of checks", (DELROUTE, encoded(route, going=True), 0), _GONE)
            change("the rule of checks", (DELRULE, encoded_rule(rule), 0), _GONE)


def devices_towards(servers: Iterable[Address]) -> set[str]:
    """Return the devices towards these real servers, by which their answers arrive."""
    found = set()
    with Routes() as routes:
        for server in servers:
            route = routes.to(server)
            if route is not None and not route.local:
                found.add(socket.if_indextoname(route.ifindex))
    return found


def accepts_own_sources(device: str) -> bool:
    """Return whether IPv4 accepts packets from this host's addresses on the device; True for a deleted device."""
    everywhere, there = (f"net/ipv4/conf/{name}/accept_local" for name in ("all", device))
    return not proc.exists(there) or bool(proc.read_number(everywhere) or proc.read_number(there))


def accept_own_sources(device: str, on: bool) -> None:
    """Set whether the device accepts them; ignore a deleted device. Raises PylvsError."""
    name = f"net/ipv4/conf/{device}/accept_local"
    if proc.exists(name):
        proc.write(name, "1" if on else "0")


def source_towards(server: Address, version: int, avoiding: Collection[Address]) -> Address:
    """Return the address of this host, of this version of IP, from which to probe the server.

    That is the address that the kernel would use, or else the nearest one. None of `avoiding` is used, because the
    server has those addresses too. Raises PylvsError, OSError.
    """
    if server.version == version:
        chosen = _chosen_by_kernel(server)
        if chosen not in avoiding:
            return chosen
    usable = [
        each
        for each in local_addresses()
        if each.version == version
        and each not in avoiding
        and not (each.is_loopback or each.is_link_local or each.is_unspecified)
    ]
    if not usable:
        raise PylvsError(f"this host has no IPv{version} address of its own to check {server} from")
    return max(usable, key=lambda each: (_bits_in_common(each, server), -int(each)))


def _chosen_by_kernel(server: Address) -> Address:
    with socket.socket(family_of(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect((str(server), _DISCARD))
        except OSError as error:
            raise PylvsError(f"{server}: {os.strerror(error.errno or 0)}") from None
        return ip_address(asking.getsockname()[0].partition("%")[0])


def _bits_in_common(one: Address, other: Address) -> int:
    """Return the length of the common prefix, 0 for two versions of IP (RFC 6724 5, rule 8)."""
    if one.version != other.version:
        return 0
    return one.max_prefixlen - (int(one) ^ int(other)).bit_length()
