"""Run examples: hypothesis draws the tables, a seed draws traffic and hook."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.packet.fuzz.shrink import describe, shortest
from tests.packet.fuzz.site import sites
from tests.packet.fuzz.steps import Edit, Step
from tests.packet.fuzz.traffic import Traffic
from tests.packet.fuzz.twin import Twin, new_twin, play

FRAMES = 1000  # of an example
EXAMPLES = 100  # until the tables are made anew


@dataclass
class Result:
    """The number of compared frames, and the shortest sequence after which the two differ."""

    frames: int = 0
    difference: str = ""


def run(frames: int, seed: int) -> Result:
    """Run about this many frames, or up to a difference. Prints progress to stderr."""
    result = Result()
    part = 0
    while result.frames < frames and not result.difference:
        with new_twin() as twin:
            examples = min(EXAMPLES, -(-(frames - result.frames) // FRAMES))
            _run_examples(twin, examples, seed * 1_000_003 + part, result)
        part += 1
        print(f"seed {seed}: {result.frames} frames of {frames} {result.difference}", file=sys.stderr, flush=True)
    return result


def work(frames: int, seed: int) -> Result:
    """Run one process; a signal ends it at once."""
    try:
        return run(frames, seed)
    except KeyboardInterrupt:
        os._exit(130)


def _run_examples(twin: Twin, examples: int, seed: int, result: Result) -> None:
    enough = result.frames + examples * FRAMES

    # hypothesis stops early if its examples repeat
    @seeded(seed)
    @settings(
        max_examples=2 * examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sites(), st.integers(0, 1 << 62), st.sampled_from(("xdp", "tc")))
    def example(tables: list[Edit], traffic: int, hook: str) -> None:
        if result.difference or result.frames >= enough or twin.worn_out:
            return
        steps: list[Step] = [*tables, *Traffic(tables, traffic, roles=True).steps(FRAMES)]
        found = play(twin, hook, steps)
        result.frames += FRAMES
        if found is not None:
            print(
                f"a difference: {found[1]}\nlooking for the shortest sequence that shows it",
                file=sys.stderr,
                flush=True,
            )
            result.difference = _explained(twin, hook, steps, found)

    example()


def _explained(twin: Twin, hook: str, steps: list[Step], found: tuple[int, str]) -> str:
    def differs_at(fewer: Sequence[Step]) -> int | None:
        outcome = play(twin, hook, fewer)
        return None if outcome is None else outcome[0]

    few = shortest(steps, differs_at)
    again = play(twin, hook, few)
    return f"at {hook}, after\n{describe(few)}\n{(again or found)[1]}"
