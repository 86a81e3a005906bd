"""A simulated host: devices, addresses, and the product's `RouterService` without sockets or clocks.

The product's own classes run, and the bytes of every packet are real. `system` replaces the operating system.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pylvs.model.addresses import Address
from pylvs.model.vrrp import Track, VrrpConfiguration
from pylvs.netlink.addresses import Placed
from pylvs.netlink.changes import Outcome
from pylvs.netlink.monitor import AddressMessage, LinkMessage, Message
from pylvs.vrrp.control import requests
from pylvs.vrrp.loop import Call
from pylvs.vrrp.protocol.adverts import Datagram
from pylvs.vrrp.router import Router
from pylvs.vrrp.router_service import RouterService
from pylvs.vrrp.tracking import TrackedObject
from tests.unit.vrrp.simulation.schedule import NEW_SCRIPT, SCRIPT, HostPlan, interface

if TYPE_CHECKING:
    from tests.unit.vrrp.simulation.records import Sent
    from tests.unit.vrrp.simulation.system import (
        SimulatedConflictSocket,
        SimulatedHelper,
        SimulatedLoop,
        SimulatedMonitor,
        SimulatedReceiver,
    )

MAX_QUEUED = 4096  # packets in a socket's buffer


class Storm(BaseException):
    """The process loops endlessly. Not an Exception, so that the product does not catch it."""


class Network(Protocol):
    """What a host needs of the simulation."""

    now: float  # seconds

    def transmit(self, host: Host, device: str, datagram: Datagram) -> None:
        """Send an advertisement."""

    def announce(self, host: Host, device: str, frame: bytes) -> None:
        """Send a gratuitous ARP or a neighbour advertisement."""

    def message_sent(self, host: Host, message: Any) -> None:
        """The process sent a message to its helper process."""

    def process(self, host: Host, datagram: Datagram, handle: Call) -> None:
        """The process reads an advertisement; `handle` lets it continue."""

    def held(self, host: Host, device: str, address: Address, added: bool) -> None:
        """The process added an address to a device, or removed it."""

    def due(self, host: Host, when: float) -> None:
        """The process's next timer, by its own clock."""

    @property
    def stepped(self) -> Callable[[Host], None]:
        """Return what is called when the process has handled everything that is due."""


@dataclass(slots=True)
class Device:
    """A network device; its addresses outlive the process that added them."""

    name: str
    index: int
    mac: bytes
    base: tuple[AddressMessage, ...]
    enabled: bool = True
    carrier: bool = True
    addresses: dict[Any, AddressMessage] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        return self.enabled and self.carrier

    def link_message(self) -> LinkMessage:
        return LinkMessage(self.index, self.name, self.mac, 1500, self.enabled, self.up)


