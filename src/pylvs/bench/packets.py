"""What a packet costs: the director's XDP program on made-up frames, each case beside the floor of the same round."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from pylvs.bench import probe, site
from pylvs.bench.probe import ACK, IN_ORDER, SCATTERED, SYN, XDP_PASS, XDP_REDIRECT, XDP_TX, Flows, Frame, WrongPath
from pylvs.bench.rows import FLOOR, Measured
from pylvs.dataplane import abi, follow, load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.libbpf import open_pin
from pylvs.dataplane.state import State
from pylvs.model.destination import Destination, DestinationKey, Method
from pylvs.model.errors import Unsupported
from pylvs.model.service import Protocol, ServiceKey, VirtualService

CLIENT = "198.18.0.7"
MANY_CLIENTS = "10.128.0.0"  # the first client of the random flows
NEW_CLIENTS = "10.160.0.0"  # and of the new ones
NEW_WALK = 1 << 24  # new flows before one comes twice
CLIENT_PORT = 40000
DR, TUN, NAT, MANY = 80, 81, 82, 83  # ports of the services
NAT_PORT = 8080  # of the real server
_SENT = (XDP_TX, XDP_REDIRECT)
_MISSED = 0.001  # of all packets may go up: XDP asks for the next hop once a second, and lets the kernel see some
_OVERHEADS = ("bench_same", "bench_flows", "bench_shrink")
_SAME, _FLOWS, _SHRINK = _OVERHEADS


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = 9
    repeat: int = 1_000_000
    flows: int = 1 << 20  # a power of two
    new: int = 80_000  # connections in a round; with these the table has 2 million buckets

    @property
    def capacity(self) -> int:
        """Of the connection table: never full."""
        return self.flows + self.new * (self.rounds + 2) + 65536


QUICK = Size(rounds=3, repeat=20_000, flows=1 << 14, new=2_000)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: the harness's program, the frame, and how its packets are known to have gone the right way."""

    name: str
    wrapper: str
    frame: Frame
    verdicts: tuple[int, ...] = _SENT
    service: int = 0  # its port; 0: none counts them
    replies: bool = False
    flows: Flows | None = None


def _key(port: int) -> ServiceKey:
    return ServiceKey(Protocol.TCP, ip_address(site.VIP), port)


def _request(port: int, flags: int = ACK, source: str = CLIENT) -> Frame:
    return Frame(source, site.VIP, CLIENT_PORT, port, flags)


def _cases(size: Size) -> list[Case]:
    reply = Frame(site.server(1), CLIENT, NAT_PORT, CLIENT_PORT, ACK, site.server_mac(1))
    many = Flows(size.flows, 0, SCATTERED)
    return [
        Case("no_service", _SAME, Frame(CLIENT, site.OWN, CLIENT_PORT, 22), (XDP_PASS,)),
        Case("one_dr", _SAME, _request(DR), service=DR),
        Case("one_tun", _SHRINK, _request(TUN), service=TUN),
        Case("nat_forth", _SAME, _request(NAT), service=NAT),
        Case("nat_back", _SAME, reply, service=NAT, replies=True),
        Case("many_dr", _FLOWS, _request(MANY, source=MANY_CLIENTS), service=MANY, flows=many),
    ]


