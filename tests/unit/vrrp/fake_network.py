"""Several hosts on a fake switch in simulated time: virtual routers without sockets or clocks."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import VrrpInstance
from pylvs.vrrp.garp import GarpRateLimit
from pylvs.vrrp.helper.link import LowerPriorityReceived, PriorityChanged, StateChanged
from pylvs.vrrp.loop import Call, Timer
from pylvs.vrrp.protocol.adverts import Datagram
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.router import Router
from pylvs.vrrp.tracking import TrackedObject

VIP = ip_address("10.0.0.100")
DELAY_S = 0.0002  # on the switch


def instance(priority: int = 100, **more: Any) -> VrrpInstance:
    given: dict[str, Any] = {"name": "VI_1", "interface": "eth0", "vrid": 51, "addresses": (held(VIP),)} | more
    return VrrpInstance(priority=priority, **given)


def held(address: Address) -> HeldAddress:
    """An address with its prefix."""
    return HeldAddress(interface=ip_interface(f"{address}/32"))


class Switch:
    """The clock, and the network between the hosts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hosts: list[FakeHost] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def at(self, when: float, call: Call) -> Timer:
        timer = Timer(when, call)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            call, timer.call = timer.call, None
            if call is not None:
                call()
        self.now = end

    def carry(self, sender: FakeHost, datagram: Datagram) -> None:
        """Deliver to all other hosts that have a link."""
        for host in self.hosts:
            if host is not sender and host.cable and sender.cable:
                self.at(self.now + DELAY_S, lambda host=host: host.receive(datagram))  # type: ignore[misc]

    def masters(self) -> list[str]:
        """The names of the hosts that hold the virtual address."""
        return [host.name for host in self.hosts if VIP in host.addresses and not host.dead]


@dataclass(eq=False)
class FakeHost:
    """One of them: the VipManager and the RouterService of its virtual routers."""

    switch: Switch
    address: Address
    name: str = ""
    cable: bool = True
    dead: bool = False
    addresses: set[Address] = field(default_factory=set)
    held: dict[str, VrrpInstance] = field(default_factory=dict)
    routers: list[Router] = field(default_factory=list)
    announced: list[tuple[float, Address]] = field(default_factory=list)
    notified: list[tuple[str, str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.name or str(self.address)
        self.switch.hosts.append(self)

    def add(self, instance: VrrpInstance) -> Router:
        host: Any = self
        router = Router(instance, host, host, GarpRateLimit(()))
        self.routers.append(router)
        return router

    def kill(self) -> None:
        """Stop its timers and its link."""
        self.dead, self.cable = True, False

    def receive(self, datagram: Datagram) -> None:
        for router in self.routers:
            if router.accepts(datagram) and not self.dead and datagram.payload[1] == router.instance.vrid:
                router.receive(datagram)

    # --- VipManager ---

    def link_fault(self, instance: VrrpInstance) -> str:
        return "" if self.cable else f"{instance.interface} is down"

    def source_of(self, instance: VrrpInstance) -> Address | None:
        return self.address

    def mtu_of(self, instance: VrrpInstance) -> int:
        return 1500

    def device_of(self, instance: VrrpInstance) -> str:
        return instance.interface

    def vmac_bases(self) -> dict[str, str]:
        return {}

    def announced_addresses(self, instance: VrrpInstance) -> list[tuple[str, Address]]:
        return [(instance.interface, each.interface.ip) for each in instance.addresses]

    def add_resources(self, instance: VrrpInstance) -> None:
        self.held[instance.name] = instance
        self.addresses |= {each.interface.ip for each in instance.addresses}

    def remove_resources(self, instance: VrrpInstance) -> None:
        self.addresses -= {each.interface.ip for each in instance.addresses}

    def replace_resources(self, instance: VrrpInstance) -> None:
        self.remove_resources(self.held[instance.name])
        self.add_resources(instance)

    def send_adverts(self, instance: VrrpInstance, packets: Sequence[Datagram]) -> None:
        for outgoing in packets:
            if not self.dead:
                self.switch.carry(self, outgoing)

    def send_garp(self, instance: VrrpInstance, device: str, address: Address) -> None:
        self.announced.append((self.switch.now, address))

    # --- RouterService ---

    @property
    def now(self) -> float:
        return self.switch.now

    def at(self, when: float, call: Call) -> Timer:
        return self.switch.at(when, self._unless_dead(call))

    def _unless_dead(self, call: Call) -> Callable[[], None]:
        def living() -> None:
            if not self.dead:
                call()

        return living

    def roles_changed(self) -> None:
        pass

    def log(self, level: str, text: str, **fields: Any) -> None:
        self.lines.append(text)

    def publish(self, event: str, instance: str, **fields: Any) -> None:
        pass

    def notify(self, message: StateChanged | PriorityChanged | LowerPriorityReceived, _: Router | None = None) -> None:
        match message:
            case StateChanged():
                self.notified.append((message.kind, message.name, message.state))
            case PriorityChanged():
                self.notified.append(("PRIORITY", message.name, str(message.priority)))
            case LowerPriorityReceived():
                self.notified.append(("LOWER", message.name, str(message.priority)))


def states(hosts: Sequence[FakeHost]) -> list[State]:
    """The state of each host's first virtual router."""
    return [host.routers[0].state for host in hosts]


def set_tracked(router: Router, tracked: TrackedObject) -> None:
    """Set the result of one tracked object."""
    router.track(router.tracked | {(tracked.kind, tracked.track.name): tracked})
