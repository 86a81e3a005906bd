"""How long the expirer holds a CPU: what it notes of itself, and what a process on that CPU feels of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pylvs.dataplane import abi
from pylvs.dataplane.tables import Tables

LIMIT_MS = 1
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
    """What the expirer did since its timer was started, or between two such moments."""

    goes: int
    spent_ns: int
    longest_ns: int
    ended: int
    lengths: tuple[int, ...]  # goes by length, see bpf/abi.h

    @classmethod
    def read(cls, tables: Tables) -> Pace:
        """As it is now; the longest go is forgotten then."""
        found = tables.pace.read(0)
        tables.pace.set(0, "longest_ns", 0)
        return cls(found["goes"], found["spent_ns"], found["longest_ns"], found["ended"], tuple(found["lengths"]))

    def since(self, before: Pace) -> Pace:
        """What came between; the longest is this one's, as reading forgets it."""
        lengths = tuple(now - then for now, then in zip(self.lengths, before.lengths, strict=True))
        return Pace(
            self.goes - before.goes,
            self.spent_ns - before.spent_ns,
            self.longest_ns,
            self.ended - before.ended,
            lengths,
        )

    @property
    def longest_ms(self) -> float:
        """Of one go."""
        return self.longest_ns / _NS_IN_MS

    @property
    def late(self) -> int:
        """Goes longer than LIMIT_MS."""
        first = abi.constant("PACE_FIRST_NS")
        return sum(count for n, count in enumerate(self.lengths) if first << n > LIMIT_MS * _NS_IN_MS)

    def share(self, seconds: float) -> float:
        """Percent of one core over this time."""
        return self.spent_ns / seconds / 1e7


@dataclass(slots=True)
class Gaps:
    """How long a process of real-time priority on one CPU did not run."""

    longest_ms: float = 0.0
    late: int = 0  # gaps longer than LIMIT_MS
    stolen_ms: float = field(default=0.0)  # by the host of a virtual machine, from that CPU, in hundredths of a second


def _stolen_ms(cpu: int) -> float:
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[0] == f"cpu{cpu}":
                return int(words[_STEAL_FIELD]) * 1000 / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextmanager
def watched(tables: Tables) -> Iterator[Gaps]:
    """Look for gaps on the CPU of the expirer as long as this lasts; what was found is there afterwards."""
    cpu = int(tables.pace.get(0, "cpu"))
    found = Gaps()
    before = _stolen_ms(cpu)
    with subprocess.Popen(
        [sys.executable, "-c", _SPINNER, str(cpu)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as spinner:
        assert spinner.stdout is not None
        spinner.stdout.readline()
        try:
            yield found
        except BaseException:
            spinner.kill()
            raise
        told, _ = spinner.communicate(b"\n")
    longest, late = told.split()
    found.longest_ms, found.late, found.stolen_ms = float(longest), int(late), _stolen_ms(cpu) - before