class Bench:
    """A Director with its services and connections, and the harness."""

    def __init__(self, size: Size, director: BpfDirector, harness: probe.Probe, path: int) -> None:
        self.size = size
        self.director = director
        self.harness = harness
        self.path = path  # descriptor of the entry program
        self.results: dict[str, Measured] = {}
        self._overheads: dict[str, Measured] = {name: Measured() for name in _OVERHEADS}
        self._swap_alone, self._empty_alone = Measured(), Measured()
        self._new = 0  # flows made so far

    # --- setting up ---

    def serve(self) -> None:
        """The services, each with servers that nothing but their method tells apart."""
        for port, method, servers in (
            (DR, Method.ROUTE, 1),
            (TUN, Method.TUNNEL, 1),
            (NAT, Method.MASQ, 1),
            (MANY, Method.ROUTE, site.SERVERS),
        ):
            self.director.add_service(VirtualService(_key(port), "rr"))
            for number in range(1, servers + 1):
                at = DestinationKey(ip_address(site.server(number)), NAT_PORT if method == Method.MASQ else port)
                self.director.add_destination(_key(port), Destination(at, method))

    def connect(self) -> None:
        """The connections whose packets are measured: a SYN and an ACK each."""
        for port in DR, TUN, NAT:
            for flags in SYN, ACK, ACK:
                self.harness.plan(_request(port, flags))
                self.harness.run(_SHRINK, self.path, 2)
        for flags in SYN, ACK:
            frame = _request(MANY, flags, MANY_CLIENTS)
            self.harness.plan(frame, Flows(self.size.flows, 0, IN_ORDER))
            self.harness.run(_FLOWS, self.path, self.size.flows)
        row = self.director.service(_key(MANY))
        there = sum(each.active for each in row.destinations)
        if there != self.size.flows:
            raise WrongPath(f"{self.size.flows} connections were to be made, {there} are there")

    # --- measuring ---

    def _packets(self, case: Case) -> int:
        if not case.service:
            return 0
        row = self.director.service(_key(case.service)).counters
        return row.out_packets if case.replies else row.in_packets

    def measure(self, case: Case) -> float:
        """Nanoseconds of a round of a case, the harness included. Raises WrongPath."""
        before = self._packets(case)
        self.harness.plan(case.frame, case.flows)
        spent, last = self.harness.run(case.wrapper, self.path, self.size.repeat)
        counted = self._packets(case) - before
        wrong = last.verdict not in (*case.verdicts, XDP_PASS)
        if wrong or (case.service and counted < self.size.repeat * (1 - _MISSED) - 2):
            went = f"verdict {last.verdict}, {counted} of {self.size.repeat} packets counted"
            raise WrongPath(f"{case.name}: {went}: {self._reasons()}")
        return spent

    def _reasons(self) -> str:
        names = [name for name in abi.shipped().enum("reason") if name not in ("REASONS", "REASON_NONE")]
        counted = {name: self.director.tables.reasons.sums(abi.constant(name))[0] for name in names}
        return ", ".join(f"{name.removeprefix('REASON_').lower()} {count}" for name, count in counted.items() if count)

    def measure_new(self) -> float:
        """Nanoseconds of a packet that makes a connection, the harness included. Raises WrongPath."""
        before = self.director.service(_key(MANY))
        flows = Flows(NEW_WALK, self._new, IN_ORDER)
        self.harness.plan(_request(MANY, SYN, NEW_CLIENTS), flows)
        spent, _ = self.harness.run(_FLOWS, self.path, self.size.new)
        self._new += self.size.new
        made = self._connections() - sum(each.active + each.inactive for each in before.destinations)
        if made != self.size.new:
            raise WrongPath(f"new_dr: {made} of {self.size.new} connections were made: {self._reasons()}")
        return spent

    def _connections(self) -> int:
        row = self.director.service(_key(MANY))
        return sum(each.active + each.inactive for each in row.destinations)

    def _measure_harness(self) -> None:
        """The floor, and what the harness itself costs."""
        run, own, repeat = self.harness.run, self.harness.own, self.size.repeat
        plain = _request(DR)
        self.harness.plan(plain)
        empty_alone = self.harness.run_alone(own("bench_empty"), repeat)
        self._empty_alone.samples.append(empty_alone)
        self._swap_alone.samples.append(self.harness.run_alone(own("bench_swap"), repeat))
        for wrapper in _OVERHEADS:
            self.harness.plan(plain, Flows(self.size.flows, 0, SCATTERED))
            spent, _ = run(wrapper, own("bench_empty"), repeat)
            if wrapper == _SHRINK:  # half of a pair, one that takes off and one that puts in front
                grown, _ = run(wrapper, own("bench_grow"), repeat)
                spent += (grown - spent) / 2
            self._overheads[wrapper].samples.append(spent - empty_alone)
        self.harness.plan(plain)
        spent, _ = run(_SAME, own("bench_swap"), repeat)
        self.results.setdefault(FLOOR, Measured()).samples.append(spent)

    def run(self, progress: Callable[[str], None]) -> dict[str, Measured]:
        """All cases, round after round, so that what else the machine does touches them alike."""
        cases = _cases(self.size)
        for number in range(self.size.rounds + 1):
            progress(f"packets: round {number} of {self.size.rounds}" if number else "packets: warming up")
            self._measure_harness()
            for case in cases:
                self.results.setdefault(case.name, Measured()).samples.append(self.measure(case))
            self.results.setdefault("new_dr", Measured()).samples.append(self.measure_new())
        for found in (*self.results.values(), *self._overheads.values(), self._empty_alone, self._swap_alone):
            del found.samples[0]
        self.results[FLOOR].overhead_ns = self._overheads[_SAME].raw
        self.results["new_dr"].overhead_ns = self._overheads[_FLOWS].raw
        for case in cases:
            self.results[case.name].overhead_ns = self._overheads[case.wrapper].raw
        return self.results

    def harness_ns(self) -> dict[str, float]:
        """What the harness costs, and two programs without it."""
        return {name: found.raw for name, found in self._overheads.items()} | {
            "bench_empty alone": self._empty_alone.raw,
            "bench_swap alone": self._swap_alone.raw,
        }

    # --- memory ---

    def connection_bytes(self) -> Measured:
        """Bytes of kernel memory that the table takes for each connection, of IPv4 without NAT."""
        total = 0
        for name in ("connections4", "looks", "registry", "words", "free_slots"):
            descriptor = open_pin(self.director.tables.path(name))
            if descriptor is None:
                raise Unsupported(f"map {name} is not pinned")
            try:
                total += _memory_of(descriptor)
            finally:
                os.close(descriptor)
        return Measured([total / self.size.capacity])


def _memory_of(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        for line in file:
            if line.startswith("memlock:"):
                return int(line.split()[1])
    return 0


@contextmanager
def ready(size: Size, progress: Callable[[str], None]) -> Iterator[Bench]:
    """Everything made and connected; the namespace is left and gone afterwards. Raises what loading raises."""
    with site.new_site("packets"), probe.on_one_cpu(), probe.loaded() as harness, ExitStack() as closing:
        progress("packets: making the tables")
        director = BpfDirector(State.open())
        director.make()
        director.change_setting("conn_max", size.capacity)
        with director.batch():
            follow.request(director.reader, site.DEVICE, "generic")
        path = open_pin(director.state.pin_path(load.ENTRIES[0]))
        if path is None:
            raise Unsupported(f"{load.ENTRIES[0]} is not pinned")
        closing.callback(os.close, path)
        bench = Bench(size, director, harness, path)
        bench.serve()
        progress(f"packets: making {size.flows:,} connections")
        bench.connect()
        yield bench
