"""Measure how long the expiry timer holds a CPU, by its own records and by the gaps of a process on that CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

from bench.processes import python_beside
from pylvs.bpf import abi
from pylvs.cli.meter import on_cpus
from pylvs.dataplane.tables import Tables
from pylvs.model.dataclass import dataclass, field

RUN_LIMIT_MS = 0.1  # of a run
LIMIT_MS = 1  # of a gap, which other programs cause as well
MOMENT_S = 0.02  # between looks
_NS_IN_MS = 1_000_000
_STEAL_FIELD = 8  # of a line of /proc/stat
# It spins four fifths of the time: the kernel would stop a real-time process that takes more than 95%.
_SPINNER = f"""
import contextlib, os, sys, time
os.sched_setaffinity(0, {{int(sys.argv[1])}})
with contextlib.suppress(OSError):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
clock, longest, late = time.monotonic_ns, 0, 0
print(flush=True)
os.set_blocking(0, False)
while sys.stdin.buffer.read(1) is None:
    before = clock()
    end = before + 40_000_000
    while before < end:
        now = clock()
        if now - before > longest:
            longest = now - before
        late += now - before > {LIMIT_MS * _NS_IN_MS}
        before = now
    time.sleep(0.01)
print(longest / {_NS_IN_MS}, late)
"""


@dataclass(frozen=True, slots=True)
class Pace:
    """What the expiry timer did since it was started, or between two such moments."""

    runs: int
    spent_ns: int
    ended: int
    lengths: tuple[int, ...]  # runs of the expiry timer by length, see bpf/abi/conntrack.h

    @classmethod
    def read(cls, tables: Tables) -> Pace:
        """Read the present values."""
        found = tables.timer_runs.read(abi.constant("TIMER_EXPIRY"))
        return cls(found["count"], found["spent_ns"], found["ended"], tuple(found["lengths"]))

    def since(self, before: Pace) -> Pace:
        """Return the difference to an earlier moment."""
        lengths = tuple(now - then for now, then in zip(self.lengths, before.lengths, strict=True))
        return Pace(
            self.runs - before.runs,
            self.spent_ns - before.spent_ns,
            self.ended - before.ended,
            lengths,
        )

    @property
    def late(self) -> int:
        """Return the number of runs longer than RUN_LIMIT_MS."""
        first = abi.constant("RUN_FIRST_NS")
        return sum(count for n, count in enumerate(self.lengths) if first << n > RUN_LIMIT_MS * _NS_IN_MS)

    def usual_ms(self) -> float:
        """Return the time within which 999 of 1,000 runs end."""
        within = accumulate(self.lengths)
        number = next((n for n, count in enumerate(within) if count >= self.runs * 0.999), 0)
        return (abi.constant("RUN_FIRST_NS") << number) / _NS_IN_MS

    def share(self, seconds: float) -> float:
        """Return the percentage of one core over this time."""
        return self.spent_ns / seconds / 1e7


@dataclass(slots=True)
class Watch:
    """The longest run of the expiry timer, and the gaps of a real-time process on its CPU.

    The host of a virtual machine may take the CPU away during a run. So the runs of a moment in which the host took
    time from that CPU count separately.
    """

    tables: Tables
    cpu: int
    longest_ms: float = 0.0  # of a run while the host took nothing
    disturbed_ms: float = 0.0  # and while it did
    gap_ms: float = 0.0
    late: int = 0  # gaps longer than LIMIT_MS
    stolen_ms: float = 0.0  # in hundredths of a second
    _taken_ms: float = field(init=False)

    def __post_init__(self) -> None:
        self._taken_ms = _stolen_ms(self.cpu)
        self.tables.timer_runs.set(0, "longest_ns", 0)

    def look(self) -> None:
        """Account for the moment that ends now."""
        longest = self.tables.timer_runs.get(0, "longest_ns") / _NS_IN_MS
        self.tables.timer_runs.set(0, "longest_ns", 0)
        taken = _stolen_ms(self.cpu)
        if taken > self._taken_ms:
            self.stolen_ms += taken - self._taken_ms
            self._taken_ms = taken
            self.disturbed_ms = max(self.disturbed_ms, longest)
        else:
            self.longest_ms = max(self.longest_ms, longest)

    def rest(self, seconds: float) -> None:
        """Watch for so long, moment by moment."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(MOMENT_S)
            self.look()


def _stolen_ms(cpu: int) -> float:
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[0] == f"cpu{cpu}":
                return int(words[_STEAL_FIELD]) * 1000 / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextmanager
def watched(tables: Tables) -> Iterator[Watch]:
    """Watch for gaps on the CPU of the expiry timer, from another CPU."""
    watch = Watch(tables, int(tables.timer_runs.get(0, "cpu")))
    others = set(range(os.cpu_count() or 1)) - {watch.cpu}
    with on_cpus(others or os.sched_getaffinity(0)), python_beside(_SPINNER, str(watch.cpu)) as gaps:
        yield watch
    watch.look()
    watch.gap_ms, watch.late = float(gaps[0]), int(gaps[1])
