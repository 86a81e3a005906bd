"""The data plane beside recordings of the real IPVS: every frame, count, state and timer, in both kinds of hook.

Rule of pace: what differs in a replay that kept the recording's pace is a failure, at once. A replay that came late
may differ because timers ran on, so its differences prove nothing: it is void, goes into the ledger, and is replayed.
So is a replay that came so late that its timers were hardly compared at all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import ledger
from tests.oracle_support.command_server import command_server
from tests.processes import tools_first

ORACLE = Path(__file__).parents[1] / "oracle"
REPLAYS = 3
KEPT_PACE_S = 2.0  # timers are compared within this: a step that was no later was seen as it was recorded
LATEST_S = 10.0  # CLOSE, the shortest timeout that IPVS has by itself: later, a whole one may have run out unseen
# The oracle's namespaces have fixed names; in a mount namespace of its own, several can run at once.
OWN_NAMES = (
    "unshare",
    "--mount",
    "sh",
    "-ec",
    'mkdir -p /run/netns; mount -t tmpfs names /run/netns; exec "$@"',
    "own",
)

# What depends on the hook: these are played in both.
METHODS = ("dr_basic", "dr_basic_v6", "nat_basic", "nat_basic_v6", "tun_basic", "tun_basic_v6")
# What connections live through does not depend on the hook. The longest come first: workers end at about the same time.
LIFE = (
    "reuse",
    "quiesce",
    "tcp_states_secure",
    "statistics",
    "tcp_states_dr",
    "tcp_states_nat",
    "tcp_states_tun",
    "expiry",
    "tun_mixed",
    "defences_bounded",
    "marks",
    "persistence",
    "neighbours_move",
    "fragments",
    "ftp_other_methods",
    "sched_mh",
    "sched_sh",
    "sctp_errors",
    "extension_headers",
    "ip_options",
    "many_services",
    "sched_dh",
    "sched_dh_mark",
    "sched_fo",
    "sched_lblc_mark",
    "sched_lblcr_mark",
    "sched_lc",
    "sched_nq",
    "sched_ovf",
    "sched_rr",
    "sched_sed",
    "sched_wlc",
    "sched_wrr",
)
# Each of these makes from 10 to 80 directors, and loads the programs for each: a sample of its parts is played always,
# all of it in `./dev test-all`.
LONG = (
    "icmp_paths",
    "crowds",
    "timeouts",
    "tun_kinds",
    "ipsec",
    "persistence_life",
    "neighbours",
    "sctp_states",
    "nowhere",
    "places",
    "sctp_paths",
    "conntrack",
    "icmp_errors",
    "tcp_states_dr_v6",
    "tcp_states_nat_v6",
    "sctp_spread",
    "thresholds",
    "nat_edges",
    "persistence_ports",
    "cache_bypass",
    "routes",
)
# Every so many parts of a long scenario are played. Its parts go round families, methods and kinds in twos, threes and
# fives: a step of seven meets others each time.
SAMPLE = 7
# Steps that differ, each for a reason that docs/differences.md gives; no other step may, and each of these must.
DIFFERENT = {
    "conntrack": {
        f"conntrack 1 {family} {method}, tracking on: {step}"
        for family in ("v4", "v6")
        for method, histories in (("dr", ("SAPFA", "SR")), ("nat", ("SyAPpFfA", "SyAR")), ("tun", ("SAPFA", "SR")))
        for step in (
            *(f"r1 {fate}, after {history}: PS" for fate in ("at weight 0", "gone") for history in histories),
            "tables at last",
        )
    },
    "neighbours": {
        f"unanswered, {way}: {packets}who is told"
        for way in ("v4 dr", "v4 nat", "v4 tun", "v6 dr")
        for packets in ("", "two packets later: ")
    },
}
# These start a process for each command, as an administrator does, in both hooks: `pylvs attach`, `down` and `sysctl`,
# and ipvsadm's -A, -R, -Ln and -Lnc. Besides, `pylvs mark` is always started, and some of ipvsadm's own cases are
# (tests/interop/test_ipvsadm.py). In all other scenarios commands are forks of one process that has imported them.
STARTED = ("nat_basic", "tcp_states_secure")
# Recordings that need what the data plane does not have yet.
NOT_YET: dict[str, str] = {}
WHOLE = "long: a sample of it is played in every run"
PLAYED = [
    *(pytest.param("tc", name, SAMPLE, id=f"tc-{name}-sample") for name in LONG),
    *(pytest.param("tc", name, 1, id=f"tc-{name}") for name in (*LIFE, *METHODS)),
    *(pytest.param("generic", name, 1, id=f"generic-{name}") for name in METHODS),
    *(pytest.param("tc", name, 1, id=f"tc-{name}", marks=pytest.mark.nightly(WHOLE)) for name in LONG),
]


@dataclass(frozen=True)
class Replay:
    """One replay of a scenario."""

    scenario: str
    seconds: float
    text: str  # what the comparison printed
    compared: set[str] = field(default_factory=set)  # steps
    different: set[str] = field(default_factory=set)  # of them
    delay_s: float = 0.0  # of the step that was latest
    timed_delay_s: float = 0.0  # of the latest step with timers
    repeated: list[str] = field(default_factory=list)
    too_slow: str = ""  # why the scenario gave up

    @property
    def allowed(self) -> set[str]:
        """The steps that are known to differ, among those that were compared."""
        return DIFFERENT.get(self.scenario, set()) & self.compared

    def void(self) -> str:
        """Why this replay proves nothing; empty if it does."""
        if self.too_slow:
            return self.too_slow
        if self.timed_delay_s > LATEST_S:
            return f"timers were read {self.timed_delay_s:.1f} s later than recorded"
        if self.different != self.allowed and self.delay_s > KEPT_PACE_S:
            return f"steps differ, and one came {self.delay_s:.1f} s later than recorded"
        return ""


def replay(mode: str, scenario: str, every: int, folder: Path, commands: dict[str, str]) -> Replay:
    """Play a scenario on this machine, or every so many parts of it."""
    report = folder / f"{mode}-{scenario}.json"
    report.unlink(missing_ok=True)
    began = time.monotonic()
    done = subprocess.run(
        [
            *OWN_NAMES,
            sys.executable,
            ORACLE / "compare",
            "--director-setup",
            f"pylvs attach d0 --mode {mode}",
            "--director-teardown",
            "pylvs down",
            "--mark",
            str(ORACLE.parent / "oracle_support" / "mark"),
            "--most",
            "10000",
            "--sample",
            str(every),
            "--report",
            report,
            scenario,
        ],
        env=os.environ | {"PATH": tools_first(), "PYTHONDONTWRITEBYTECODE": "1"} | commands,
        capture_output=True,
        text=True,
    )
    text = f"{done.stdout}{done.stderr}"
    assert done.returncode in (0, 1), text
    made: dict[str, Any] = json.loads(report.read_text())[scenario]
    assert "stopped" not in made, text
    seconds = time.monotonic() - began
    if "too_slow" in made:
        return Replay(scenario, seconds, text, too_slow=made["too_slow"])
    delay, timed = made["delay"], made["timed_delay"]
    return Replay(
        scenario,
        seconds,
        text,
        set(made["compared"]),
        set(made["different"]),
        delay["seconds"] if delay else 0.0,
        timed["seconds"] if timed else 0.0,
        made["repeated"],
    )


@pytest.fixture(scope="module")
def commands() -> Iterator[dict[str, str]]:
    """The environment in which `ipvsadm` and `pylvs` run without an interpreter's start of their own."""
    with command_server() as environment:
        yield environment


def test_every_recording_is_compared() -> None:
    recorded = {path.stem for path in (ORACLE.parent / "golden").glob("*.json")}
    assert recorded == {*METHODS, *LIFE, *LONG, *NOT_YET}
    assert recorded >= DIFFERENT.keys()
    assert recorded >= set(STARTED)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("mode", "scenario", "every"), PLAYED)
def test_the_director_does_what_ipvs_did(
    mode: str, scenario: str, every: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    commands = {} if scenario in STARTED else request.getfixturevalue("commands")
    void = ""
    first_s = 0.0
    for _ in range(REPLAYS):
        made = replay(mode, scenario, every, tmp_path, commands)
        if void:
            ledger.record(request.node.nodeid, void, first_s, made.seconds)
        for part in made.repeated:
            ledger.record(request.node.nodeid, part, made.seconds)
        void, first_s = made.void(), made.seconds
        if not void:
            break
    else:
        ledger.record(request.node.nodeid, void, first_s)
        pytest.fail(f"this machine is too slow for {scenario}: void {REPLAYS} times, at last: {void}\n{made.text}")
    assert made.compared, made.text
    assert made.different == made.allowed, made.text
    assert made.allowed or scenario not in DIFFERENT, "the sample has none of the steps that differ"
