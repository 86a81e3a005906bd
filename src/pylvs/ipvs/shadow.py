"""Decide each packet beside the live IPVS, forward none, and compare.

The tables are filled as for an adoption, but no device runs the packet path. Packets are captured for a moment. Then
they run through a copy of the programs that writes to no map (`pylvs.trace.variants`), and the decisions are compared
with IPVS's connections.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from ipaddress import ip_address
from types import TracebackType
from typing import NamedTuple, Self

from pylvs.bpf import abi, kernel
from pylvs.bpf.maps import RingBuffer
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import GATE
from pylvs.ipvs.adopt import Adoption, checked, give_up
from pylvs.ipvs.frames import Ends, ends_of, may_open, shortened
from pylvs.ipvs.kernel import KernelIpvs
from pylvs.ipvs.listing import Line
from pylvs.ipvs.plan import Plan
from pylvs.model.addresses import endpoint
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Method, Protocol, ServiceFlag, VirtualService
from pylvs.netlink import links
from pylvs.system import sockets
from pylvs.system.lock import Lock
from pylvs.trace.variants import DryCopy

# Schedulers whose choice depends on the packet alone; that of the others depends on all connections before it.
BY_PACKET = ("sh", "dh", "mh", "fo", "none")
_WINDOW_S = 0.5  # of capture
_MOST = 20_000  # packets of a window
_PACKET_HOST, _ETH_P_ALL, _BUFFER = 0, 3, 8 << 20
_IGNORE_OUTGOING = 23  # PACKET_...
_LONGEST = 65535
_CONTEXT = struct.Struct("<8xI28xI148x")  # struct __sk_buff: mark, ifindex
_FIELDS = ("known", "server_address:16s", "server_port:2s", "verdict", "choice", "server_family")

Packet = tuple[bytes, int, Ends]  # the frame, the device that it came by


class Decision(NamedTuple):
    """What the programs would do with a packet; without a server they do not forward it."""

    verdict: str
    choice: str
    server: tuple[bytes, int] | None


@dataclass(slots=True)
class Shadowed:
    """The comparison. `by_turn` are packets whose server depends on all before them, or that IPVS keeps no line of."""

    compared: int = 0
    equal: int = 0
    by_turn: int = 0
    ended: int = 0  # packets of connections that ended before they could be compared
    lost: int = 0  # packets that the kernel did not deliver
    refused: int = 0  # connections of ip_vs for which the table had no space
    differing: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Return the share of equal decisions."""
        return self.equal / self.compared if self.compared else 1.0


class _Programs:
    """The copy of the programs, and its records."""

    def __init__(self, director: BpfDirector, opened: ExitStack) -> None:
        self._copy = DryCopy(director.state)
        opened.callback(self._copy.close)
        self._ring = RingBuffer.duplicate(self._copy.records)
        opened.callback(self._ring.close)
        self._form = abi.struct("trace_record").view(*_FIELDS)
        self._verdicts = self._names("trace_verdict", "TRACE_")
        self._choices = self._names("trace_choice", "TRACE_")
        self._knows_server = abi.constant("TRACE_KNOWS_SERVER")

    @staticmethod
    def _names(enum: str, prefix: str) -> dict[int, str]:
        return {number: name.removeprefix(prefix).lower() for name, number in abi.shipped().enum(enum).items()}

    def decide(self, frame: bytes, device: int) -> Decision:
        """Run the programs of TC on a frame that came by a device."""
        kernel.run_program(self._copy.program, shortened(frame), _CONTEXT.pack(0, device))
        found = Decision("passed", "", None)
        for record in self._ring:
            known, address, port, verdict, choice, family = self._form.unpack_from(record)
            server = None
            if known & self._knows_server:
                server = address[: 4 if family == 4 else 16], int.from_bytes(port, "big")
            found = Decision(self._verdicts.get(verdict, ""), self._choices.get(choice, ""), server)
        return found


