"""What hints and overviews must know of this host: which addresses packets reach it by, and whether it routes."""

from __future__ import annotations

from collections.abc import Iterable

from pylvs.dataplane import vip_roles
from pylvs.dataplane.devices import attach
from pylvs.dataplane.state import netns_cookie
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.netlink.links import Route, Routes, local_addresses
from pylvs.system import proc

_FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_UNKNOWN = "DEVICE"  # the user chooses it


class ThisHost:
    """The host, or the network namespace, of this process. All methods raise PylvsError."""

    def __init__(self) -> None:
        roles = vip_roles.stored(netns_cookie())
        self._own = local_addresses() | (roles.all if roles else frozenset())
        self._routes = Routes()

    def __enter__(self) -> ThisHost:
        return self

    def __exit__(self, *_: object) -> None:
        self._routes.close()

    def lacks(self, address: Address) -> str:
        """Return the device to add an address to; "" if this host has it, or one of its virtual routers does.

        A local route, as `ip route add local`, counts as well.
        """
        if address in self._own:
            return ""
        route = self._routes.to(address)
        if route is None:
            return _UNKNOWN
        return "" if route.local else _device(route)

    def forwards(self, version: int) -> bool:
        """Return whether this host forwards packets of this IP version as a router."""
        path = _FORWARDING[version]
        return not proc.exists(path) or proc.read_number(path) != 0

    def forwarding_off(self, version: int) -> str:
        """Return the setting of lo that stops the packet path for this IP version; "" if it forwards."""
        return attach.forwarding_off(version)

    def gateway(self, address: Address) -> Address | None:
        """Return the gateway on the way to an address; None if it is on a link, or unreachable."""
        route = self._routes.to(address)
        return route.gateway if route else None


def _device(route: Route) -> str:
    try:
        return socket.if_indextoname(route.ifindex)
    except OSError:
        return _UNKNOWN


def absent(addresses: Iterable[Address]) -> dict[Address, str]:
    """Return those virtual addresses by which no packets come here, each with the device to add it to."""
    with ThisHost() as host:
        return {address: device for address in addresses if (device := host.lacks(address))}
