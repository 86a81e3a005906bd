"""Measure the gain of a second processor: both process packets of the same service, each with its own flows.

A gain compares the two together with one alone, by the processor time of each. The gain of the floor in the same round
shows what the machine itself allows.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import mean, median

from bench import site
from bench.cases import Served, key, request
from bench.frames import ACK, IN_ORDER, SCATTERED, SYN, Flows
from bench.harness import FLOWS, WrongPath
from bench.path import Overheads, PacketPath, new_path
from bench.program import Progress
from bench.rows import Measured
from pylvs.cli.meter import on_cpus
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.service import VirtualService

_PORT = 80
_CLIENTS = ("10.128.0.0", "10.132.0.0")  # of each processor's established flows,
_NEW_CLIENTS = ("10.160.0.0", "10.164.0.0")  # and of its new ones
_NEW_WALK = 1 << 22
ATTEMPTS = 500  # in all, in which a busy machine may fail to run both processors at once
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = 9
    flows: int = 1024  # established, a processor; a power of two
    chunk: int = 200_000  # packets between two reads of the clock
    new: int = 4_000  # connections between two reads of the clock
    chunks: int = 8

    @property
    def capacity(self) -> int:
        """Return a capacity of the connection table that the bench does not exhaust."""
        return 2 * self.flows + 4 * self.new * self.chunks * (self.rounds + 1 + ATTEMPTS) + 32768


QUICK = Size(rounds=2, chunk=20_000, new=1_000, chunks=3)


def two_cpus() -> tuple[int, int] | None:
    """Return two processors that this process may use, if possible of different cores; None if it has one."""
    cpus = sorted(os.sched_getaffinity(0), reverse=True)
    if len(cpus) < 2:
        return None
    return cpus[0], next((cpu for cpu in cpus[1:] if _siblings(cpu) != _siblings(cpus[0])), cpus[1])


def _siblings(cpu: int) -> str:
    try:
        with open(_SIBLINGS.format(cpu), encoding="ascii") as file:
            return file.read()
    except OSError:
        return str(cpu)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some packets: their time, and the ns of each."""

    began_ns: int
    ended_ns: int
    cost_ns: float


class TooBusy(WrongPath):
    """Other programs kept a processor from its work."""