class _Capture:
    """Packets to this host that come in by all devices but lo."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        sockets.enlarge(self._socket, _BUFFER)
        self._socket.setsockopt(sockets.SOL_PACKET, _IGNORE_OUTGOING, 1)
        self._socket.setblocking(False)
        self._index = cache(socket.if_nametoindex)  # one capture: seconds
        self._loopback = {each.index for each in links.devices() if each.loopback}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def window(self, end: float) -> list[Packet]:
        """Return the packets that can be read until this time. More may wait: it must end under any traffic."""
        found: list[Packet] = []
        while len(found) < _MOST and (left := end - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                found += self._read()
        return found

    def rest(self) -> list[Packet]:
        """Return packets that wait after `stop`; an empty list: none does."""
        found: list[Packet] = []
        while len(found) < _MOST and select.select([self._socket], [], [], 0)[0]:
            found += self._read()
        return found

    def _read(self) -> Iterator[Packet]:
        frame, (device, _, kind, *_) = self._socket.recvfrom(_LONGEST)
        index = self._index(device)
        if kind == _PACKET_HOST and index not in self._loopback and (ends := ends_of(frame)):
            yield frame, index, ends

    def stop(self) -> int:
        """Capture no more; `rest` returns what waits. Return how many packets the kernel did not deliver."""
        return sockets.stop_capture(self._socket)


class Shadow:
    """One run beside IPVS."""

    def __init__(self, director: BpfDirector, source: KernelIpvs) -> None:
        self._director = director
        self._kernel = source
        self._adoption = Adoption(director, source)
        self.shadowed = Shadowed()
        self._virtual: set[tuple[int, bytes]] = set()  # protocols and addresses of services; protocol 0: any
        self._services: dict[tuple[int, bytes, int], VirtualService] = {}  # by protocol, address and port
        self._by_nat: set[tuple[bytes, int]] = set()

    def run(self, seconds: float, force: bool = False) -> Shadowed:
        """Compare for this time. Nothing of it stays. Raises what an adoption does before it changes anything."""
        with self.beside(force) as found, _Capture() as capture:
            end = time.monotonic() + seconds
            self.compare(capture.window(min(time.monotonic() + _WINDOW_S, end)))
            while (now := time.monotonic()) < end:
                self._adoption.reread(found)
                self.compare(capture.window(min(now + _WINDOW_S, end)))
            self.shadowed.lost = capture.stop()
            while rest := capture.rest():
                self.compare(rest)
        return self.shadowed

    @contextmanager
    def beside(self, force: bool) -> Iterator[Plan]:
        """Fill the tables, which no packet uses, for the block; yield what IPVS has."""
        director = self._director
        give_up(director)
        found, lines = checked(self._kernel, director, force)
        try:
            self._adoption.make(len(lines))
            director.follow_host()  # devices that were attached before run the gate from now on
            director.shadowing = True
            with ExitStack() as opened:
                opened.enter_context(Lock(director.state.pin_path(GATE), 0, "pylvs adopt"))
                self._insertion = self._adoption.fill(found, opened)
                self._note(found)
                self._programs = _Programs(director, opened)
                yield found
        finally:
            director.shadowing = False
            give_up(director)

    def _note(self, found: Plan) -> None:
        """Note which packets belong to services."""
        for service, servers in found.rows:
            key = service.key
            self._virtual.add((0 if key.mark else int(key.protocol), key.address.packed))
            self._services[int(key.protocol), key.address.packed, key.port] = service
            by_nat = (server for server in servers if server.method is Method.MASQ)
            self._by_nat |= {(server.key.address.packed, server.key.port) for server in by_nat}

    def compare(self, window: list[Packet]) -> None:
        """Compare the packets of a window, in two steps: those that open a connection, before it is copied."""
        programs, insertion = self._programs, self._insertion
        ours = [packet for packet in window if self._is_ours(packet[2])]
        decided: dict[int, Decision] = {}
        opening = set[Ends]()
        for number, (frame, device, ends) in enumerate(ours):
            is_known = ends in insertion.there or ends in opening
            if self._is_request(ends) and not is_known and may_open(frame, ends.protocol):
                opening.add(ends)
                decided[number] = programs.decide(frame, device)
        listed = list(self._kernel.connections())  # once: a connection that another listing has would seem unknown
        self._adoption.copy(insertion, lines=listed)
        self.shadowed.refused += insertion.refused
        lines = {line.key: line for line in reversed(listed)}  # of one key the first counts, as in the copy
        replies = {
            (each.protocol, each.server, each.server_port, each.client, each.client_port): each
            for each in lines.values()
        }
        known: dict[tuple[Ends, int, bool], Decision] = {}  # of one flow all are equal: the programs change nothing
        for number, (frame, device, ends) in enumerate(ours):
            name = ends, device, may_open(frame, ends.protocol)
            decision = decided.get(number) or known.get(name)
            if decision is None:
                decision = known[name] = programs.decide(frame, device)
            line = (lines if self._is_request(ends) else replies).get(ends[:5])
            opens = number in decided or (ends.protocol == Protocol.TCP and may_open(frame, ends.protocol))
            self._count(ends, line, decision, number in decided, opens)

    def _is_request(self, ends: Ends) -> bool:
        return (ends.protocol, ends.target) in self._virtual or (ends.source, ends.source_port) not in self._by_nat

    def _is_ours(self, ends: Ends) -> bool:
        """Return whether a packet is for a service, or from a server of NAT."""
        if (ends.protocol, ends.target) in self._virtual or any(not protocol for protocol, _ in self._virtual):
            return True
        return (ends.source, ends.source_port) in self._by_nat

    def _count(self, ends: Ends, line: Line | None, decision: Decision, is_first: bool, opens: bool) -> None:
        """Count a packet. `is_first`: it was decided before its connection was copied; `opens`: it may open one."""
        shadowed = self.shadowed
        if line is None and decision.verdict == "forwarded" and not is_first:
            shadowed.ended += 1
            return
        if line is None and decision.server is None:
            shadowed.compared += 1
            shadowed.equal += 1
            return
        if self._is_by_turn(ends, line, decision, opens):
            shadowed.by_turn += 1
            return
        wanted = (line.server, line.server_port) if line else None
        is_equal = decision.server == wanted and (decision.verdict == "forwarded" or line is None)
        if line and not is_equal and self._insertion.has_expired(line.key):  # before the decision: the machine is slow
            shadowed.ended += 1
            return
        shadowed.compared += 1
        if is_equal:
            shadowed.equal += 1
            return
        who = f"{_text(ends.source, ends.source_port)} > {_text(ends.target, ends.target_port)}"
        by_ipvs = _text(*wanted) if wanted else "no connection"
        ours = _text(*decision.server) if decision.server else "no server"
        shadowed.differing[f"{who}: ip_vs {by_ipvs}, pylvs {ours} ({decision.verdict}, {decision.choice})"] += 1

    def _is_by_turn(self, ends: Ends, line: Line | None, decision: Decision, opens: bool) -> bool:
        service = self._services.get((ends.protocol, ends.target, ends.target_port))
        if line is None:
            return service is not None and bool(service.flags & ServiceFlag.ONE_PACKET)
        return opens and decision.choice == "scheduler" and not (service and service.scheduler in BY_PACKET)


def _text(address: bytes, port: int) -> str:
    return endpoint(ip_address(address), port)
