"""`python -m tests.packet.fuzz FRAMES`: random frames through the loaded program and through the reference.

Exit status 1 if they differ; prints the shortest sequence that shows it. Needs root. Removes its namespaces when it is
interrupted or terminated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.packet.fuzz.run import work
from tests.termination import unwind_on_sigterm, unwind_with_parent


def main() -> int:
    """Distribute the frames to processes, and collect the results."""
    parser = argparse.ArgumentParser(prog="fuzz", description="The packet path beside the reference, frame by frame.")
    parser.add_argument("frames", type=int, metavar="FRAMES", help="how many, 10000000 for instance")
    parser.add_argument("--seed", type=int, help="of an earlier run, to repeat it with as many frames and jobs")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes; default: one a CPU")
    given = parser.parse_args()
    if given.frames < 1 or given.jobs < 1:
        parser.error("FRAMES and --jobs must be at least 1")
    if os.geteuid():
        parser.error("run it as root: it makes network namespaces and loads eBPF programs")
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}, {given.jobs} jobs", flush=True)
    began = time.monotonic()
    share = -(-given.frames // given.jobs)
    unwind_on_sigterm()
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn"), unwind_with_parent) as pool:
        try:
            results = list(pool.map(work, [share] * given.jobs, [seed + job for job in range(given.jobs)]))
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.terminate()
            return 130
    took = time.monotonic() - began
    differences = [result.difference for result in results if result.difference]
    for difference in differences:
        print(difference)
    frames = sum(result.frames for result in results)
    print(f"{frames} frames, seed {seed}, {took:.0f} s: {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
