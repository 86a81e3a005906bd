"""What the product meets in a simulation instead of the operating system: time, descriptors, sockets and rtnetlink.

Also the two other processes: the daemon behind the control socket, and the helper that runs scripts.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

from pylvs.model.addresses import Address
from pylvs.netlink.addresses import Outcome, Placed
from pylvs.netlink.monitor import News
from pylvs.vrrp import claim_ears, core, holdings, link_socket, listening, loop, place, router
from pylvs.vrrp.aide.messages import ScriptWell
from pylvs.vrrp.frames import Claim, claim_of
from pylvs.vrrp.loop import Call, Loop, Timer
from pylvs.vrrp.process import Punctuality
from pylvs.vrrp.sockets import Datagram
from pylvs.vrrp.watching import Change, Picture, Watch
from tests.unit.vrrp.simulation.host import Storm, running

WALL_S = 1.7e9  # the wall clock at the start; those of all hosts agree, as AH's sequence numbers need it
MOST_TIMERS = 20_000  # that one process sets


class Time:
    """The module `time`, as far as virtual routers use it."""

    def monotonic(self) -> float:
        return running.host.now

    def time(self) -> float:
        return WALL_S + running.host.network.now


class SimulatedLoop(Loop):
    """The product's timers and its order of things (`Loop.run`); descriptors are numbers."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._timers = []
        self._order = itertools.count()
        self._running = True
        self.latest_s = 0.0
        self._reads: dict[int, Call] = {}
        self._host = running.host
        self._host.loop = self

    @property
    def now(self) -> float:
        return self._host.now

    def at(self, when: float, call: Call) -> Timer:
        timer = Timer(when, call)
        count = next(self._order)
        if count > MOST_TIMERS:
            raise Storm(f"{self._host.name} sets more than {MOST_TIMERS} timers (0)")
        heapq.heappush(self._timers, (when, count, timer))
        return timer

    def watch(self, descriptor: int, read: Call | None, write: Call | None = None) -> None:
        if read is None:
            self._reads.pop(descriptor, None)
        else:
            self._reads[descriptor] = read

    def turn(self) -> None:
        """Everything that is to be done at this time: timers first, then what is ready to be read."""
        ready, timers = self._host.ready, self._timers
        if self._running:
            self._timers_due()
        while ready and self._running:
            for descriptor in list(ready):
                read = self._reads.get(descriptor)
                if read is None:
                    ready.pop(descriptor, None)
                    continue
                self._do(read)
                if timers and timers[0][0] <= self._host.now:
                    break
            self._timers_due()

    def next_due(self) -> float | None:
        """When the next timer is."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None


class SimulatedSocket:
    """Something with a descriptor that is ready while `queue` has anything."""

    def __init__(self) -> None:
        self.host = running.host
        self.descriptor = self.host.descriptor()
        self.queue: list[Any] = []

    def fileno(self) -> int:
        return self.descriptor

    def take(self, most: int) -> list[Any]:
        taken, self.queue = self.queue[:most], self.queue[most:]
        if not self.queue:
            self.host.ready.pop(self.descriptor, None)
        return taken


class SimulatedEar(SimulatedSocket):
    """`pylvs.vrrp.sockets.Ear`."""

    def __init__(
        self, device: str, family: int, protocol: int, groups: Iterable[Address], vrids: object, buffer_bytes: int = 0
    ) -> None:
        super().__init__()
        self.device, self.family, self.protocol, self.groups = device, family, protocol, tuple(groups)
        self.host.ears.append(self)

    def rejoin(self) -> bool:
        return True

    def receive(self, most: int = 64) -> list[Datagram]:
        return self.take(most)

    def close(self) -> None:
        self.host.ears.remove(self)


class SimulatedEars(listening.Ears):
    """The product's, which shows each advertisement to the simulation as the process takes it."""

    def __init__(self, loop: Loop, hear: listening.Hear) -> None:
        host = running.host

        def observed(device: str, vrid: int, datagram: Datagram) -> None:
            host.network.process(host, datagram, lambda: hear(device, vrid, datagram))

        super().__init__(loop, observed)


class SimulatedMouth:
    """`pylvs.vrrp.sockets.Mouth`."""

    def __init__(self, device: str, family: int) -> None:
        self._host, self._device, self._family = running.host, device, family

    def send(self, packet: bytes, source: Address, destination: Address, hops: int = 255) -> None:
        if self._family == 4:
            header, payload = packet[:20], packet[20:]
            datagram = Datagram(source, destination, header[8], header[9], header, payload)
        else:
            datagram = Datagram(source, destination, hops, 112, b"", packet)
        device = self._device or self._way(destination)
        if not self._host.devices[device].enabled:
            raise OSError(100, "Network is down")
        self._host.network.transmit(self._host, device, datagram)

    def _way(self, destination: Address) -> str:
        for device in self._host.devices.values():
            if any(destination in each.interface.network for each in device.base):
                return device.name
        raise OSError(101, "Network is unreachable")

    def close(self) -> None:
        pass


