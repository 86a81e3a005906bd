"""The ledger of a test run: every repetition, and its reason.

`./dev test` sets PYLVS_TESTS_LEDGER to a file, collects the lines of all processes there, and prints them at its end.
Without the variable, entries appear on stderr. Code that repeats something must add an entry.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

LEDGER = "PYLVS_TESTS_LEDGER"
_STEAL = 8  # the column of /proc/stat with the time that the hypervisor took
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Entry:
    """A repetition: the test, the first line of its error, both durations, and the load of the machine."""

    test: str
    reason: str
    first_s: float
    second_s: float | None
    load: float
    steal_s: float  # since boot: two entries, or an entry and the run's first line, give a difference

    def __str__(self) -> str:
        second = "not repeated" if self.second_s is None else f"{self.second_s:.1f} s"
        busy = f"load {self.load:.1f}, steal {self.steal_s:.1f} s"
        return f"{self.test}: {self.reason} ({self.first_s:.1f} s, then {second}; {busy})"


def steal_s() -> float:
    """Return the seconds since boot that the hypervisor took from this machine's CPUs."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[_STEAL]) / _TICKS if len(fields) > _STEAL else 0.0


def record(test: str, reason: str, first_s: float, second_s: float | None = None) -> Entry:
    """Add a repetition. The ledger keeps the first line of `reason`."""
    line = (reason.strip().splitlines() or ["no reason given"])[0][:300]
    entry = Entry(test, line, first_s, second_s, os.getloadavg()[0], steal_s())
    path = os.environ.get(LEDGER)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(entry)) + "\n")  # one write for each line, because processes share the file
    else:
        print(f"repeated: {entry}", file=sys.stderr)
    return entry


def read(path: Path) -> list[Entry]:
    """Return all entries of a run."""
    if not path.exists():
        return []
    return [Entry(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
