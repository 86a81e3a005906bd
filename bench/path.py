"""The packet path in a namespace of its own, the harness before it, and what the harness itself costs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from bench import site
from bench.cases import plain
from bench.frames import SCATTERED, Flows
from bench.harness import TC, WRAPPERS, XDP, Harness, Hook, Wrapper, loaded
from bench.rows import Measured
from pylvs.bpf.libbpf import open_pin
from pylvs.bpf.maps import PerCpuArray
from pylvs.cli.meter import on_one_cpu
from pylvs.dataplane import state
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.load import buckets
from pylvs.dataplane.reader import reason_counts, summed, table_use
from pylvs.dataplane.state import State
from pylvs.model.errors import Unsupported
from pylvs.model.rows import Counters
from pylvs.model.service import ServiceKey

_ENTRIES = {XDP: state.XDP, TC: state.TC}


class PacketPath:
    """A Director, its programs, and the harness; in the network namespace of this file."""

    def __init__(self, namespace: str, director: BpfDirector, harness: Harness, closing: ExitStack) -> None:
        self.namespace = namespace
        self.director = director
        self.harness = harness
        self._closing = closing
        self._entries: dict[Hook, int] = {}
        self.open_programs()

    def open_programs(self) -> None:
        """Open the programs that run now: another capacity of the table has others."""
        for hook, name in _ENTRIES.items():
            self._entries[hook] = self._closing.enter_context(_opened(self.director.state.loaded_path(name), name))

    def entry(self, wrapper: Wrapper) -> int:
        """Return the descriptor of the program that gets the frames of this wrapper."""
        return self._entries[wrapper.hook]

    def reason(self, name: str) -> int:
        """Return how many packets had this reason of `enum reason`."""
        return reason_counts(self.director.tables)[name.removeprefix("REASON_").lower().replace("_", " ")]

    def reasons(self) -> str:
        """Return the counts of packets that were not merely forwarded, for messages."""
        counted = reason_counts(self.director.tables)
        return ", ".join(f"{name} {count}" for name, count in counted.items() if count)

    def connections(self, service: ServiceKey) -> tuple[int, int]:
        """Return how many connections a service has, and how many it ever had."""
        row = self.director.service(service)
        return sum(each.active + each.inactive for each in row.destinations), self.counters(service).connections

    def counters(self, service: ServiceKey) -> Counters:
        """Return what packets of a service have counted until now. Listings are up to two seconds behind."""
        slot, version = self.director.known(service)
        reader = self.director.reader
        return Counters(*summed(map(reader.statistics.counted, reader.owned(slot, version))))

    def forget_half_open(self) -> None:
        """Empty the ring of half-open connections, as after a minute: the next new connections end none of them."""
        ring = self.director.tables.half_open_ring
        ring.set(0, "first", ring.get(0, "end"))
        with PerCpuArray.open(self.director.tables.path("half_open_queues")) as queues:
            queues.fill(0, bytes(queues.value_size))

    def half_open(self) -> int:
        """Return how many positions the ring of half-open connections has in use."""
        ring = self.director.tables.half_open_ring
        return int(ring.get(0, "end") - ring.get(0, "first")) & 0xFFFFFFFF

    def half_open_in_table(self) -> int:
        """Return how many half-open connections the table has, those that left the rings included."""
        return table_use(self.director.tables).half_open

    def memory(self, maps: Iterable[str]) -> int:
        """Return the kernel memory of these maps in bytes. Raises Unsupported if one is not pinned."""
        total = 0
        for name in maps:
            with _opened(self.director.tables.path(name), name) as descriptor:
                total += _memory_of(descriptor)
        return total


@contextmanager
def _opened(pin: str, name: str) -> Iterator[int]:
    """What is pinned there. Raises Unsupported where nothing is."""
    descriptor = open_pin(pin)
    if descriptor is None:
        raise Unsupported(f"{name} is not pinned")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _memory_of(descriptor: int) -> int:
    """Return the kernel memory of a map in bytes."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        for line in file:
            if line.startswith("memlock:"):
                return int(line.split()[1])
    return 0


@contextmanager
def new_path(
    role: str, capacity: int, servers: int = site.SERVERS, shared: Harness | None = None, table_line: bool = False
) -> Iterator[PacketPath]:
    """Make a path for so many connections in a namespace; remove both afterwards. Raises what loading raises.

    It uses a harness of its own, or shares one. With `table_line` the harness has a table of the same size.
    """
    with site.new_site(role, servers) as namespace, on_one_cpu(), ExitStack() as closing:
        harness = shared or closing.enter_context(loaded(buckets(capacity) if table_line else 1))
        director = BpfDirector(State.open())
        director.change_setting("conn_max", capacity)
        with director.batch():
            attachments.request(director.tables, site.DEVICE, "generic")
        yield PacketPath(namespace, director, harness, closing)


class Overheads:
    """The cost of the harness: it jumps to programs that do nothing, and the cost of these alone is subtracted."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._by_name = {wrapper.name: Measured() for wrapper in WRAPPERS}
        self._alone = {name: Measured() for hook in (XDP, TC) for name in (hook.empty, hook.swap)}

    def of(self, wrapper: Wrapper) -> float:
        """Return the ns of a round."""
        return self._by_name[wrapper.name].raw

    def measure(self, repeat: int, flows: int) -> None:
        """Measure another round."""
        harness = self._harness
        for hook in XDP, TC:
            harness.plan(plain(4))
            for name in hook.empty, hook.swap:
                self._alone[name].samples.append(harness.run_alone(name, hook, repeat))
        for wrapper in WRAPPERS:
            harness.plan(plain(wrapper.version), Flows(flows, 0, SCATTERED) if wrapper.varies else None)
            spent, _ = harness.run(wrapper, harness.own(wrapper.hook.empty), repeat)
            if wrapper.shrinks:  # half of a pair, one that takes off and one that puts in front
                grown, _ = harness.run(wrapper, harness.own("bench_grow"), repeat)
                spent += (grown - spent) / 2
            self._by_name[wrapper.name].samples.append(spent - self._alone[wrapper.hook.empty].samples[-1])

    def measure_floor(self, wrapper: Wrapper, repeat: int) -> float:
        """Return the ns of a round of the harness with the floor."""
        self._harness.plan(plain(wrapper.version))
        return self._harness.run(wrapper, self._harness.own(wrapper.hook.swap), repeat)[0]

    def forget_first(self) -> None:
        """Delete the samples of the first round, which warmed up the machine."""
        for found in (*self._by_name.values(), *self._alone.values()):
            del found.samples[0]

    def all_ns(self) -> dict[str, float]:
        """Return the ns by program, including the empty ones without the harness."""
        return {name: found.raw for name, found in self._by_name.items()} | {
            f"{name} alone": found.raw for name, found in self._alone.items()
        }
