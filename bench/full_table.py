"""New connections beyond the capacity of a full table, which pylvs forwards by a hash and does not store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench import site
from bench.cases import (
    DR,
    MANY_CLIENTS,
    MANY_CLIENTS6,
    NEW_CLIENTS,
    NEW_CLIENTS6,
    NEW_WALK,
    SIX,
    Served,
    Size,
    key,
    request,
)
from bench.frames import ACK, IN_ORDER, SYN, Flows
from bench.harness import FLOWS, FLOWS6, Harness, Sample, WrongPath
from bench.path import PacketPath, new_path
from pylvs.model.service import VirtualService
from pylvs.system.namespaces import inside_network

CAPACITY = 16384
_SENT_TO_FILL = 2 * CAPACITY
_ATTEMPTS = 5  # to send a round without a pause
_MISSED = 2 * site.SERVERS  # packets that XDP passes to the kernel, to ask for the next hops
_STATELESS, _FLOODED, _ENDED = "REASON_TABLE_FULL_STATELESS", "REASON_FLOOD_STATELESS", "REASON_HALF_OPEN_ENDED"


class FullTable:
    """A small table without a free entry, all of it established."""

    row = "new_full"

    def __init__(self, path: PacketPath, size: Size, version: int) -> None:
        self._path = path
        self._size = size
        self._new = 0  # flows sent so far
        four = version == 4
        self._port, self._wrapper = (DR, FLOWS) if four else (SIX, FLOWS6)
        self._clients, self._fillers = (NEW_CLIENTS, MANY_CLIENTS) if four else (NEW_CLIENTS6, MANY_CLIENTS6)
        self._name = self.row if four else f"{self.row}6"

    def fill(self) -> None:
        """Make connections until the table is full. Raises WrongPath."""
        self._serve()
        for flow in range(CAPACITY + _MISSED):  # one by one: in a table that fills, half-open connections end
            for flags in SYN, ACK:
                flows = Flows(_SENT_TO_FILL, flow, IN_ORDER)
                self._path.harness.plan(request(self._port, flags, self._fillers), flows)
                self._path.harness.run(self._wrapper, self._path.entry(self._wrapper), 1)
        there, _ = self._path.connections(key(self._port))
        if there > CAPACITY or not self._path.reason(_STATELESS):
            raise WrongPath(f"connections: {there}, expected: a full table of {CAPACITY}: {self._path.reasons()}")

    def _serve(self) -> None:
        Served(VirtualService(key(self._port), "rr"), servers=site.SERVERS).add_to(self._path.director)

    def _send(self, number: int) -> float:
        path = self._path
        path.harness.plan(request(self._port, SYN, self._clients), Flows(NEW_WALK, self._new, IN_ORDER))
        spent, _ = path.harness.run(self._wrapper, path.entry(self._wrapper), number)
        self._new += number
        return spent

    def measure(self) -> Iterator[Sample]:
        """Measure another round. Raises WrongPath."""
        number, path = self._size.repeat, self._path
        with inside_network(path.namespace):
            _, ever = path.connections(key(self._port))
            before = path.reason(_STATELESS)
            spent = self._send(number)
            forwarded, made = path.reason(_STATELESS) - before, path.connections(key(self._port))[1] - ever
        if forwarded < number - _MISSED or made > _MISSED:
            went = f"forwarded by a hash: {forwarded} of {number}, stored: {made}"
            raise WrongPath(f"{self._name}: {went}: {path.reasons()}")
        yield Sample(self._name, self._wrapper, spent)


class Flood(FullTable):
    """A small table that fills with half-open connections: a new one ends the oldest, or is forwarded by a hash."""

    row = "new_flood"

    def fill(self) -> None:
        """Make half-open connections until new ones end them. Raises WrongPath."""
        self._serve()
        self._send(_SENT_TO_FILL)
        if not self._path.reason(_ENDED):
            raise WrongPath(f"a flood of {_SENT_TO_FILL} SYN ended no connection: {self._path.reasons()}")

    def measure(self) -> Iterator[Sample]:
        """Measure another round. Raises WrongPath.

        During a pause before it, timers end half-open connections. A round that fills their places is not measured.
        """
        number, path = self._size.repeat, self._path
        met = 0
        for _ in range(_ATTEMPTS):
            with inside_network(path.namespace):
                before = path.reason(_ENDED) + path.reason(_FLOODED)
                spent = self._send(number)
                met = path.reason(_ENDED) + path.reason(_FLOODED) - before
            if met >= number - _MISSED:
                yield Sample(self._name, self._wrapper, spent)
                return
        raise WrongPath(f"{self._name}: ended, or without a connection: {met} of {number}: {path.reasons()}")


@contextmanager
def full_table(kind: type[FullTable], harness: Harness, size: Size, version: int) -> Iterator[FullTable]:
    """Make a full table in a namespace of its own, and enter it. Raises what loading raises."""
    with new_path(f"{kind.__name__.lower()}{version}", CAPACITY, shared=harness) as path:
        table = kind(path, size, version)
        table.fill()
        yield table