def overlapping(all_chunks: Sequence[Sequence[Chunk]]) -> list[float]:
    """Return the mean cost on each processor while all were busy. Raises TooBusy if they never were."""
    began = max(chunks[0].began_ns for chunks in all_chunks)
    ended = min(chunks[-1].ended_ns for chunks in all_chunks)
    costs = []
    for chunks in all_chunks:
        together = [each.cost_ns for each in chunks if began <= (each.began_ns + each.ended_ns) // 2 <= ended]
        if not together:
            raise TooBusy("two processors were never at work at once: this machine is too busy")
        costs.append(mean(together))
    return costs


def gain(alone_ns: Sequence[float], together_ns: Sequence[float]) -> float:
    """Return how many times as many packets both process as one alone."""
    return sum(1 / each for each in together_ns) / mean(1 / each for each in alone_ns)


class Cores:
    """A service, its flows, and the threads that measure."""

    def __init__(self, size: Size, path: PacketPath, cpus: tuple[int, int]) -> None:
        self.size = size
        self.path = path
        self.cpus = cpus
        self._new = 0  # connections made by each processor
        self._attempts = ATTEMPTS

    def serve(self) -> None:
        """The service and the established flows of both processors."""
        with self.path.director.batch():
            Served(VirtualService(key(_PORT), "rr"), servers=site.SERVERS).add_to(self.path.director)
        self.path.harness.aim(FLOWS, self.path.entry(FLOWS))
        for flags in SYN, ACK:
            self._plan(flags, _CLIENTS, Flows(self.size.flows, 0, IN_ORDER))
            for cpu in self.cpus:
                with on_cpus({cpu}):
                    self.path.harness.go(FLOWS, self.size.flows)

    def _plan(self, flags: int, clients: Sequence[str], flows: Flows) -> None:
        self.path.harness.plan_each(
            {cpu: (request(_PORT, flags, clients[number]), flows) for number, cpu in enumerate(self.cpus)}
        )

    def _work(self, cpu: int, start: threading.Barrier, repeat: int, into: list[Chunk]) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread
        start.wait()
        for _ in range(self.size.chunks):
            if start.broken:
                return
            began = time.monotonic_ns()
            cost, _ = self.path.harness.go(FLOWS, repeat)
            into.append(Chunk(began, time.monotonic_ns(), cost))

    def _at_once(self, cpus: Sequence[int], repeat: int) -> list[float]:
        """Nanoseconds of a packet on each of these processors at work together."""
        start = threading.Barrier(len(cpus))
        found: list[list[Chunk]] = [[] for _ in cpus]
        threads = [
            threading.Thread(target=self._work, args=(cpu, start, repeat, into))
            for cpu, into in zip(cpus, found, strict=True)
        ]
        try:
            for each in threads:
                each.start()
            for each in threads:
                each.join()
        except BaseException:
            start.abort()
            for thread in threads:
                if thread.ident:
                    thread.join()
            raise
        if not all(found):
            raise PylvsError("a thread that measures ended early")
        return overlapping(found)

    def _costs(self, repeat: int, overhead_ns: float, plan: Callable[[], None]) -> tuple[list[float], list[float]]:
        """Return the ns of a packet on each processor alone, and on both at once. Raises WrongPath."""
        costs = []
        for cpus in self.cpus[:1], self.cpus, self.cpus[1:]:
            measured = None
            while measured is None:
                plan()
                self.path.harness.wait_uncounted()
                try:
                    measured = self._at_once(cpus, repeat)
                except TooBusy:
                    self._attempts -= 1
                    if not self._attempts:
                        raise
            costs.append([each - overhead_ns for each in measured])
        first, together, second = costs
        return first + second, together

    def _gain(self, repeat: int, overhead_ns: float, plan: Callable[[], None]) -> float:
        """Return the gain of the program under test, without the harness's own cost. Raises WrongPath."""
        return gain(*self._costs(repeat, overhead_ns, plan))

    def _plan_established(self) -> None:
        self._plan(ACK, _CLIENTS, Flows(self.size.flows, 0, SCATTERED))

    def _plan_new(self) -> None:
        self._plan(SYN, _NEW_CLIENTS, Flows(_NEW_WALK, self._new, IN_ORDER))
        self._new += self.size.chunks * self.size.new

    def run(self, progress: Progress) -> dict[str, Measured]:
        """Return the results by row. Raises WrongPath."""
        established, new = Measured(), Measured()
        overheads, size = Overheads(self.path.harness), self.size
        for number in range(size.rounds + 1):
            progress(f"cores: round {number} of {size.rounds}" if number else "cores: warming up")
            overheads.measure(size.chunk, size.flows)
            overhead = overheads.of(FLOWS)
            self.path.harness.aim(FLOWS, self.path.harness.own(FLOWS.hook.swap))
            floor = self._gain(size.chunk, overhead, self._plan_established)
            self.path.harness.aim(FLOWS, self.path.entry(FLOWS))
            packets, (_, ever) = self._packets(), self.path.connections(key(_PORT))
            established.samples.append(self._gain(size.chunk, overhead, self._plan_established))
            self._check("established", self._packets() - packets, 4 * size.chunks * size.chunk)
            new.samples.append(self._gain(size.new, overhead, self._plan_new))
            made = self.path.connections(key(_PORT))[1] - ever
            self._check("new", made, 4 * size.chunks * size.new)
            for each in established, new:
                each.beside.append(floor)
        for each in established, new:
            del each.samples[0], each.beside[0]
        return {"cores_established": established, "cores_new": new}

    def costs(self, progress: Progress) -> dict[str, tuple[float, float]]:
        """Return the ns of an established and of a new packet: on one processor, and on each of two at once."""
        overheads, size = Overheads(self.path.harness), self.size
        found: dict[str, list[tuple[float, float]]] = {"established": [], "new": []}
        for number in range(size.rounds + 1):
            progress(f"processors: round {number} of {size.rounds}")
            overheads.measure(size.chunk, size.flows)
            self.path.harness.aim(FLOWS, self.path.entry(FLOWS))
            for name, repeat, plan in (
                ("established", size.chunk, self._plan_established),
                ("new", size.new, self._plan_new),
            ):
                alone, together = self._costs(repeat, overheads.of(FLOWS), plan)
                found[name].append((mean(alone), mean(together)))
        return {
            name: (median(each for each, _ in samples[1:]), median(each for _, each in samples[1:]))
            for name, samples in found.items()
        }

    def _packets(self) -> int:
        return self.path.counters(key(_PORT)).in_packets

    def _check(self, name: str, counted: int, wanted: int) -> None:
        if counted < wanted * 0.99:
            raise WrongPath(f"two processors, {name}: packets: {counted} of {wanted}: {self.path.reasons()}")


@contextmanager
def serving(size: Size, cpus: tuple[int, int], progress: Progress) -> Iterator[Cores]:
    """Yield two processors with a service and their flows. Raises what loading raises."""
    progress("cores: making the tables")
    with new_path("cores", size.capacity) as path:
        cores = Cores(size, path, cpus)
        cores.serve()
        yield cores


def measure(size: Size, progress: Progress) -> dict[str, Measured]:
    """Return the results by row; none on a machine with one processor. Raises WrongPath, and what loading raises."""
    cpus = two_cpus()
    if cpus is None:
        return {}
    with serving(size, cpus, progress) as cores:
        return cores.run(progress)
