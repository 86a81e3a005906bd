"""`python -m bench.ecmp`: which connections keep their server when a director behind a router dies or leaves.

The lab `ecmp` has four directors. One is killed, returns, leaves by `pylvs director leave`, and joins again, with mh
and rr, without and with sync. Exit status as the bench's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from bench import record, report
from bench.ecmp.trial import EVENTS, SERVERS, Found, play
from bench.program import need_root, progress, status_of
from pylvs.lab.lab import build, take_down
from pylvs.lab.topologies import design

SCHEDULERS = "mh", "rr"
CONNECTIONS, QUICK = 400, 40
_HEADINGS = ("a director is", "scheduler", "sync", "theory", "kept")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench.ecmp", description="Count the connections that keep their server.")
    parser.add_argument("--quick", action="store_true", help="few connections: does it run at all")
    parser.add_argument("--scheduler", choices=SCHEDULERS, action="append", help="of the service")
    parser.add_argument("--sync", choices=("no", "yes"), action="append", help="whether directors copy connections")
    return parser.parse_args(words)


def measure(schedulers: Sequence[str], syncs: Sequence[bool], count: int) -> list[Found]:
    """Play all events with each scheduler, in a lab of its own. Raises PylvsError."""
    found: list[Found] = []
    for scheduler in schedulers:
        for sync in syncs:
            name = f"bench{os.getpid()}"
            try:
                lab = build(name, design("ecmp", SERVERS, overrides={"scheduler": scheduler}))
                found += play(lab, sync, count, lambda text: progress(text, "bench.ecmp"))
            finally:
                take_down(name)
    return sorted(found, key=lambda each: EVENTS.index(each.event))


def cells(found: Found) -> tuple[str, ...]:
    """Return the cells of the table."""
    return (found.event, found.scheduler, "yes" if found.sync else "no", f"{found.theory:,}", f"{found.kept:,}")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print."""
    given = _arguments(words)

    def run() -> int:
        need_root("it makes network namespaces and loads eBPF: run it as root")
        count = QUICK if given.quick else CONNECTIONS
        syncs = [each == "yes" for each in given.sync or ("no", "yes")]
        found = measure(given.scheduler or SCHEDULERS, syncs, count)
        print(f"{count:,} established connections, four directors, {SERVERS} real servers")
        print(*report.aligned([_HEADINGS, *map(cells, found)]), sep="\n")
        notes = report.footer(record.machine(), {})
        print(*(line for line in notes if not line.startswith("ratios")), sep="\n")
        return 0

    return status_of("bench.ecmp", run)


if __name__ == "__main__":
    raise SystemExit(main())