class Host:
    """A router."""

    def __init__(self, number: int, plan: HostPlan, network: Network) -> None:
        self.number = number
        self.name = f"r{number}"
        self.network = network
        self.plan = plan
        self.configuration = plan.configuration
        self.now = plan.offset  # its own clock
        self.service: RouterService | None = None
        self.stalled_until = 0.0
        self.resumed_at = 0.0  # by its own clock: the end of the last stall
        self.script_up = True  # result of its track_script
        self.failed = False  # a device or script, since the process last handled everything
        self.roles = Roles()
        self.devices: dict[str, Device] = {}
        for index, source in enumerate(plan.sources, 1):
            name = f"eth{index - 1}"
            base = AddressMessage(index, interface(f"{source}/{24 if source.version == 4 else 64}"))
            mac = bytes((2, 0, 0, index, 0, number))
            self.devices[name] = Device(name, index, mac, (base,), addresses={base.interface: base})
        self.boot()

    def boot(self) -> None:
        """Close all descriptors."""
        self._numbers = itertools.count(3)
        self.ready: dict[int, None] = {}  # readable descriptors
        self.receivers: list[SimulatedReceiver] = []
        self.conflict_sockets: list[SimulatedConflictSocket] = []
        self.monitor: SimulatedMonitor | None = None
        self.helper: SimulatedHelper | None = None
        self.loop: SimulatedLoop | None = None

    def descriptor(self) -> int:
        return next(self._numbers)

    # --- the process ---

    def start(self) -> None:
        """Start a process with this host's configuration, as `pylvs run` does."""
        self.boot()
        running.host = self
        self.service = RouterService("text", self.roles)
        answer = self.service._configure(requests.Configure(self.configuration))
        assert not answer["warnings"], answer
        assert self.helper is not None
        self.helper.find(TrackedObject("script", Track(SCRIPT), self.script_up))
        self.know()

    def stop(self) -> None:
        """SIGTERM."""
        if self.service is not None:
            running.host = self
            self.service.stop()
            self._turn()

    def kill(self) -> None:
        """SIGKILL: its descriptors close, its addresses stay."""
        self.service = None
        self.stalled_until = 0.0
        self.boot()

    def reload(self, configuration: VrrpConfiguration) -> None:
        """`pylvs reload`; a process that does not run will start with it."""
        self.configuration = configuration
        if self.service is not None:
            running.host = self
            self.service._configure(requests.Configure(configuration))
            self._turn()

    def yield_for(self, seconds: float) -> None:
        """`pylvs vrrp yield`."""
        if self.service is not None:
            running.host = self
            self.service._yield((), self.service.now + seconds)
            self._turn()

    def step(self, local: float) -> None:
        """Run the process at this time of its own clock."""
        if self.service is not None:
            self.now = max(self.now, local)
            running.host = self
            self._turn()

    def _turn(self) -> None:
        assert self.loop is not None
        self.loop.turn()
        if not self.loop._running:
            self.kill()
            self.network.stepped(self)
            return
        self.network.stepped(self)
        due = self.loop.next_due()
        if due is not None:
            self.network.due(self, due)

    @property
    def routers(self) -> dict[str, Router]:
        return self.service.routers if self.service is not None else {}

    # --- the kernel ---

    def know(self) -> None:
        """Report the result of a script that a reload added, if there is one."""
        running.host = self
        if self.helper is not None and len(self.configuration.scripts) > 1:
            self.helper.find(TrackedObject("script", Track(NEW_SCRIPT), True))
        self._turn()

    def find(self, up: bool) -> None:
        """Change the result of the track_script."""
        self.script_up = up
        self.failed |= not up
        if self.helper is not None:
            self.helper.find(TrackedObject("script", Track(SCRIPT), up))

    def set_link(self, name: str, *, enabled: bool, carrier: bool) -> None:
        """Change the carrier, or set a link up or down."""
        device = self.devices[name]
        before = device.enabled
        device.enabled, device.carrier = enabled, carrier
        self.failed |= not device.up
        self._say(device.link_message())
        if before and not enabled:  # removes the device's IPv6 addresses
            for each in [each for each in device.addresses.values() if each.interface.version == 6]:
                self.remove(name, each.interface.ip)
        if enabled and not before:
            for message in device.base:
                if message.interface not in device.addresses:
                    device.addresses[message.interface] = message
                    self._say(message)

    def remove(self, name: str, address: Address) -> None:
        """Remove an address from a device."""
        device = self.devices[name]
        for held, message in list(device.addresses.items()):
            if held.ip == address:
                del device.addresses[held]
                self._say(AddressMessage(message.index, message.interface, message.scope, message.flags, gone=True))

    def forget_everything(self) -> None:
        """Lose the power: only the configured addresses return."""
        for device in self.devices.values():
            device.addresses = {each.interface: each for each in device.base}
        self.roles = Roles()

    def virtual(self) -> set[tuple[str, Address]]:
        """Return all addresses but the configured ones."""
        return {
            (device.name, each.interface.ip)
            for device in self.devices.values()
            for each in device.addresses.values()
            if each not in device.base
        }

    def hold(self, placed: Sequence[Placed]) -> list[Outcome]:
        """`pylvs.netlink.addresses.hold`, for the process that runs."""
        for held, name in placed:
            device = self.devices[name]
            self.network.held(self, name, held.interface.ip, True)
            if held.interface not in device.addresses:
                message = device.addresses[held.interface] = AddressMessage(device.index, held.interface)
                self._say(message)
        return [Outcome(True)] * len(placed)

    def release(self, placed: Sequence[Placed]) -> list[Outcome]:
        """`pylvs.netlink.addresses.release`."""
        for held, name in placed:
            self.network.held(self, name, held.interface.ip, False)
            self.remove(name, held.interface.ip)
        return [Outcome(True)] * len(placed)

    def receive(self, device: str, sent: Sent) -> bool:
        """Queue a packet in every socket that accepts it; return whether one does.

        Of the two sockets of a receiver that is the first: no packet here is invalid.
        """
        taken, datagram = False, sent.datagram
        for receiver in self.receivers[::2]:
            if (
                receiver.family != sent.family
                or receiver.protocol != datagram.protocol
                or receiver.device not in ("", device)
            ):
                continue
            if sent.multicast and (not receiver.device or datagram.destination not in receiver.groups):
                continue
            if len(receiver.queue) < MAX_QUEUED:
                receiver.queue.append(datagram)
                self.ready[receiver.descriptor] = None
                taken = True
        return taken

    def receive_frame(self, device: str, frame: bytes) -> bool:
        """Queue a frame in every socket whose filter accepts it; return whether one does."""
        taken = False
        for receiver in self.conflict_sockets:
            if receiver.device == device and receiver.passes(frame):
                receiver.queue.append(frame)
                self.ready[receiver.descriptor] = None
                taken = True
        return taken

    def _say(self, message: Message) -> None:
        if self.monitor is not None:
            self.monitor.queue.append(message)
            self.ready[self.monitor.descriptor] = None


class Running:
    """The host whose process runs now."""

    host: Host


running = Running()


class Roles:
    """The published roles; they outlive the process, as pinned maps do."""

    def __init__(self) -> None:
        self.active: frozenset[Address] = frozenset()
        self.standby: frozenset[Address] = frozenset()

    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        self.standby, self.active = addresses, held
