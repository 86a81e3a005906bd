"""Play a reload of virtual routers by the real RouterService on a fake host, and say what it disturbed.

This host is alone on its network, so each virtual router that can is master, and holds its addresses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any
from unittest.mock import patch

from pylvs.model.addresses import Address
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.vrrp import router_service
from pylvs.vrrp.control import requests
from pylvs.vrrp.loop import Loop, RealtimeStatus
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.router_service import RouterService
from tests.unit.daemon.reloads.pairs import Configuration, Router
from tests.unit.vrrp.fake_network import FakeHost, Switch

SETTLED_S = 30.0


class Holder(FakeHost):
    """A fake host that records which addresses leave it."""

    left: list[Address]

    def configure(self, configuration: VrrpConfiguration) -> list[str]:
        return []

    def receive_device_of(self, instance: VrrpInstance) -> str:
        return instance.interface

    def devices_tracked_by(self, instance: VrrpInstance) -> tuple[str, ...]:
        return (instance.interface,)

    def is_up(self, device: str) -> bool:
        return True

    def set_link_beat(self, device: str, up: bool) -> None:
        """Change nothing."""

    def reset(self) -> None:
        """Nothing is left."""

    def remove_resources(self, instance: VrrpInstance) -> None:
        super().remove_resources(instance)
        self.left += [each.interface.ip for each in instance.addresses]

    def replace_resources(self, instance: VrrpInstance) -> None:
        """Remove what the new instance lacks alone, as the VipManager does."""
        before = {each.interface.ip for each in self.held[instance.name].addresses}
        self.left += before - {each.interface.ip for each in instance.addresses}
        self.addresses -= before
        self.add_resources(instance)


class Helper:
    """Takes messages, and runs no script."""

    connected, lost = True, 0

    def __init__(self, *_: Any) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)

    def finish(self, ended: Any) -> None:
        """Nothing runs."""


class Receivers:
    """Receives nothing: no other router is on the network."""

    def __init__(self, *_: Any) -> None:
        """No socket."""

    def configure(self, instances: Any) -> list[str]:
        return []

    def close(self) -> None:
        """No socket."""


class Roles:
    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        """No packet path."""


@contextlib.contextmanager
def _service() -> Iterator[tuple[RouterService, Holder]]:
    switch = Switch()
    host = Holder(switch, ip_address("10.0.0.1"))
    host.left = []
    with (
        patch.object(router_service, "VipManager", lambda *_: host),
        patch.object(router_service, "AdvertReceivers", Receivers),
        patch.object(router_service, "HelperLink", Helper),
        patch.object(router_service, "enable_realtime", lambda settings: RealtimeStatus(0, False)),
        patch.object(router_service, "freeze_gc", lambda: None),
        patch.object(Loop, "now", property(lambda self: switch.now)),
        patch.object(Loop, "at", lambda self, when, call: switch.at(when, call)),
    ):
        service = RouterService("text", Roles())
        try:
            yield service, host
        finally:
            service._control.close()


def play(first: Configuration, second: Configuration) -> list[str]:
    """Reload from one to the other; return what that disturbed which the difference does not name."""
    with _service() as (service, host):
        _configure(service, first)
        host.switch.run(SETTLED_S)
        found = [f"V{each.number} is not master" for each in first.routers if not _is_master(service, each)]
        helper: Any = service.helper
        helper.messages.clear()
        host.left.clear()
        _configure(service, second)
        left_at_once = list(host.left)
        host.switch.run(SETTLED_S)
        found += _disturbed(first, second, left_at_once, host.left)
        for virtual_router in second.routers:
            if not _is_master(service, virtual_router):
                found.append(f"V{virtual_router.number} is not master after the reload")
        staying = {
            f"V{each.number}" for each in first.routers if any(_is_same(each, other) for other in second.routers)
        }
        states = [each for each in helper.messages if getattr(each, "kind", "") == "INSTANCE"]
        changed = [each for each in states if not each.at_reload and each.name in staying]
        found += [f"{each.name} became {each.state}" for each in changed]
        expected = {ip_address(f"198.51.100.{each}") for router in second.routers for each in router.addresses}
        if host.addresses != expected:
            found.append(f"holds {sorted(map(str, host.addresses))}, not {sorted(map(str, expected))}")
    return found


def _configure(service: RouterService, configuration: Configuration) -> None:
    answer = service._configure(requests.Configure(configuration.loaded().configuration.vrrp))
    assert not answer["warnings"], answer


def _is_master(service: RouterService, router: Router) -> bool:
    return service.routers[f"V{router.number}"].state is State.MASTER


def _is_same(old: Router, new: Router) -> bool:
    """Return whether a reload continues a virtual router: its name, its device and its VRID stay."""
    return (old.number, old.device, old.vrid) == (new.number, new.device, new.vrid)


def _disturbed(first: Configuration, second: Configuration, at_once: list[Address], left: list[Address]) -> list[str]:
    """Return the addresses that leave although their virtual router keeps them."""
    kept = {
        ip_address(f"198.51.100.{address}")
        for old in first.routers
        for new in second.routers
        if _is_same(old, new)
        for address in set(old.addresses) & set(new.addresses)
    }
    found = [f"{each} leaves" for each in left if each in kept]
    later = left[len(at_once) :]
    return found + [f"{each} leaves later" for each in later]
