"""Simulate many seeds, or replay one: `python -m tests.unit.vrrp.simulation --help`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from tests.unit.vrrp.simulation.simulator import explain, run
from tests.unit.vrrp.simulation.system import simulated

CHUNK = 500  # seeds that one worker takes at a time


def main() -> int:
    """The exit status: 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.unit.vrrp.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first one (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--most", type=int, default=5, help="failures to explain before the end (%(default)s)")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event")
    parser.add_argument("--without", default="", help="with --seed: leave out these faults, by number: 0,2")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _replay(arguments.seed, arguments.trace, {int(each) for each in arguments.without.split(",") if each})
    return _many(range(arguments.first, arguments.first + arguments.seeds), arguments.jobs, arguments.most)


def _replay(seed: int, trace: bool, without: set[int]) -> int:
    with simulated():
        outcome = run(seed, print if trace else None, without)
    if outcome.violation and not trace:
        print(explain(seed))
    print(f"seed {seed}: {outcome.violation or 'every invariant held'}")
    return bool(outcome.violation)


def _many(seeds: range, jobs: int, most: int) -> int:
    began = time.monotonic()
    failed: list[int] = []
    seen: Counter[str] = Counter()
    chunks = [range(first, min(first + CHUNK, seeds.stop)) for first in range(seeds.start, seeds.stop, CHUNK)]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for number, (violated, found) in enumerate(pool.imap_unordered(_chunk, chunks), 1):
            failed += violated
            seen += found
            for seed in violated[: max(0, most - len(failed) + len(violated))]:
                print(explain(seed), end="\n\n", flush=True)
            if sys.stderr.isatty():
                print(f"\r{number} of {len(chunks)} chunks", end="", file=sys.stderr)
    print(f"{len(seeds)} seeds in {time.monotonic() - began:.0f} s, {len(failed)} failed: {sorted(failed)[:20]}")
    print("seen in so many seeds: " + ", ".join(f"{what} {count}" for what, count in sorted(seen.items())))
    return bool(failed)


def _chunk(seeds: range) -> tuple[list[int], Counter[str]]:
    failed, seen = [], Counter[str]()
    with simulated():
        for seed in seeds:
            outcome = run(seed)
            seen.update(outcome.coverage)
            if outcome.violation:
                failed.append(seed)
    return failed, seen


if __name__ == "__main__":
    sys.exit(main())
