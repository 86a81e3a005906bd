"""A simulated host: its devices and addresses, and the product's own `Core` on it, without sockets or clocks.

Real are Core, Place, Ears, ClaimEars, Tracking, Router, Machine, Group, Announcer, SendingLimits, Screen, Voice and
Serving, and the bytes of every packet. `system` replaces what they ask of the operating system.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any, Protocol

from pylvs.model.addresses import Address
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.netlink.addresses import Outcome, Placed
from pylvs.netlink.monitor import AddressNews, LinkNews, News
from pylvs.vrrp.aide.messages import ScriptWell
from pylvs.vrrp.core import Core
from pylvs.vrrp.loop import Call
from pylvs.vrrp.router import Router
from pylvs.vrrp.sockets import Datagram
from tests.unit.vrrp.simulation.schedule import SCRIPT, HostPlan

if TYPE_CHECKING:
    from tests.unit.vrrp.simulation.system import (
        SimulatedAide,
        SimulatedClaimEar,
        SimulatedEar,
        SimulatedLoop,
        SimulatedWatch,
    )

MOST_QUEUED = 4096  # packets in a socket's buffer


class Storm(BaseException):
    """The process goes round and round; no handler of the product's may catch this."""


class Network(Protocol):
    """What a host asks of the simulation around it."""

    now: float  # seconds

    def transmit(self, host: Host, device: str, datagram: Datagram) -> None:
        """An advertisement leaves."""

    def announce(self, host: Host, device: str, frame: bytes) -> None:
        """A gratuitous ARP or a neighbour advertisement leaves."""

    def told(self, host: Host, message: Any) -> None:
        """The process said something to its helper: a transition, a line of the log."""

    def process(self, host: Host, datagram: Datagram, handle: Call) -> None:
        """The process takes an advertisement from its socket; `handle` is what it does with it."""

    def held(self, host: Host, device: str, address: Address, there: bool) -> None:
        """The process put an address on a device, or took it off."""

    def due(self, host: Host, when: float) -> None:
        """The next timer of the process is due at this time of its own clock."""

    def stepped(self, host: Host) -> None:
        """The process did all that it had to do at this time, and waits."""


@dataclass(slots=True)
class Device:
    """One network device; `addresses` outlive the process that put them there."""

    name: str
    index: int
    mac: bytes
    base: tuple[AddressNews, ...]
    enabled: bool = True
    carrier: bool = True
    addresses: dict[Any, AddressNews] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        """Whether it carries packets."""
        return self.enabled and self.carrier

    def news(self) -> LinkNews:
        """What rtnetlink says of it."""
        return LinkNews(self.index, self.name, self.mac, 1500, self.enabled, self.up)


