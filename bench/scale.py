"""`python -m bench.scale`: make, use, list and expire ten million connections in a table that grows.

Exit status as the bench's.

The table is as on a director: packets through the program make its connections, ipvsadm lists them, and the timer in
the kernel ends them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import record, report, site, stream
from bench.cases import Served
from bench.expiry_timer import LIMIT_MS, MOMENT_S, RUN_LIMIT_MS, Pace, Watch, watched
from bench.harness import FLOWS, SAME
from bench.large_table import DR, IPV6, NAT, Kind, LargeTable, capacity_for, ready
from bench.path import Overheads
from bench.program import need_root, progress, status_of
from bench.rows import FLOOR, SCALE_ROWS, Measured
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Protocol, ServiceKey, VirtualService

MOST = 1 << 24  # flows of the harness's walk
_ROUNDING_S = 0.25  # the path counts in ticks of an eighth of a second


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    connections: int = 10 << 20
    others: int = 1 << 20  # of NAT and IPv6, and of the small table
    rounds: int = 5
    repeat: int = 1_000_000
    quiet_s: float = 10.0  # how long nothing ends


QUICK = Size(connections=4096, others=1024, rounds=1, repeat=4096, quiet_s=1.2)


@dataclass(slots=True)
class Found:
    """What was measured so far."""

    results: dict[str, Measured] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, processor: float | None = None) -> None:
        """Add a sample to a row."""
        row = self.results.setdefault(name, Measured())
        row.samples.append(value)
        if processor is not None:
            row.processor.append(processor)

    def most(self, name: str, value: float) -> None:
        """Keep the greatest value in a row."""
        row = self.results.setdefault(name, Measured([value]))
        row.samples = [max(row.raw, value)]

    def compare(self, what: str, wanted: object, there: object, wrong_by: int) -> None:
        """Note by how much a count or a list is wrong."""
        if wrong_by:
            self.notes.append(f"{what}: {there}, not {wanted}")
        self.most("scale_wrong", wrong_by)


def _measure_harness(table: LargeTable, size: Size, found: Found) -> float:
    """Measure the floor; return the ns that the harness for random flows costs."""
    overheads, floor = Overheads(table.path.harness), Measured()
    for _ in range(size.rounds):
        overheads.measure(size.repeat, 1 << 20)
        floor.samples.append(overheads.measure_floor(SAME, size.repeat))
    floor.overhead_ns = overheads.of(SAME)
    found.results[FLOOR] = floor
    return overheads.of(FLOWS)


def _compare_counts(
    table: LargeTable, active: int, inactive: int, what: str, found: Found, before: float = math.inf
) -> None:
    """Compare the counts of connections, unless the monotonic clock is past `before`."""
    there = table.counts()
    if time.monotonic() > before:
        found.notes.append(f"{table.kind.name}, {what}: too busy to compare the counts in time")
        return
    wrong = abs(there[0] - active) + abs(there[1] - inactive)
    found.compare(f"{table.kind.name}, {what}: active and inactive", (active, inactive), there, wrong)


def _sweeps(table: LargeTable, size: Size, row: str, found: Found) -> None:
    """Measure what sweeping costs where nothing ends, and the gaps that the machine itself makes."""
    tables = table.path.director.tables
    progress(f"scale: sweeping {table.connections:,} connections")
    with watched(tables) as watch:
        before, begin = Pace.read(tables), time.monotonic()
        watch.rest(size.quiet_s)
        passed = Pace.read(tables).since(before)
        found.add(row, passed.share(time.monotonic() - begin))
    found.most("scale_longest", watch.longest_ms)
    found.most("scale_usual", passed.usual_ms())
    found.most("scale_gap_machine", watch.gap_ms)
    found.notes.append(f"{table.connections:,} connections of which none ended: {_spikes(passed, watch)}")


def _spikes(passed: Pace, watch: Watch) -> str:
    text = (
        f"runs of the expiry timer: {passed.runs:,}; longer than {RUN_LIMIT_MS} ms: {passed.late};"
        f" gaps longer than {LIMIT_MS} ms: {watch.late}"
    )
    if watch.stolen_ms:
        text += (
            f"; the host took {watch.stolen_ms:.0f} ms from that CPU, and there {watch.disturbed_ms:.3g} ms was longest"
        )
    return text


def _list(table: LargeTable, found: Found) -> None:
    progress(f"scale: listing {table.connections:,} connections")
    listed, took_s, used_s, megabytes = table.list()
    found.add("scale_list", took_s, used_s)
    found.add("scale_list_memory", megabytes)
    found.compare("ipvsadm -Lnc shows", table.connections, listed, abs(listed - table.connections))


def _expire(table: LargeTable, established_ns: float, row: str, found: Found) -> None:
    """Let all connections expire at once: the last packet of each sets a short timeout."""
    tables = table.path.director.tables
    life_s = 3 + round(table.connections * established_ns / 1e9 * 3)
    progress(f"scale: {table.connections:,} connections live {life_s} s more")
    began = Pace.read(tables)
    first, last = table.shorten(life_s)
    half = table.connections // 2
    _compare_counts(table, half, table.connections - half, "half of them closed", found, first + life_s - _ROUNDING_S)
    with watched(tables) as watch:
        watch.rest(first + life_s - time.monotonic())
        before = Pace.read(tables)
        gone = table.await_empty(last + life_s + 60 + table.connections / 50_000, lambda: watch.rest(MOMENT_S))
        passed = Pace.read(tables).since(before)
    ended = Pace.read(tables).ended - began.ended
    found.add(row, gone - first - life_s)
    found.add(f"{row}_share", passed.share(gone - first - life_s))
    found.most("scale_longest", watch.longest_ms)
    found.most("scale_usual", passed.usual_ms())
    found.compare("connections that the expirer ended", table.connections, ended, abs(ended - table.connections))
    _compare_counts(table, 0, 0, "all expired", found)
    if row == "scale_expire":
        found.add("scale_expire_each", passed.spent_ns / max(passed.ended, 1))
    found.most("scale_gap", watch.gap_ms)
    found.notes.append(f"{table.connections:,} expired: {_spikes(passed, watch)}")


def _grow(table: LargeTable, size: Size, new: Measured, found: Found) -> float:
    """Make the connections in a table that grows by live copies, each under a stream of packets.

    Return the processor seconds of making them.
    """
    stream_key = ServiceKey(Protocol.TCP, table.key.address, stream.PORT)
    director = table.path.director
    Served(VirtualService(stream_key, "rr"), table.kind.method, site.SERVERS).add_to(director)
    with stream.streaming(1) as quiet:
        time.sleep(size.quiet_s)
    found.add("scale_pause_machine", max(quiet.pause_ms, quiet.new_pause_ms))
    made, spent, seconds, flows, number = 0, 0.0, 0.0, quiet.flows, 1
    capacity, last = capacity_for(size.others), capacity_for(size.connections)
    while True:
        wanted = min(capacity * 8 // 9, size.connections)
        spent += table.make(new, progress, made, wanted)
        made = wanted
        if capacity == last:
            break
        capacity, former, number = min(2 * capacity, last), capacity, number + 1
        progress(f"scale: from a capacity of {former:,} to {capacity:,}, with {made:,} connections")
        with stream.streaming(number) as busy:
            took_s = table.grow(capacity)
        seconds += took_s
        flows += busy.flows
        found.most("scale_pause", busy.pause_ms)
        found.most("scale_pause_new", busy.new_pause_ms)
        found.notes.append(
            f"capacity {former:,} to {capacity:,}, {made:,} connections: {took_s:.1f} s; longest pause of a flow that"
            f" was there {busy.pause_ms:.3g} ms, of a new one {busy.new_pause_ms:.3g} ms; packets lost: {busy.lost}"
        )
        _compare_counts(table, made, 0, f"grown to {capacity:,}", found)
        kept = table.path.connections(stream_key)[0]
        found.compare("flows of the stream in the table", flows, kept, abs(flows - kept))
    found.add("scale_grow", seconds)
    _forget_streams(table, stream_key)
    return spent


def _forget_streams(table: LargeTable, key: ServiceKey) -> None:
    """Delete the service of the streams, and its connections."""
    director = table.path.director
    director.change_setting("expire_nodest_conn", 1)
    director.delete_service(key)
    director.change_setting("expire_nodest_conn", 0)


def _large(size: Size, found: Found) -> None:
    with ready(DR, size.connections, size.others) as table:
        overhead = _measure_harness(table, size, found)
        new, established = Measured(overhead_ns=overhead), Measured(overhead_ns=overhead)
        found.results |= {"scale_new": new, "scale_established": established}
        found.add("scale_made", _grow(table, size, new, found))
        _compare_counts(table, table.connections, 0, "all made", found)
        found.add("scale_bytes", table.bytes_each())
        for number in range(size.rounds):
            progress(f"scale: random flows, {number + 1} of {size.rounds}")
            established.samples.append(table.visit(size.repeat))
        _sweeps(table, size, "scale_idle", found)
        _list(table, found)
        _expire(table, established.raw, "scale_expire", found)


def _small(size: Size, found: Found) -> None:
    with ready(DR, size.others) as table:
        table.make(Measured(), progress)
        _compare_counts(table, table.connections, 0, "all made", found)
        _sweeps(table, size, "scale_idle_small", found)
        _expire(table, 1000, "scale_expire_small", found)


def _bytes_of(kind: Kind, size: Size, row: str, found: Found) -> None:
    with ready(kind, size.others) as table:
        table.make(Measured(), progress)
        _compare_counts(table, table.connections, 0, "all made", found)
        found.add(row, table.bytes_each())


def measure(size: Size) -> Found:
    """Measure all rows. Raises what loading raises, and WrongPath."""
    found = Found()
    _bytes_of(NAT, size, "scale_bytes_nat", found)
    if site.has_ipv6():
        _bytes_of(IPV6, size, "scale_bytes_ipv6", found)
    _small(size, found)
    _large(size, found)
    return found


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench.scale", description="Measure a table of very many connections.")
    parser.add_argument("--quick", action="store_true", help="a few thousand connections: does it run at all")
    parser.add_argument("--connections", type=int, metavar="N", help="how many (10,485,760)")
    parser.add_argument("--json", type=Path, default=Path("bench-scale.json"), help="file for the results")
    given = parser.parse_args(words)
    if given.connections is not None and not 1024 <= given.connections <= MOST:
        parser.error(f"--connections: from 1024 to {MOST}")
    return given


def _size(given: argparse.Namespace) -> Size:
    size = QUICK if given.quick else Size()
    if given.connections is None:
        return size
    others = min(size.others, given.connections)
    return Size(given.connections, others, size.rounds, size.repeat, size.quiet_s)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    given = _arguments(words)
    size = _size(given)
    sizes: dict[str, float] = {"connections": size.connections, "others": size.others}
    where = record.machine()

    def run() -> int:
        need_root("it makes tables in the kernel: run it as root")
        found = measure(size)
        report.show(found.results, sizes, [*report.footer(where, {}), *found.notes], rows=SCALE_ROWS)
        record.write(given.json, record.Record(found.results, sizes, where, {}), SCALE_ROWS)
        return 0

    return status_of("bench", run, given.json)


if __name__ == "__main__":
    sys.exit(main())
