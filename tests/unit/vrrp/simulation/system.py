"""Replacements for the operating system (time, descriptors, sockets, rtnetlink) and for the other processes."""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any
from unittest import mock

from pylvs.model.addresses import Address
from pylvs.netlink.addresses import Placed
from pylvs.netlink.changes import Outcome
from pylvs.netlink.monitor import Message
from pylvs.vrrp import conflicts, garp, loop, receivers, router, router_service, sockets, vip_manager
from pylvs.vrrp.garp import AddressBinding, parse_binding
from pylvs.vrrp.loop import Call, Loop, RealtimeStatus, Timer
from pylvs.vrrp.netlink_monitor import Change, LinkState, NetlinkMonitor
from pylvs.vrrp.protocol.adverts import Datagram
from pylvs.vrrp.tracking import TrackedObject
from tests.unit.vrrp.simulation.host import Storm, running

WALL_S = 1.7e9  # Unix time at the start, the same on all hosts, as AH's sequence numbers need it
MAX_TIMERS = 20_000  # of one process


binding_of = lru_cache(maxsize=1024)(parse_binding)  # every host of the network receives the same frames


class Time:
    """The functions of module `time` that virtual routers use."""

    def monotonic(self) -> float:
        return running.host.now

    def time(self) -> float:
        return WALL_S + running.host.network.now


class SimulatedLoop(Loop):
    """The product's timers and order of callbacks (`Loop.run`); descriptors are numbers."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._timers = []
        self._order = itertools.count()
        self._running = True
        self.max_late_s = 0.0
        self._reads: dict[int, Call] = {}
        self._host = running.host
        self._host.loop = self

    @property
    def now(self) -> float:
        return self._host.now

    def at(self, when: float, call: Call) -> Timer:
        timer = Timer(when, call)
        count = next(self._order)
        if count > MAX_TIMERS:
            raise Storm(f"{self._host.name} sets more than {MAX_TIMERS} timers (0)")
        heapq.heappush(self._timers, (when, count, timer))
        return timer

    def watch(self, descriptor: int, read: Call | None, write: Call | None = None) -> None:
        if read is None:
            self._reads.pop(descriptor, None)
        else:
            self._reads[descriptor] = read

    def turn(self) -> None:
        """Run everything that is due: timers first, then readable descriptors."""
        ready, timers = self._host.ready, self._timers
        if self._running:
            self._run_timers()
        while ready and self._running:
            for descriptor in list(ready):
                read = self._reads.get(descriptor)
                if read is None:
                    ready.pop(descriptor, None)
                    continue
                self._call(read)
                if timers and timers[0][0] <= self._host.now:
                    break
            self._run_timers()

    def next_due(self) -> float | None:
        """Return the time of the next timer."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None


class SimulatedSocket:
    """A socket that is readable while `queue` is not empty."""

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


class SimulatedReceiver(SimulatedSocket):
    """Replaces `pylvs.vrrp.sockets.AdvertReceiver`."""

    def __init__(
        self, device: str, family: int, protocol: int, groups: Iterable[Address], buffer_bytes: int = 0
    ) -> None:
        super().__init__()
        self.device, self.family, self.protocol, self.groups = device, family, protocol, tuple(groups)
        self.host.receivers.append(self)

    def rejoin(self) -> bool:
        return True

    def accept(self, build: sockets.Build) -> None:
        """Receive everything: a restriction drops what cannot matter."""

    def drain(self) -> None:
        self.take(len(self.queue))

    def receive(self, most: int = 64) -> list[Datagram]:
        return self.take(most)

    def close(self) -> None:
        self.host.receivers.remove(self)


class SimulatedReceivers(receivers.AdvertReceivers):
    """The product's receivers; the simulation sees each advertisement that the process reads."""

    def __init__(self, loop: Loop, on_advert: receivers.OnAdvert, matters: receivers.WhatMatters) -> None:
        host = running.host

        def observed(device: str, vrid: int, datagram: Datagram) -> bool:
            valid: list[bool] = []
            host.network.process(host, datagram, lambda: valid.append(on_advert(device, vrid, datagram)))
            return valid == [True]

        super().__init__(loop, observed, matters)


class SimulatedAdvertSender:
    """Replaces `pylvs.vrrp.sockets.AdvertSender`."""

    def __init__(self, device: str, family: int) -> None:
        self._host, self._device, self._family = running.host, device, family

    def send(self, datagram: Datagram) -> None:
        if self._family == 4:
            header = datagram.header
            assert (datagram.ttl, datagram.protocol) == (header[8], header[9])
        device = self._device or self._route(datagram.destination)
        if not self._host.devices[device].enabled:
            raise OSError(100, "Network is down")
        self._host.network.transmit(self._host, device, datagram)

    def _route(self, destination: Address) -> str:
        for device in self._host.devices.values():
            if any(destination in each.interface.network for each in device.base):
                return device.name
        raise OSError(101, "Network is unreachable")

    def close(self) -> None:
        pass


