"""`python -m tests.unit.daemon.reloads`: many reloads between random configurations, or one."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.unit.daemon.reloads.pairs import Drawn
from tests.unit.daemon.reloads.test_reloads import disturbed, report

CHUNK = 100  # pairs for one process at a time


def reports(first: int, number: int) -> list[str]:
    """Play so many pairs, and return the reports of those that failed."""
    return [report(seed) for seed in range(first, first + number) if disturbed(seed)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.unit.daemon.reloads", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="this one alone, with both configurations")
    given = parser.parse_args()
    if given.seed is not None:
        print(*(each.text() for each in Drawn(given.seed).pair()), sep="----\n")
        print(report(given.seed))
        return bool(disturbed(given.seed))
    begin, failures = time.monotonic(), 0
    firsts = range(given.first, given.first + given.pairs, CHUNK)
    with ProcessPoolExecutor(given.jobs) as pool:
        for first, found in zip(firsts, pool.map(reports, firsts, [CHUNK] * len(firsts)), strict=True):
            failures += len(found)
            print(*found, sep="\n", end="\n" if found else "")
            print(f"{first + CHUNK - given.first} pairs, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
