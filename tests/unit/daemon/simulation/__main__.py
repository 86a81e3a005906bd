"""`python -m tests.unit.daemon.simulation`: play many seeds, or one with its trace."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import count

from tests.unit.daemon.simulation.simulate import Result, simulate

CHUNK = 200  # seeds for one process at a time


def played(first: int, number: int) -> list[Result]:
    """Play so many seeds, and return the failures."""
    results = (simulate(seed) for seed in range(first, first + number))
    return [
        Result(each.seed, AssertionError(str(each.violation)), each.trace, 0, 0.0) for each in results if each.violation
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.unit.daemon.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    given = parser.parse_args()
    if given.seed is not None:
        result = simulate(given.seed, trace=given.trace)
        print(*result.trace, sep="\n")
        print(result.report.splitlines()[0] if result.violation else f"seed {given.seed}: everything holds")
        return bool(result.violation)
    begin, failures = time.monotonic(), 0
    chunks = [
        (first, min(CHUNK, given.first + given.seeds - first))
        for first in range(given.first, given.first + given.seeds, CHUNK)
    ]
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(given.jobs)) if given.jobs > 1 else None
        found = (pool.map if pool else map)(played, *zip(*chunks, strict=True))
        for number, results in zip(count(1), found, strict=False):
            for simulated in results:
                failures += 1
                print(simulated.report, end="\n\n")
            print(f"{number * CHUNK} seeds, {time.monotonic() - begin:.0f} s", file=sys.stderr)
            if failures >= given.failures:
                if pool:
                    pool.shutdown(cancel_futures=True)
                return 1
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
