"""The addresses of this host that its routing daemon announces, and those that are local besides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_interface, ip_network
from typing import Protocol

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError, text_of
from pylvs.model.routing import TABLE_LOCAL, HeldAddress, NextHop, Route, State
from pylvs.netlink import addresses, routes
from pylvs.netlink.changes import Outcome
from pylvs.netlink.dummies import make_dummy, remove_dummy

UP_DEVICE, LEAVING_DEVICE = "pylvs-up", "pylvs-leaving"
UP_METRIC, LEAVING_METRIC = 100, 200  # of the addresses: FRR and zebra announce it as MED
HELD_METRIC = 1000  # of the local route, behind that of the address
PROTOCOL_PYLVS = 118  # of the local route


DEVICES = {State.ANNOUNCED: (UP_DEVICE, UP_METRIC), State.LEAVING: (LEAVING_DEVICE, LEAVING_METRIC)}


class HostAddresses(Protocol):
    """Changes of devices, addresses and routes. Each method returns errors as text."""

    def prepare(self) -> str:
        """Create the devices, which may exist."""

    def keep_here(self, found: Sequence[Address]) -> Iterable[str]:
        """Let the addresses be local while they are not announced."""

    def give_up(self, found: Sequence[Address]) -> Iterable[str]:
        """Revert that."""

    def put(self, found: Sequence[Address], state: State, lease_s: int) -> Mapping[Address, str]:
        """Put the addresses on the device of this state, or extend their lease there. Return errors by address."""

    def take(self, found: Sequence[Address], state: State) -> Iterable[str]:
        """Remove the addresses from the device of this state; missing ones are no error."""

    def clear(self) -> None:
        """Remove the devices."""


class KernelAddresses:
    """The devices and routes of this network namespace."""

    def prepare(self) -> str:
        try:
            for device, _ in DEVICES.values():
                make_dummy(device)
        except (PylvsError, OSError) as error:
            return f"no address can be announced: {text_of(error)}"
        return ""

    def keep_here(self, found: Sequence[Address]) -> Iterable[str]:
        return _failed(lambda: routes.add(list(map(_local_route, found))))

    def give_up(self, found: Sequence[Address]) -> Iterable[str]:
        return _failed(lambda: routes.remove(list(map(_local_route, found))))

    def put(self, found: Sequence[Address], state: State, lease_s: int) -> Mapping[Address, str]:
        device, metric = DEVICES[state]
        try:
            outcomes = addresses.hold([(_held(each, metric, lease_s), device) for each in found])
        except (PylvsError, OSError) as error:
            return dict.fromkeys(found, f"it could not be put on {device}: {text_of(error)}")
        return {each: outcome.error for each, outcome in zip(found, outcomes, strict=True) if not outcome.done}

    def take(self, found: Sequence[Address], state: State) -> Iterable[str]:
        device, metric = DEVICES[state]
        return _failed(lambda: addresses.release([(_held(each, metric, 0), device) for each in found]))

    def clear(self) -> None:
        for device, _ in DEVICES.values():
            remove_dummy(device)


def _failed(change: Callable[[], list[Outcome]]) -> list[str]:
    try:
        return [each.error for each in change() if not each.done]
    except (PylvsError, OSError) as error:
        return [f"addresses could not be announced or withdrawn: {text_of(error)}"]


def _held(address: Address, metric: int, lease_s: int) -> HeldAddress:
    return HeldAddress(
        interface=ip_interface(address),
        valid_lft_s=lease_s,
        preferred_lft_s=0,  # no source of this host's own connections
        metric=metric,
        no_dad=True,
    )


def _local_route(address: Address) -> Route:
    return Route(
        destination=ip_network(address),
        kind="local",
        next_hops=(NextHop(device="lo"),),
        table=TABLE_LOCAL,
        metric=HELD_METRIC,
        protocol=PROTOCOL_PYLVS,
    )