class SimulatedSender:
    """`pylvs.vrrp.link_socket.Sender`."""

    def __init__(self) -> None:
        self._host = running.host

    def send(self, device: str, frame: bytes) -> str:
        if not self._host.devices[device].enabled:
            return f"{device}: Network is down"
        self._host.network.announce(self._host, device, frame)
        return ""

    def close(self) -> None:
        pass


class SimulatedClaimEar(SimulatedSocket):
    """`pylvs.vrrp.link_socket.ClaimEar`."""

    gone = False

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self._addresses: frozenset[Address] = frozenset()
        self._own: frozenset[bytes] = frozenset()
        self.host.claim_ears.append(self)

    def watch(self, addresses: Collection[Address], own_macs: Collection[bytes]) -> None:
        self._addresses, self._own = frozenset(addresses), frozenset(own_macs)

    def passes(self, frame: bytes) -> bool:
        """What the product's socket filter does in the kernel."""
        claim = claim_of(frame, self.device)
        return claim is not None and claim.address in self._addresses and claim.mac not in self._own

    def receive(self, most: int = 64) -> list[Claim]:
        claims = (claim_of(frame, self.device) for frame in self.take(most))
        return [claim for claim in claims if claim is not None]

    def close(self) -> None:
        self.host.claim_ears.remove(self)


class SimulatedWatch(Watch):
    """The product's picture of links and addresses, told by a simulated kernel."""

    def __init__(self, routes: bool = False, receive_buffer: int = 0) -> None:
        self._host = running.host
        self.descriptor = self._host.descriptor()
        self.queue: list[News] = []
        self._picture = Picture()
        for device in self._host.devices.values():
            self._picture.tell(device.news())
            for each in device.addresses.values():
                self._picture.tell(each)
        self._host.watch = self

    def fileno(self) -> int:
        return self.descriptor

    def close(self) -> None:
        self._host.watch = None

    def read(self) -> list[Change]:
        queue, self.queue = self.queue, []
        self._host.ready.pop(self.descriptor, None)
        return [change for news in queue for change in self._picture.tell(news)]


class SimulatedAide(SimulatedSocket):
    """`pylvs.vrrp.aide.link.AideLink`: the helper process that runs scripts."""

    lives = True

    def __init__(self, loop: Loop, log_format: str, hear: Callable[[Any], None]) -> None:
        super().__init__()
        self._hear = hear
        self.host.aide = self
        loop.watch(self.descriptor, self._read)

    def start(self) -> None:
        pass

    def say(self, message: Any) -> None:
        self.host.network.told(self.host, message)

    def finish(self, message: Any, ended: Call) -> None:
        ended()

    def find(self, result: ScriptWell) -> None:
        """A script ended."""
        self.queue.append(result)
        self.host.ready[self.descriptor] = None

    def _read(self) -> None:
        for message in self.take(64):
            self._hear(message)


class SimulatedControl:
    """`pylvs.vrrp.control.Control`, with nobody at the other end."""

    def __init__(self, loop: Loop, verbs: object) -> None:
        pass

    def tell(self, event: object) -> None:
        pass


class SimulatedGuard:
    """`pylvs.vrrp.packet_filter.Guard`."""

    def set(self, *_: object) -> list[str]:
        return []


class SimulatedHeld:
    """The module `pylvs.netlink.addresses`, as far as `holdings` uses it."""

    def hold(self, placed: Sequence[Placed]) -> list[Outcome]:
        return running.host.hold(placed)

    def release(self, placed: Sequence[Placed]) -> list[Outcome]:
        return running.host.release(placed)


class SimulatedProcess:
    """The module `pylvs.vrrp.process`."""

    def be_punctual(self, settings: object) -> Punctuality:
        return Punctuality(0, False)

    def stop_collecting(self) -> None:
        pass


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Inside, the product's process meets this module instead of the operating system."""
    clock = Time()
    replaced: list[tuple[object, str, object]] = [
        (core, "Loop", SimulatedLoop),
        (core, "Ears", SimulatedEars),
        (core, "AideLink", SimulatedAide),
        (core, "Control", SimulatedControl),
        (core, "process", SimulatedProcess()),
        (core, "time", clock),
        (router, "time", clock),
        (loop, "time", clock),
        (place, "Watch", SimulatedWatch),
        (place, "Guard", SimulatedGuard),
        (place, "Sender", SimulatedSender),
        (place, "Mouth", SimulatedMouth),
        (listening, "Ear", SimulatedEar),
        (claim_ears, "ClaimEar", SimulatedClaimEar),
        (claim_ears, "known_as", lambda mac: ""),
        (link_socket, "forwards", lambda device: False),
        (holdings, "held", SimulatedHeld()),
    ]
    with contextlib.ExitStack() as stack:
        for where, name, instead in replaced:
            stack.enter_context(mock.patch.object(where, name, instead))
        yield
