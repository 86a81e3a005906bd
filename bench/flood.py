"""`python -m bench.flood`: a flood of ten times the table, and what becomes of its other connections.

Half of the table is established before. During the flood clients open connections, whose handshake takes as long as a
thirty-second part of the table takes to arrive. Exit status as the bench's; 1 also if connections are lost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

from bench import cases, katran, record, report, site
from bench.cases import CLIENT_PORT, DR, NAT, NAT_PORT, Served
from bench.frames import ACK, IN_ORDER, SCATTERED, SYN, Flows, Frame, after
from bench.harness import FLOWS, FLOWS6, REPLIES, SHRINK_FLOWS, Wrapper
from bench.path import Overheads, PacketPath, new_path
from bench.program import need_root, progress, status_of
from bench.rows import Measured
from pylvs.dataplane.load import half_opens
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Method, Protocol, ServiceKey, VirtualService

_TIMES = 10  # the capacity of the table: so many packets flood it
_PART = 32  # of the capacity: so many of them come during a handshake
_WALK = 1 << 24  # flows of the flood before one comes again
_FLOOD_BITS = 4  # a client of the flood has 16 ports
_ESTABLISHED, _NEW, _FLOOD = "10.128.0.0", "10.160.0.0", "10.192.0.0"  # first clients
_GROUP = 32  # addresses of established clients at most, and of new ones
_OTHERS = 8  # parts of the flood from one measurement of other programs to the next
_BESIDE = {"katran_new": "Katran, SYN, which it stores", "katran_new_limited": "Katran, SYN beyond its limit"}
_UNHARMED, _SUCCESSFUL = 0.999, 0.95  # shares of connections: the goals
_HEADINGS = (
    "flood",
    "to",
    "established unharmed",
    "new successful",
    "ns a packet",
    "packets that a handshake may take",
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    capacity: int = 1 << 20
    opened: int = 64  # connections that begin together
    repeat: int = 200_000  # of other programs


QUICK = Size(1 << 14, 16, 20_000)


@dataclass(frozen=True, slots=True)
class Kind:
    """A flood and the service that it is directed at."""

    protocol: Protocol
    method: Method
    version: int = 4

    @property
    def flood(self) -> str:
        """Return what the table calls the flood."""
        packets = "UDP" if self.protocol == Protocol.UDP else "SYN"
        return packets if self.version == 4 else f"{packets}, IPv6"

    @property
    def target(self) -> str:
        """Return what the table calls the service."""
        return {Method.ROUTE: "DR", Method.MASQ: "NAT", Method.TUNNEL: "TUN"}[self.method]

    @property
    def wrapper(self) -> Wrapper:
        """Return the harness's program for varied frames to this service."""
        if self.version == 6:
            return FLOWS6
        return SHRINK_FLOWS if self.method == Method.TUNNEL else FLOWS


def kinds() -> Iterator[Kind]:
    """Yield all floods; those over IPv6 only if the kernel has IPv6."""
    for protocol in Protocol.TCP, Protocol.UDP:
        for method in Method.ROUTE, Method.MASQ, Method.TUNNEL:
            yield Kind(protocol, method)
    if site.has_ipv6():
        for method in Method.ROUTE, Method.MASQ:
            yield Kind(Protocol.TCP, method, 6)


@dataclass(slots=True)
class Found:
    """What a flood did."""

    kind: Kind
    unharmed: float = 0.0
    successful: float = 0.0
    life: int = 0  # half-open connections that this CPU kept: one lives while so many others come
    cost: Measured = field(default_factory=Measured)

    def cells(self) -> tuple[str, ...]:
        """Return the table's cells; the last one is the verdict."""
        shares = f"{self.unharmed:.3%}", f"{self.successful:.3%}"
        return (self.kind.flood, self.kind.target, *shares, f"{self.cost.net:.0f}", f"{self.life:,}", self.verdict)

    @property
    def verdict(self) -> str:
        """Return whether enough connections survived."""
        return "" if self.unharmed >= _UNHARMED and self.successful >= _SUCCESSFUL else "too few"