class SimulatedFrameSender:
    """Replaces `pylvs.vrrp.garp.FrameSender`."""

    def __init__(self) -> None:
        self._host = running.host

    def send(self, device: str, frame: bytes) -> str:
        if not self._host.devices[device].enabled:
            return f"{device}: Network is down"
        self._host.network.announce(self._host, device, frame)
        return ""

    def close(self) -> None:
        pass


class SimulatedConflictSocket(SimulatedSocket):
    """Replaces `pylvs.vrrp.conflicts.ConflictSocket`."""

    flooded = False

    def __init__(self, device: str, version: int) -> None:
        super().__init__()
        self.device = device
        self._addresses: frozenset[Address] = frozenset()
        self._own: frozenset[bytes] = frozenset()
        self.host.conflict_sockets.append(self)

    def watch(self, addresses: Collection[Address], own_macs: Collection[bytes]) -> None:
        self._addresses, self._own = frozenset(addresses), frozenset(own_macs)

    def passes(self, frame: bytes) -> bool:
        """Apply the product's socket filter."""
        binding = binding_of(frame, self.device)
        return binding is not None and binding.address in self._addresses and binding.mac not in self._own

    def receive(self, most: int = 64) -> list[AddressBinding]:
        bindings = (binding_of(frame, self.device) for frame in self.take(most))
        return [binding for binding in bindings if binding is not None]

    def close(self) -> None:
        self.host.conflict_sockets.remove(self)


class SimulatedMonitor(NetlinkMonitor):
    """The product's link state, with messages from the simulated kernel."""

    def __init__(self, receive_buffer: int = 0) -> None:
        self._host = running.host
        self.descriptor = self._host.descriptor()
        self.queue: list[Message] = []
        self._state = LinkState()
        for device in self._host.devices.values():
            self._state.update(device.link_message())
            for each in device.addresses.values():
                self._state.update(each)
        self._host.monitor = self

    def fileno(self) -> int:
        return self.descriptor

    def close(self) -> None:
        self._host.monitor = None

    def read(self) -> list[Change]:
        queue, self.queue = self.queue, []
        self._host.ready.pop(self.descriptor, None)
        return [change for message in queue for change in self._state.update(message)]


class SimulatedHelper(SimulatedSocket):
    """`pylvs.vrrp.helper.link.HelperLink`: the helper process that runs scripts."""

    connected = True

    def __init__(
        self, loop: Loop, log_format: str, on_message: Callable[[Any], None], on_lost: Callable[[str], None], *_: object
    ) -> None:
        super().__init__()
        self._on_message = on_message
        self._on_lost = on_lost
        self.host.helper = self
        loop.watch(self.descriptor, self._read)

    def start(self) -> None:
        pass

    def send(self, message: Any) -> None:
        self.host.network.message_sent(self.host, message)

    def finish(self, ended: Call) -> None:
        ended()

    def find(self, result: TrackedObject) -> None:
        """Report a script's result."""
        self.queue.append(result)
        self.host.ready[self.descriptor] = None

    def _read(self) -> None:
        for message in self.take(64):
            self._on_message(message)


class SimulatedControl:
    """`pylvs.vrrp.control.server.ControlServer` without a client."""

    def __init__(self, loop: Loop, *_: object) -> None:
        pass

    def publish(self, event: object) -> None:
        pass

    def publish_state(self, state: object) -> None:
        pass


class SimulatedFirewall:
    """Replaces `pylvs.vrrp.firewall.Firewall`."""

    def set(self, *_: object) -> list[str]:
        return []


class SimulatedHeld:
    """The module `pylvs.netlink.addresses`, as far as `vip_manager` uses it."""

    def hold(self, placed: Sequence[Placed]) -> list[Outcome]:
        return running.host.hold(placed)

    def release(self, placed: Sequence[Placed]) -> list[Outcome]:
        return running.host.release(placed)


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Replace the operating system by this module."""
    clock = Time()
    replaced: list[tuple[object, str, object]] = [
        (router_service, "Loop", SimulatedLoop),
        (router_service, "AdvertReceivers", SimulatedReceivers),
        (router_service, "HelperLink", SimulatedHelper),
        (router_service, "ControlServer", SimulatedControl),
        (router_service, "enable_realtime", lambda settings: RealtimeStatus(0, False)),
        (router_service, "freeze_gc", lambda: None),
        (router_service, "TICK_S", 5.0),  # no `pylvs run` reports, and no helper process is lost
        (router_service, "time", clock),
        (router, "time", clock),
        (loop, "time", clock),
        (vip_manager, "NetlinkMonitor", SimulatedMonitor),
        (vip_manager, "Firewall", SimulatedFirewall),
        (vip_manager, "FrameSender", SimulatedFrameSender),
        (vip_manager, "AdvertSender", SimulatedAdvertSender),
        (receivers, "AdvertReceiver", SimulatedReceiver),
        (conflicts, "ConflictSocket", SimulatedConflictSocket),
        (conflicts, "neighbour_ip", lambda mac: ""),
        (garp, "forwards_ipv6", lambda device: False),
        (vip_manager, "addresses", SimulatedHeld()),
    ]
    with contextlib.ExitStack() as stack:
        for where, name, instead in replaced:
            stack.enter_context(mock.patch.object(where, name, instead))
        yield
