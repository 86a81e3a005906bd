"""Checks of services and destinations for every Director, with IPVS's errors (IPVS-SEMANTICS 1.3 and 1.5).

These pure functions do not check whether an object exists. To keep IPVS's order, a Director looks up a service before
`check_service`. It calls `check_destination` before it looks up the destination.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address, family_of
from pylvs.model.destination import MAX_WEIGHT, Destination, Method, TunnelKind
from pylvs.model.errors import InvalidOperation, NoSuchScheduler, OutOfRange
from pylvs.model.service import NO_SCHEDULER, VirtualService

KNOWN_ENGINES = ("sip",)  # persistence engines of IPVS
MAX_THRESHOLD = 0x7FFFFFFF
MAX_PREFIX = 128  # bits of an IPv6 address


def check_service(
    service: VirtualService, known_schedulers: Collection[str], known_engines: Collection[str] = KNOWN_ENGINES
) -> None:
    """Check a service to add or to edit. Raises NoSuchScheduler, InvalidOperation."""
    if service.scheduler != NO_SCHEDULER and service.scheduler not in known_schedulers:
        raise NoSuchScheduler(
            f"{service.key}: no scheduler {service.scheduler!r}; there are: {_list(known_schedulers)}"
        )
    if service.engine and service.engine not in known_engines:
        raise NoSuchScheduler(
            f"{service.key}: no persistence engine {service.engine!r}; there are: {_list(known_engines)}"
        )
    if service.key.family == socket.AF_INET6 and not 1 <= service.mask <= MAX_PREFIX:
        raise InvalidOperation(f"{service.key}: a prefix length of {service.mask}; it must be from 1 to {MAX_PREFIX}")


def check_destination(
    service: VirtualService,
    destination: Destination,
    is_broadcast: Callable[[Address], bool] | None = None,
    is_local: Callable[[Address], bool] | None = None,
) -> None:
    """Check a destination of a service. Raises OutOfRange, InvalidOperation.

    As in IPVS, the address is checked only when a destination is added: callers then pass `is_broadcast`. It returns
    whether the routing table has an IPv4 address as a broadcast one. `is_local` returns whether this host has an IPv6
    address, which may then be link-local.
    """

    def where() -> str:  # only for an error: for many destinations, this text would take most of the time
        return f"{service.key} -> {destination.key}"

    if family_of(destination.key.address) != service.key.family and destination.method != Method.TUNNEL:
        raise InvalidOperation(f"{where()}: a server of the other address family is reached by tunnels only")
    if not 0 <= destination.weight <= MAX_WEIGHT:
        raise OutOfRange(f"{where()}: weight {destination.weight}; it must be from 0 to {MAX_WEIGHT}")
    if not (0 <= destination.upper <= MAX_THRESHOLD and 0 <= destination.lower <= MAX_THRESHOLD):
        raise InvalidOperation(f"{where()}: thresholds must be from 0 to {MAX_THRESHOLD}")
    if destination.lower > destination.upper:
        raise OutOfRange(f"{where()}: lower threshold {destination.lower} above the upper one, {destination.upper}")
    if (
        destination.method == Method.TUNNEL
        and destination.tunnel.kind == TunnelKind.GUE
        and not destination.tunnel.port
    ):
        raise InvalidOperation(f"{where()}: a GUE tunnel needs a port")
    if is_broadcast is not None and not may_serve(destination.key.address, is_broadcast, is_local):
        raise InvalidOperation(f"{where()}: not the address of a single host")


def may_serve(
    address: Address, is_broadcast: Callable[[Address], bool], is_local: Callable[[Address], bool] | None = None
) -> bool:
    """Return whether IPVS accepts an address of a real server: unicast, or one of this host."""
    if isinstance(address, IPv4Address):
        in_network_zero = int(address) >> 24 == 0
        limited_broadcast = int(address) == 0xFFFFFFFF
        return not (in_network_zero or limited_broadcast or address.is_multicast or is_broadcast(address))
    if _plain_unicast(address):
        return True
    return is_local is not None and is_local(address)


def _plain_unicast(address: IPv6Address) -> bool:
    unspecified = int(address) == 0
    return not (unspecified or address.is_multicast or address.is_link_local or address.ipv4_mapped is not None)


def _list(names: Collection[str]) -> str:
    return ", ".join(names)
