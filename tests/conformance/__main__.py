"""`python -m tests.conformance`: run random scenarios live in the real IPVS and in the reference. Needs root.

Exit status 1 if they differ; prints the shortest sequence that shows it. Ends its guest and removes its files when it
is interrupted or terminated.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.conformance.live import Report, Wired, compare, random_example, scheduler_example
from tests.conformance.script import Guest, NoGuest
from tests.packet.fuzz.site import sites
from tests.packet.fuzz.steps import Edit
from tests.packet.host import PREDICTABLE
from tests.termination import unwind_on_sigterm

A_BOOT = 10_000  # connections of schedulers in one boot
AT_ONCE = 10  # scenarios of one boot
FRAMES = 300  # of a scenario


def drawn(count: int, seed: int, frames: int) -> list[list[Wired]]:
    """Return scenarios: hypothesis draws tables, a seed draws traffic."""
    found: list[list[Wired]] = []

    @seeded(seed)
    @settings(
        max_examples=2 * count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sites(), st.integers(0, 1 << 62))
    def draw(tables: list[Edit], traffic: int) -> None:
        if len(found) < count:
            found.append(random_example(tables, traffic, frames))

    draw()
    return found


def main() -> int:
    """Test every scheduler that does not draw at random, then random tables."""
    parser = argparse.ArgumentParser(prog="conformance", description="Random scenarios beside the real IPVS.")
    parser.add_argument("--seed", type=int, help="of an earlier run, to repeat it")
    parser.add_argument("--connections", type=int, default=10_000, metavar="N", help="for each scheduler (10000)")
    parser.add_argument("--scenarios", type=int, default=100, metavar="N", help="with random tables (100)")
    parser.add_argument("--frames", type=int, default=FRAMES, metavar="N", help="of each of them (300)")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("run it as root: user-mode Linux reads this machine's files as root does")
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    unwind_on_sigterm()
    began, guest, report = time.monotonic(), Guest(), Report()
    try:
        if options.connections > 0:
            each_boot = max(A_BOOT // options.connections, 1)
            for first in range(0, len(PREDICTABLE), each_boot):
                some = PREDICTABLE[first : first + each_boot]
                compare(guest, [scheduler_example(name, seed, options.connections) for name in some], report)
                print(
                    f"{', '.join(some)}: {report.packets} packets so far, {len(report.differences)} differences",
                    flush=True,
                )
        examples = drawn(options.scenarios, seed, options.frames) if options.scenarios > 0 else []
        for first in range(0, len(examples), AT_ONCE):
            compare(guest, examples[first : first + AT_ONCE], report)
    except NoGuest as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for difference in report.differences:
        print(difference)
    took = time.monotonic() - began
    print(
        f"{report.scenarios} scenarios, {report.packets} packets, seed {seed}, {took:.0f} s: "
        f"{len(report.differences)} differences"
    )
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
