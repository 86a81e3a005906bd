"""New connections beyond the capacity of a full table, which pylvs forwards by a hash and does not store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench import site
from bench.cases import DR, MANY_CLIENTS, NEW_CLIENTS, NEW_WALK, Served, Size, key, request
from bench.frames import ACK, IN_ORDER, SYN, Flows
from bench.harness import FLOWS, Harness, Sample, WrongPath
from bench.path import PacketPath, new_path
from pylvs.model.service import VirtualService
from pylvs.system.namespaces import inside_network

CAPACITY = 16384
_SENT_TO_FILL = 2 * CAPACITY
_MISSED = 2 * site.SERVERS  # packets that XDP passes to the kernel, to ask for the next hops
_STATELESS, _ENDED = "REASON_TABLE_FULL_STATELESS", "REASON_HALF_OPEN_ENDED"


class FullTable:
    """A small table without a free entry, all of it established."""

    def __init__(self, path: PacketPath, size: Size) -> None:
        self._path = path
        self._size = size
        self._new = 0  # flows sent so far

    def fill(self) -> None:
        """Make connections until the table is full. Raises WrongPath."""
        Served(VirtualService(key(DR), "rr"), servers=site.SERVERS).add_to(self._path.director)
        for flow in range(CAPACITY + _MISSED):  # one by one: in a table that fills, half-open connections end
            for flags in SYN, ACK:
                self._path.harness.plan(request(DR, flags, MANY_CLIENTS), Flows(_SENT_TO_FILL, flow, IN_ORDER))
                self._path.harness.run(FLOWS, self._path.entry(FLOWS), 1)
        there, _ = self._path.connections(key(DR))
        if there > CAPACITY or not self._path.reason(_STATELESS):
            raise WrongPath(f"connections: {there}, expected: a full table of {CAPACITY}: {self._path.reasons()}")

    def measure(self) -> Iterator[Sample]:
        """Measure another round. Raises WrongPath."""
        number, path = self._size.new, self._path
        with inside_network(path.namespace):
            _, ever = path.connections(key(DR))
            before = path.reason(_STATELESS)
            path.harness.plan(request(DR, SYN, NEW_CLIENTS), Flows(NEW_WALK, self._new, IN_ORDER))
            spent, last = path.harness.run(FLOWS, path.entry(FLOWS), number)
            self._new += number
            forwarded, made = path.reason(_STATELESS) - before, path.connections(key(DR))[1] - ever
        if forwarded < number - _MISSED or made > _MISSED:
            went = f"verdict {last.verdict}, forwarded by a hash: {forwarded} of {number}, stored: {made}"
            raise WrongPath(f"new_full: {went}: {path.reasons()}")
        yield Sample("new_full", FLOWS, spent)


class Flood(FullTable):
    """A small table that fills with half-open connections: each new one ends the oldest."""

    def fill(self) -> None:
        """Make half-open connections until new ones end them. Raises WrongPath."""
        Served(VirtualService(key(DR), "rr"), servers=site.SERVERS).add_to(self._path.director)
        self._send(_SENT_TO_FILL)
        if not self._path.reason(_ENDED):
            raise WrongPath(f"a flood of {_SENT_TO_FILL} SYN ended no connection: {self._path.reasons()}")

    def _send(self, number: int) -> float:
        path = self._path
        path.harness.plan(request(DR, SYN, NEW_CLIENTS), Flows(NEW_WALK, self._new, IN_ORDER))
        spent, _ = path.harness.run(FLOWS, path.entry(FLOWS), number)
        self._new += number
        return spent

    def measure(self) -> Iterator[Sample]:
        """Measure another round. Raises WrongPath."""
        path = self._path
        with inside_network(path.namespace):
            before = path.reason(_ENDED)
            spent = self._send(self._size.new)
            ended = path.reason(_ENDED) - before
        if ended < self._size.new - _MISSED:
            raise WrongPath(f"new_flood: ended {ended} of {self._size.new}: {path.reasons()}")
        yield Sample("new_flood", FLOWS, spent)


@contextmanager
def full_table(kind: type[FullTable], harness: Harness, size: Size) -> Iterator[FullTable]:
    """Make a full table in a namespace of its own, and enter it. Raises what loading raises."""
    with new_path(kind.__name__.lower(), CAPACITY, shared=harness) as path:
        table = kind(path, size)
        table.fill()
        yield table
