"""What hints and overviews must know of this host: which addresses packets reach it by, and whether it routes."""

from __future__ import annotations

from collections.abc import Iterable

from pylvs.dataplane import vip_roles
from pylvs.dataplane.devices import lo
from pylvs.dataplane.state import netns_cookie
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.netlink import neighbours
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
        return lo.forwarding_off(version)

    def gateway(self, address: Address) -> Address | None:
        """Return the gateway on the way to an address; None if it is on a link, or unreachable."""
        route = self._routes.to(address)
        return route.gateway if route else None

    def unresolved(self, servers: Iterable[Address]) -> dict[Address, tuple[str, Address]]:
        """Return the real servers whose next hop does not answer ARP or ND, with the device and the next hop."""
        found = {}
        quiet = neighbours.silent()
        for server in servers:
            route = self._routes.to(server)
            hop = (route.gateway or server) if route else server
            if route and not route.local and (route.ifindex, hop) in quiet:
                found[server] = _device(route), hop
        return found

    def not_routing(self, versions: Iterable[int]) -> list[str]:
        """Return the settings without which this host does not forward replies of NAT, for these IP versions."""
        return [_FORWARDING[each].replace("/", ".") for each in sorted(versions) if not self.forwards(each)]


def _device(route: Route) -> str:
    try:
        return socket.if_indextoname(route.ifindex)
    except OSError:
        return _UNKNOWN


def absent(addresses: Iterable[Address]) -> dict[Address, str]:
    """Return those virtual addresses by which no packets come here, each with the device to add it to."""
    with ThisHost() as host:
        return {address: device for address in addresses if (device := host.lacks(address))}
