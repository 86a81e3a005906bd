"""BFD sessions of several hosts in simulated time, without sockets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pylvs.bfd.packet import Packet, decode
from pylvs.bfd.sessions import Sessions
from pylvs.bfd.sockets import Datagram
from pylvs.model.addresses import Address
from pylvs.model.bfd import BfdSession
from pylvs.system.sockets import DROP, Instruction
from tests import classic_bpf
from tests.unit.vrrp.fake_loop import FakeTimeLoop

DELAY_S = 0.0002
QUEUE = 1300  # packets in a receive buffer
UDP_HEADER = bytes(8)
ADDRESS_IN_USE, NETWORK_UNREACHABLE = 98, 101


class Wire:
    """The network: the hosts by address, and whether it carries anything."""

    def __init__(self) -> None:
        self.loop = FakeTimeLoop()
        self.hosts: dict[Address, Host] = {}
        self.cut = False
        self.hops = 0
        self.carried: list[tuple[Address, Packet]] = []

    def host(self, address: str) -> Host:
        """Return a new host."""
        found = Host(self, ip_address(address))
        self.hosts[found.address] = found
        return found

    def carry(self, source: Address, settings: BfdSession, payload: bytes) -> None:
        self.carried.append((source, decode(payload)))
        if not self.cut and settings.neighbor in self.hosts:
            target = self.hosts[settings.neighbor]
            datagram = Datagram(source, settings.neighbor, settings.ttl - self.hops, payload)
            self.loop.at(self.loop.now + DELAY_S, lambda: target.take(settings.port, datagram))


@dataclass(eq=False)
class Host:
    """A process with sessions; what it logs, publishes and finds out."""

    wire: Wire
    address: Address
    lines: list[str] = field(default_factory=list)
    about: list[str] = field(default_factory=list)  # of each line: the object that may change too often
    events: list[dict[str, Any]] = field(default_factory=list)
    results: list[tuple[str, bool | None]] = field(default_factory=list)
    receivers: dict[int, FakeReceiver] = field(default_factory=dict)  # by port
    port_taken: bool = False  # by another program
    unreachable: bool = False  # nothing can be sent
    killed: bool = False

    def __post_init__(self) -> None:
        self.sessions: Any = Sessions(self.wire.loop, self, lambda: 0.5, self._receiver, self._sender)  # type: ignore[arg-type]

    def take(self, port: int, datagram: Datagram) -> None:
        if port in self.receivers and not self.killed:
            self.receivers[port].put(datagram)

    def state(self, name: str = "b") -> str:
        """Return the state of a session."""
        return next(str(each["state"]) for each in self.sessions.status() if each["name"] == name)

    def kill(self) -> None:
        """Send and receive nothing more."""
        self.killed = self.unreachable = True

    def _receiver(self, family: int, port: int) -> FakeReceiver:
        if self.port_taken:
            raise OSError(ADDRESS_IN_USE, "Address already in use")
        self.receivers[port] = FakeReceiver()
        return self.receivers[port]

    def _sender(self, settings: BfdSession, first_port: int) -> FakeSender:
        return FakeSender(self, settings)

    # --- the owner of the sessions ---

    def log(self, level: str, text: str, **fields: Any) -> None:
        self.lines.append(f"{level}: {text}")
        self.about.append(fields.get("about", ""))

    def publish(self, event: str, instance: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def session_changed(self, name: str) -> None:
        self.results.append((name, self.sessions.result(name).up))


class FakeReceiver:
    """The receiver of a host, with a descriptor that is readable while there are datagrams."""

    def __init__(self) -> None:
        self.read = 0
        self._queue: list[Datagram] = []
        self._program: Sequence[Instruction] = [DROP]
        self._ready = os.eventfd(0, os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._ready

    def accept(self, program: Sequence[Instruction]) -> None:
        classic_bpf.check(program)
        self._program = program

    def put(self, datagram: Datagram) -> None:
        ends = datagram.source.packed + datagram.destination.packed
        header = bytes(12 if datagram.source.version == 4 else 8) + ends
        if len(self._queue) < QUEUE and classic_bpf.run(self._program, UDP_HEADER + datagram.payload, header):
            self._queue.append(datagram)
            os.eventfd_write(self._ready, 1)

    def receive(self, most: int = 64) -> list[Datagram]:
        found, self._queue = self._queue[:most], self._queue[most:]
        if found and not self._queue:
            os.eventfd_read(self._ready)
        self.read += len(found)
        return found

    def close(self) -> None:
        self._program = [DROP]
        os.close(self._ready)


class FakeSender:
    """The sender of a session."""

    def __init__(self, host: Host, settings: BfdSession) -> None:
        self._host, self._settings = host, settings

    def set_ttl(self, ttl: int) -> None:
        pass

    def send(self, payload: bytes) -> None:
        if self._host.unreachable:
            raise OSError(NETWORK_UNREACHABLE, "Network is unreachable")
        self._host.wire.carry(self._host.address, self._settings, payload)

    def close(self) -> None:
        pass
