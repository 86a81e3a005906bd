"""Virtual routers in simulated networks, each made from one seed; `invariants` defines what must hold."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests import passed_before
from tests.conftest import RANDOM
from tests.unit.vrrp.simulation import schedule
from tests.unit.vrrp.simulation.defects import DEFECTS, Defect
from tests.unit.vrrp.simulation.schedule import KINDS, LINK_KINDS
from tests.unit.vrrp.simulation.simulator import explain, run
from tests.unit.vrrp.simulation.system import simulated

FIRST = random.randrange(10**12) if RANDOM in os.environ else 0
CHUNK, CHUNKS = 100, 20
LONG_CHUNK, LONG_CHUNKS = 5000, 200
PLANTED_SEEDS = 100  # within which a planted defect is found
ONCE_FAILED = (
    *(45051, 47226),  # the former master's last advertisement was late, with a shorter interval
    *(3881, 3931, 6512),  # claims of single addresses postponed the last announcement
    27874,  # the last advertisement of a master that stepped down had a shorter interval than the present master
    341699,  # each master that gave up restarted the preempt_delay of the best router
    *(303178, 434947),  # announcements on a device without carrier, which do not leave
    783915,  # the owner of the addresses did not keep its yield after a fault
    599313,  # a backup was stalled again before it could read its socket
    416831,  # an address was added again before the answer to a worse master was checked
)


def check(first: int, count: int) -> None:
    with simulated():
        failed = [seed for seed in range(first, first + count) if run(seed).violation]
    assert not failed, f"{len(failed)} of {count} seeds failed: {failed[:20]}\n{explain(failed[0])}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_invariant_holds(chunk: int) -> None:
    check(FIRST + chunk * CHUNK, CHUNK)


@pytest.mark.parametrize("seed", ONCE_FAILED)
def test_a_seed_that_once_failed(seed: int) -> None:
    check(seed, 1)


@pytest.mark.nightly("a million seeds take 80 minutes of CPU time; the gate runs the first 2,000")
@pytest.mark.timeout(4 * 3600)  # at the lowest priority
@pytest.mark.parametrize("chunk", range(LONG_CHUNKS))
def test_every_invariant_holds_a_million_times(chunk: int, request: pytest.FixtureRequest) -> None:
    passed_before.play(request, check, chunk * LONG_CHUNK, LONG_CHUNK)


@pytest.mark.parametrize("defect", DEFECTS, ids=str)
def test_a_planted_defect_is_found(defect: Defect) -> None:
    with simulated(), defect.planted():
        for only in (None, *defect.found_by):
            assert any(run(seed, only=only).violation for seed in range(PLANTED_SEEDS)), f"not by invariant {only}"


def test_every_invariant_can_fail() -> None:
    assert {number for defect in DEFECTS for number in defect.found_by} == set(range(13))


def test_the_seeds_cover_every_fault() -> None:
    with simulated():
        seen = frozenset[str]().union(*(run(seed).coverage for seed in range(200)))
    assert seen == {*KINDS, "take-over", "two masters", "gives way", "priority 0", "preempt_delay"} - {*LINK_KINDS}


def test_a_failure_shows_its_seed_the_necessary_faults_and_the_last_events() -> None:
    defect = next(each for each in DEFECTS if each.name == "a late backup takes over before it reads")
    with defect.planted():
        with simulated():
            seed = next(seed for seed in range(PLANTED_SEEDS) if run(seed).violation)
        text = explain(seed)
    lines = text.splitlines()
    assert lines[0].startswith(f"seed {seed}: t=")
    faults = lines[lines.index("faults:") + 1 : lines.index("last events:")]
    assert any(" stall " in fault for fault in faults)
    assert len(faults) < len(schedule.make(seed).faults)
    assert lines[-2].startswith("VIOLATED: t=")
    assert lines[-1].startswith(f"replay: python -m tests.unit.vrrp.simulation --seed {seed} --trace --without ")


def test_a_seed_gives_the_same_trace_each_time_and_in_each_process(repository: Path) -> None:
    script = "\n".join(
        (
            "from tests.unit.vrrp.simulation.system import simulated",
            "from tests.unit.vrrp.simulation.simulator import run",
            "with simulated():",
            "    for seed in range(40): print(run(seed, print).seed)",
        )
    )
    traces = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=repository,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(repository)},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    here: list[str] = []
    with simulated():
        for seed in range(40):
            here.append(str(run(seed, here.append).seed))
    assert "\n".join(here) + "\n" == traces[0].decode()


def test_one_seed_is_replayed_by_the_command(repository: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.vrrp.simulation"]
    replayed = subprocess.run([*command, "--seed", "3", "--trace"], cwd=repository, capture_output=True, text=True)
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert replayed.stdout.splitlines()[-1] == "seed 3: every invariant held"
    several = subprocess.run([*command, "--seeds", "20", "--jobs", "2"], cwd=repository, capture_output=True, text=True)
    assert (several.returncode, several.stderr) == (0, "")
    assert "20 seeds in " in several.stdout
    assert ", 0 failed: []" in several.stdout