class Flood:
    """One flood: the packets of all clients, and how many connections they opened."""

    def __init__(self, path: PacketPath, kind: Kind, size: Size) -> None:
        self._path = path
        self._kind = kind
        self._size = size
        self._vip = site.VIP if kind.version == 4 else site.VIP6
        self._port = NAT if kind.method == Method.MASQ else DR
        self._key = ServiceKey(kind.protocol, ip_address(self._vip), self._port)
        self._established = size.capacity // 2
        self._walk = Flows(_WALK, 0, SCATTERED, port_bits=_FLOOD_BITS)
        self._opened = self._translated = 0

    def _address(self, first: str) -> str:
        return first if self._kind.version == 4 else f"fd67::{first.split('.')[1]}"

    def _send(self, client: str, flags: int, flows: Flows, count: int) -> float:
        address = self._address(client)
        frame = Frame(address, self._vip, CLIENT_PORT, self._port, flags, protocol=self._kind.protocol)
        self._path.harness.plan(frame, flows)
        return self._path.harness.run(self._kind.wrapper, self._path.entry(self._kind.wrapper), count)[0]

    def prepare(self) -> None:
        """Add the service, and make the connections that must survive."""
        # A NAT service has one server, whose replies the harness can write.
        servers = 1 if self._kind.method == Method.MASQ else site.SERVERS
        Served(VirtualService(self._key, "rr"), self._kind.method, servers).add_to(self._path.director)
        chunk = min(1 << 14, half_opens(self._size.capacity) // 16)
        for first in range(0, self._established, chunk):
            self._path.forget_half_open()
            for flags in SYN, ACK, ACK:  # twice: every 16 seconds XDP leaves a packet to the kernel
                self._send(_ESTABLISHED, flags, Flows(_WALK, first, IN_ORDER), chunk)
        self._path.forget_half_open()

    def _flood(self, count: int, found: Found) -> None:
        found.cost.samples.append(self._send(_FLOOD, SYN, self._walk, count))
        self._walk = after(self._walk, count)

    def run(self, found: Found) -> Iterator[None]:
        """Flood the service; yield after each part."""
        part = self._size.capacity // _PART
        rounds = _TIMES * self._size.capacity // (4 * part)
        for number in range(rounds):
            if number < rounds * 4 // 5:  # the rest ends connections that were not confirmed
                self._open(part, found)
            else:
                self._flood(part, found)
            self._flood(3 * part, found)
            yield

    def _open(self, part: int, found: Found) -> None:
        """Open connections during a part of the flood: SYN, reply, ACK."""
        flows, count = Flows(_WALK, self._opened, IN_ORDER), self._size.opened
        self._send(_NEW, SYN, flows, count)
        self._flood(part // 2, found)
        if self._kind.method == Method.MASQ and self._kind.version == 4:
            self._translated += self._reply(flows, count)
        self._flood(part // 2, found)
        for _ in range(2):  # as above
            self._send(_NEW, ACK, flows, count)
        self._opened += count

    def _reply(self, flows: Flows, count: int) -> int:
        """Send a reply of the NAT server in each flow; return how many left translated."""
        before = self._path.counters(self._key).out_packets
        flags, mac = SYN | ACK, site.server_mac(1)
        frame = Frame(site.server(1), _NEW, NAT_PORT, CLIENT_PORT, flags, mac, self._kind.protocol)
        for _ in range(2 if self._kind.protocol == Protocol.TCP else 1):  # a second one of UDP confirms the connection
            self._path.harness.plan(frame, flows._replace(replies=True))
            self._path.harness.run(REPLIES, self._path.entry(REPLIES), count)
        return min(self._path.counters(self._key).out_packets - before, count)

    def servers(self, first: str) -> dict[tuple[str, int], str]:
        """Return the server of each connection that is not half-open, by client, of a group of clients."""
        begin, found = ip_address(self._address(first)), {}
        for connection in self._path.director.connections():
            number = int(connection.client) - int(begin)
            if 0 <= number < _GROUP and connection.state in ("ESTABLISHED", "UDP"):
                found[str(connection.client), connection.client_port] = str(connection.destination)
        return found

    def judge(self, before: dict[tuple[str, int], str], found: Found) -> None:
        """Count the survivors: in the table as before, and forwarded."""
        there = self.servers(_ESTABLISHED)
        same = sum(there.get(client) == server for client, server in before.items())
        counted = self._packets()
        self._send(_ESTABLISHED, ACK, Flows(_WALK, 0, IN_ORDER), self._established)
        sent = min(self._packets() - counted + 4 * site.SERVERS, self._established)  # the kernel got those, at most
        found.unharmed = min(same, sent) / self._established
        made = len(self.servers(_NEW))
        if self._translated:
            made = min(made, self._translated)
        found.successful = made / self._opened
        found.life = self._path.half_open()

    def _packets(self) -> int:
        return self._path.counters(self._key).in_packets


def measure_one(kind: Kind, size: Size, objects: katran.Objects | None, beside: dict[str, Measured]) -> Found:
    """Measure one flood, and with `objects` Katran in between."""
    progress(f"{kind.flood} to {kind.target}", "bench.flood")
    with new_path("flood", size.capacity) as path, ExitStack() as loaded:
        flood, found, overheads = Flood(path, kind, size), Found(kind), Overheads(path.harness)
        flood.prepare()
        before = flood.servers(_ESTABLISHED)
        program = None
        if objects:
            like = cases.Size(repeat=size.repeat, flows=1 << 14, new=30_000, katran_flows=size.capacity)
            program = loaded.enter_context(katran.loaded(objects, path.harness, like, progress))
        for number, _ in enumerate(flood.run(found)):
            if number % _OTHERS:
                continue
            overheads.measure(size.repeat, _WALK)
            for sample in program.measure() if program else ():
                of = beside.setdefault(sample.name, Measured())
                of.samples.append(sample.spent)
                of.overhead_ns = overheads.of(sample.wrapper)
        found.cost.overhead_ns = overheads.of(kind.wrapper)
        flood.judge(before, found)
        return found


def measure(size: Size, tree: Path | None) -> tuple[list[Found], dict[str, Measured]]:
    """Measure all floods; with Katran's source tree, also Katran, during the first one."""
    found: list[Found] = []
    beside: dict[str, Measured] = {}
    with ExitStack() as closing:
        objects = closing.enter_context(katran.built(tree)) if tree else None
        for kind in kinds():
            found.append(measure_one(kind, size, None if found else objects, beside))
    return found, beside


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser("bench.flood", description="Flood a small table; count the surviving connections.")
    parser.add_argument("--quick", action="store_true", help="a small table: does it run at all")
    parser.add_argument("--katran", type=Path, metavar="DIR", help="measure Katran of this source tree beside")
    given = parser.parse_args(words)
    size = QUICK if given.quick else Size()

    def run() -> int:
        need_root("it makes tables in the kernel: run it as root")
        found, beside = measure(size, given.katran)
        print(*report.aligned([_HEADINGS, *(each.cells() for each in found)]), sep="\n")
        for name, text in _BESIDE.items():
            if name in beside:
                print(f"{text}: {beside[name].net:.0f} ns a packet")
        print(*report.footer(record.machine(), {}), sep="\n")
        return int(any(each.verdict for each in found))

    return status_of("bench.flood", run)


if __name__ == "__main__":
    sys.exit(main())