class Host:
    """One of the routers."""

    def __init__(self, number: int, plan: HostPlan, network: Network) -> None:
        self.number = number
        self.name = f"r{number}"
        self.network = network
        self.plan = plan
        self.configuration = plan.configuration
        self.now = plan.offset  # its own clock
        self.core: Core | None = None
        self.stalled_until = 0.0
        self.resumed_at = 0.0  # by its own clock: the end of the last stall
        self.well = True  # what its track_script finds
        self.roles = Roles()
        self.devices: dict[str, Device] = {}
        for index, source in enumerate(plan.sources, 1):
            name = f"eth{index - 1}"
            base = AddressNews(index, ip_interface(f"{source}/{24 if source.version == 4 else 64}"))
            mac = bytes((2, 0, 0, index, 0, number))
            self.devices[name] = Device(name, index, mac, (base,), addresses={base.interface: base})
        self.boot()

    def boot(self) -> None:
        """A process has no descriptors before it opens some."""
        self._numbers = itertools.count(3)
        self.ready: dict[int, None] = {}  # descriptors with something to be read
        self.ears: list[SimulatedEar] = []
        self.claim_ears: list[SimulatedClaimEar] = []
        self.watch: SimulatedWatch | None = None
        self.aide: SimulatedAide | None = None
        self.loop: SimulatedLoop | None = None

    def descriptor(self) -> int:
        """The next number."""
        return next(self._numbers)

    # --- the process ---

    def start(self) -> None:
        """A new process with this host's configuration, as `pylvs run` starts it."""
        self.boot()
        running.host = self
        self.core = Core("text", self.roles)
        answer = self.core._configure({"configuration": self.configuration, "settings": None})
        assert not answer["warnings"], answer
        assert self.aide is not None
        self.aide.find(ScriptWell(SCRIPT, self.well, ""))
        self._turn()

    def stop(self) -> None:
        """SIGTERM."""
        if self.core is not None:
            running.host = self
            self.core.stop()
            self._turn()

    def kill(self) -> None:
        """SIGKILL: its descriptors close, its addresses stay."""
        self.core = None
        self.stalled_until = 0.0
        self.boot()

    def reload(self, configuration: VrrpConfiguration) -> None:
        """`pylvs reload`; a process that does not run will start with it."""
        self.configuration = configuration
        if self.core is not None:
            running.host = self
            self.core._configure({"configuration": configuration, "settings": None})
            self._turn()

    def give_up(self, seconds: float) -> None:
        """`pylvs vrrp yield`."""
        if self.core is not None:
            running.host = self
            self.core._yield({"names": [], "seconds": seconds})
            self._turn()

    def step(self, local: float) -> None:
        """The process is woken at this time of its own clock."""
        if self.core is not None:
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
        """Of its process."""
        return self.core.routers if self.core is not None else {}

    # --- its kernel ---

    def find(self, well: bool) -> None:
        """The track_script has another result."""
        self.well = well
        if self.aide is not None:
            self.aide.find(ScriptWell(SCRIPT, well, ""))

    def set_link(self, name: str, *, enabled: bool, carrier: bool) -> None:
        """A cable is pulled or plugged, or an operator sets a link up or down."""
        device = self.devices[name]
        before = device.enabled
        device.enabled, device.carrier = enabled, carrier
        self._say(device.news())
        if before and not enabled:  # which costs a device its IPv6 addresses
            for each in [each for each in device.addresses.values() if each.interface.version == 6]:
                self.remove(name, each.interface.ip)
        if enabled and not before:
            for each in device.base:
                if each.interface not in device.addresses:
                    device.addresses[each.interface] = each
                    self._say(each)

    def remove(self, name: str, address: Address) -> None:
        """An address is taken off a device."""
        device = self.devices[name]
        for interface, each in list(device.addresses.items()):
            if interface.ip == address:
                del device.addresses[interface]
                self._say(AddressNews(each.index, each.interface, each.scope, each.flags, gone=True))

    def forget_everything(self) -> None:
        """The power is off: only what the distribution configures comes back."""
        for device in self.devices.values():
            device.addresses = {each.interface: each for each in device.base}
        self.roles = Roles()

    def virtual(self) -> set[tuple[str, Address]]:
        """Every address on its devices besides the distribution's."""
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
                news = device.addresses[held.interface] = AddressNews(device.index, held.interface)
                self._say(news)
        return [Outcome(True)] * len(placed)

    def release(self, placed: Sequence[Placed]) -> list[Outcome]:
        """`pylvs.netlink.addresses.release`."""
        for held, name in placed:
            self.network.held(self, name, held.interface.ip, False)
            self.remove(name, held.interface.ip)
        return [Outcome(True)] * len(placed)

    def receive(self, device: str, family: int, datagram: Datagram) -> bool:
        """A packet came by a device: into every socket that wants it. Whether one does."""
        taken = False
        for ear in self.ears:
            if ear.family != family or ear.protocol != datagram.protocol or ear.device not in ("", device):
                continue
            if datagram.destination.is_multicast and (not ear.device or datagram.destination not in ear.groups):
                continue
            if len(ear.queue) < MOST_QUEUED:
                ear.queue.append(datagram)
                self.ready[ear.descriptor] = None
                taken = True
        return taken

    def hear_claim(self, device: str, frame: bytes) -> bool:
        """An announcement came by a device. Whether the process wants to know of it."""
        taken = False
        for ear in self.claim_ears:
            if ear.device == device and ear.passes(frame):
                ear.queue.append(frame)
                self.ready[ear.descriptor] = None
                taken = True
        return taken

    def _say(self, news: News) -> None:
        if self.watch is not None:
            self.watch.queue.append(news)
            self.ready[self.watch.descriptor] = None


class Running:
    """Whose process runs at this moment."""

    host: Host


running = Running()


class Roles:
    """What the packet path was told last; it outlives the process, as pinned maps do."""

    def __init__(self) -> None:
        self.here: frozenset[Address] = frozenset()
        self.elsewhere: frozenset[Address] = frozenset()

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        self.elsewhere, self.here = addresses, held
