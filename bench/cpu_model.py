"""Model the packets a second of many processors: `python -m bench.cpu_model`.

This machine has few processors, so a simulation extends what it measures. Each simulated processor does its private
work, whose time is measured. Then it accesses the cache lines that processors share. A processor that writes such a
line takes it from the last writer. Moves of one line follow each other: that is what limits many processors.

Measured: the cost of a packet on one processor, and the time in which a line moves between two. Assumed: the time
between nodes, because this machine has one (`--remote-ns`). Not modelled: the bandwidth of memory, the receive queues.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from bench import cores
from bench.processes import compile_c, run
from bench.program import need_root, progress, status_of
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import Unsupported

SOURCE = Path(__file__).with_name("transfer.c")
ROUNDS = 20_000  # increments of each thread: short, for a run that nothing interrupts
TRIALS = 50
OWN_NS = 5.0  # an atomic operation on a line in the processor's own cache
REMOTE_FACTOR = 2.2  # between nodes, compared with within one: 90 to 200 ns on two-socket EPYC and Xeon
PACKETS = 3000  # a simulated processor
COUNTS = "counts of a server"
SIZES = ((2, 1), (8, 1), (32, 1), (64, 2))  # processors and nodes


@dataclass(frozen=True, slots=True)
class Latencies:
    """Nanoseconds in which a processor gets a line that is its own, that is in its node, in the other node."""

    own: float
    node: float
    remote: float


@dataclass(slots=True)
class Line:
    """A shared cache line: who wrote it last, who has a copy, and when it can move again."""

    owner: int = -1
    copies: set[int] = field(default_factory=set)
    free_ns: float = 0.0


@dataclass(frozen=True, slots=True)
class Access:
    """Accesses of one packet to shared lines: of one among `lines`, or of `all_lines`, which are read."""

    name: str
    lines: int
    all_lines: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """What each packet does: `private_ns` of its own, then these accesses."""

    name: str
    private_ns: float
    accesses: tuple[Access, ...] = ()


class Machine:
    """Processors in two nodes, and their shared lines."""

    def __init__(self, processors: int, nodes: int, latencies: Latencies, seed: int = 1) -> None:
        self._processors = processors
        self._latencies = latencies
        self._node = [number * nodes // processors for number in range(processors)]
        self._chance = Random(seed)

    def _distance(self, one: int, other: int) -> float:
        near = self._node[one] == self._node[other]
        return self._latencies.node if near else self._latencies.remote

    def _write(self, line: Line, processor: int, now: float) -> float:
        begin = max(now, line.free_ns)
        others = (line.copies | {line.owner}) - {processor, -1}
        line.free_ns = begin + max((self._distance(processor, each) for each in others), default=self._latencies.own)
        line.owner, line.copies = processor, {processor}
        return line.free_ns

    def _read(self, line: Line, processor: int, now: float) -> float:
        if processor in line.copies or line.owner < 0:
            return now
        line.copies.add(processor)
        return max(now, line.free_ns) + self._distance(processor, line.owner)

    def rate(self, workload: Workload, packets: int = PACKETS) -> float:
        """Return the packets a second of all processors together."""
        groups = {each.name: [Line() for _ in range(each.lines)] for each in workload.accesses}
        heap = [(self._chance.random() * workload.private_ns, number, 0) for number in range(self._processors)]
        heapq.heapify(heap)
        now = 0.0
        for _ in range(packets * self._processors):
            now, processor, step = heapq.heappop(heap)
            now += workload.private_ns
            for access in workload.accesses:
                lines = groups[access.name]
                if access.all_lines:
                    for line in lines:
                        now = self._read(line, processor, now)
                else:
                    now = self._write(self._chance.choice(lines), processor, now)
            heapq.heappush(heap, (now, processor, step + 1))
        ends = sorted(heap)
        return sum(step for _, _, step in ends) / (sum(end for end, _, _ in ends) / len(ends)) * 1e9


def workloads(established_ns: float, new_ns: float, own_ns: float = OWN_NS) -> list[Workload]:
    """Return what is modelled, from the measured cost of one processor, whose shared lines stay in its cache."""
    cursor, few, many = Access("cursor of a service", 1), Access(COUNTS, 4), Access(COUNTS, 64)
    private = new_ns - 2 * own_ns
    return [
        Workload("established", established_ns),
        Workload("new, rr, 4 servers", private, (cursor, few)),
        Workload("new, rr, 64 servers", private, (cursor, many)),
        Workload("new, sh or mh, 64 servers", private + own_ns, (many,)),
        Workload("new, wlc, 4 servers", private + own_ns, (Access(COUNTS, 4, all_lines=True), few)),
        # SYN, ACK, eight packets, FIN: a server's counts change at each change of state.
        Workload("connections of 11 packets, rr, 64 servers", new_ns + 10 * established_ns, (cursor, many, many, many)),
    ]


def transfer_ns(cpus: tuple[int, int]) -> float:
    """Return the least time in which a line moves between two processors. Raises Unsupported."""
    with TemporaryDirectory() as directory:
        program = compile_c(SOURCE, Path(directory) / "transfer", "-pthread")
        return min(float(run(str(program), *map(str, cpus), str(ROUNDS))) for _ in range(TRIALS))


def table(all_workloads: Sequence[Workload], latencies: Latencies, sizes: Sequence[tuple[int, int]]) -> list[list[str]]:
    """Return rows of text: the workload, then million packets a second and the gain for each (processors, nodes)."""
    rows = []
    for workload in all_workloads:
        alone = Machine(1, 1, latencies).rate(workload)
        cells = [f"{alone / 1e6:.2f}"]
        for processors, nodes in sizes:
            rate = Machine(processors, nodes, latencies).rate(workload)
            cells.append(f"{rate / 1e6:.1f} ({rate / alone:.1f} x)")
        rows.append([workload.name, *cells])
    return rows


def _print(title: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (title, ["---"] + ["---:"] * (len(title) - 1), *rows):
        print(f"| {' | '.join(row)} |")


def _run(given: argparse.Namespace) -> int:
    need_root("it loads eBPF and makes network namespaces: run it as root")
    cpus = cores.two_cpus()
    if cpus is None:
        raise Unsupported("this machine has one processor: nothing to compare the model with")
    with cores.serving(cores.QUICK if given.quick else cores.Size(), cpus, progress) as two:
        costs = two.costs(progress)
    node_ns = transfer_ns(cpus) if given.node_ns is None else given.node_ns
    remote_ns = REMOTE_FACTOR * node_ns if given.remote_ns is None else given.remote_ns
    latencies = Latencies(OWN_NS, node_ns, remote_ns)
    (established, _), (new, _) = costs["established"], costs["new"]
    modelled = workloads(established, new)
    _print(
        ["million packets a second", "1", *(f"{count} in {nodes}" for count, nodes in SIZES)],
        table(modelled, latencies, SIZES),
    )
    print()
    for name, workload in (("established", modelled[0]), ("new", modelled[1])):
        alone, together = costs[name]
        foreseen = Machine(2, 1, latencies).rate(workload) / Machine(1, 1, latencies).rate(workload)
        print(f"- two processors here, {name}: measured {2 * alone / together:.2f} x, modelled {foreseen:.2f} x")
    print(f"- a line moves in {node_ns:.0f} ns within a node, {remote_ns:.0f} ns between nodes (assumed)")
    print(f"- alone: established {established:.1f} ns, new {new:.1f} ns; gains are of one processor")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Measure, simulate, and print a table of Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu_model", description="Model many processors.")
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--node-ns", type=float, help="a line's move between processors of a node (default: measured)")
    parser.add_argument("--remote-ns", type=float, help=f"between nodes (default: {REMOTE_FACTOR} times that)")
    given = parser.parse_args(words)
    return status_of("bench", lambda: _run(given))


if __name__ == "__main__":
    sys.exit(main())
