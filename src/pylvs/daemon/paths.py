"""Compare the paths of clients and of checks on this host with the configuration.

Both findings are silent otherwise. Without an address on a device, no client reaches a service. And a check that takes
another path than the packets of clients shows nothing about theirs.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from ipaddress import ip_address

from pylvs.daemon.problems import Problem
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, Script, Target, targets_of
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Destination, Method
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.netlink.links import Routes


@dataclass(frozen=True, slots=True)
class Path:
    """How packets leave this host: the device, and the gateway if there is one."""

    device: str
    gateway: Address | None

    def __str__(self) -> str:
        return f"{self.device} via {self.gateway}" if self.gateway else self.device


def path_problems(configuration: Configuration, addresses: Collection[Address], routes: Routes) -> list[Problem]:
    """Return the missing virtual addresses, and the checks that take another path. Raises PylvsError."""
    missing = missing_addresses(configuration, addresses, routes)
    return [*missing, *_check_problems(configuration, routes)]


def missing_addresses(
    configuration: Configuration, addresses: Collection[Address], routes: Routes
) -> Iterator[Problem]:
    """Yield the virtual addresses that this host does not have, and that no virtual router adds.

    A service with ha_suspend is left out: another program gives this host its address. So are addresses in the words of
    a script, such as `quorum_up "ip address add 192.0.2.1/32 dev lo"`.
    """
    routers = configuration.vrrp
    added = {each.interface.ip for router in routers.instances for each in (*router.addresses, *router.excluded)}
    added |= {each.interface.ip for each in routers.addresses}
    added |= {address for script in _scripts(configuration) for address in _addresses_in(script)}
    services: dict[Address, list[str]] = {}
    for service in configuration.services:
        for key in service.keys:
            if not key.mark and not service.ha_suspend:
                services.setdefault(key.address, []).append(service.name)
    for address, names in services.items():
        if address in added or address in addresses:
            continue
        route = routes.to(address)
        if route is not None and route.local:
            continue
        effect = "no device has it, and no virtual router adds it"
        if route is not None and route.gateway is None:
            effect += "; ARP and ND requests for it get no reply"
        yield Problem("vip", str(address), f"{effect} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")


def _scripts(configuration: Configuration) -> Iterator[Script]:
    """Yield the scripts that may add a virtual address."""
    routers = configuration.vrrp
    notifies = [each.notify for each in routers.instances] + [each.notify for each in routers.groups]
    for notify in notifies:
        yield from filter(None, (notify.master, notify.every))
    yield from filter(None, (service.quorum_up for service in configuration.services))
    if configuration.settings.startup_script is not None:
        yield configuration.settings.startup_script


def _addresses_in(script: Script) -> Iterator[Address]:
    for argument in str(script).split():
        with suppress(ValueError):
            yield ip_address(argument.strip("\"';").partition("/")[0])


def _check_problems(configuration: Configuration, routes: Routes) -> Iterator[Problem]:
    for service in configuration.services:
        for server in service.servers:
            with suppress(OSError):  # the device disappeared
                yield from _server_problems(service, server, routes)


def _server_problems(service: WantedService, server: WantedServer, routes: Routes) -> Iterator[Problem]:
    """Yield one problem for a server with such checks; its text has all of them."""
    destination = server.destination
    own = _path(destination.key.address, routes)
    targets = [(check, each) for check in server.checks for each in targets_of(check) if not each.via_vip]
    if own is None or not targets:
        return
    texts = dict.fromkeys(text for check, target in targets for text in _differs(check, target, own, server))
    if gateway := _unreachable_gateway(destination, own):
        texts[gateway] = None
    if texts:
        yield Problem("check_path", f"{destination.key} of {service.name}", "; ".join(texts))


def _differs(check: Check, target: Target, own: Path, server: WantedServer) -> Iterator[str]:
    """Yield how a check's packets differ from the clients' ones in their way."""
    address = server.destination.key.address
    if target.address != address:
        yield f"{check.keyword} connects to {target.address} instead"
    elif target.device and target.device != own.device:
        yield f"{check.keyword} is bound to {target.device}, but packets of clients leave by {own}"


def _unreachable_gateway(destination: Destination, own: Path) -> str:
    """Return why direct routing fails although checks succeed; "" if it does not.

    A gateway gets packets to the virtual address, which it routes back to the director.
    """
    if destination.method is not Method.ROUTE or own.gateway is None:
        return ""
    return f"direct routing needs a server on the link, but the route leads to the gateway {own.gateway}"


def _path(address: Address, routes: Routes) -> Path | None:
    """Return the path to a real server; None for this host itself, or without a route."""
    route = routes.to(address)
    if route is None or route.local:
        return None
    return Path(socket.if_indextoname(route.ifindex), route.gateway)
