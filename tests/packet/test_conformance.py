"""The data plane beside recordings of the real IPVS: every frame, count, state and timer, in both kinds of hook."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import tools_first

ORACLE = Path(__file__).parents[1] / "oracle"
# The oracle's namespaces have fixed names; in a mount namespace of its own, several can run at once.
OWN_NAMES = (
    "unshare",
    "--mount",
    "sh",
    "-ec",
    'mkdir -p /run/netns; mount -t tmpfs names /run/netns; exec "$@"',
    "own",
)

BASIC = (
    "dr_basic",
    "dr_basic_v6",
    "nat_basic",
    "nat_basic_v6",
    "tun_basic",
    "tun_basic_v6",
    "sched_rr",
    "sched_wrr",
    "sched_lc",
    "sched_wlc",
)
# What connections live through does not depend on the hook; what does is in BASIC.
LIFE = (
    "cache_bypass",
    "conntrack",
    "crowds",
    "defences_bounded",
    "expiry",
    "extension_headers",
    "fragments",
    "ftp_other_methods",
    "icmp_errors",
    "icmp_paths",
    "ipsec",
    "many_services",
    "nat_edges",
    "neighbours",
    "neighbours_move",
    "ip_options",
    "marks",
    "nowhere",
    "persistence",
    "persistence_life",
    "persistence_ports",
    "places",
    "quiesce",
    "reuse",
    "routes",
    "sched_dh",
    "sched_dh_mark",
    "sched_lblc_mark",
    "sched_lblcr_mark",
    "sched_fo",
    "sched_mh",
    "sched_nq",
    "sched_ovf",
    "sched_sed",
    "sched_sh",
    "sctp_errors",
    "sctp_paths",
    "sctp_spread",
    "sctp_states",
    "statistics",
    "tcp_states_dr",
    "tcp_states_dr_v6",
    "tcp_states_nat",
    "tcp_states_nat_v6",
    "tcp_states_secure",
    "tcp_states_tun",
    "thresholds",
    "timeouts",
    "tun_kinds",
    "tun_mixed",
)
# Longer than all they add to the others: played where PYLVS_TESTS_EVERYTHING is set.
LONG = (
    "cache_bypass",
    "conntrack",
    "crowds",
    "icmp_errors",
    "icmp_paths",
    "ipsec",
    "nat_edges",
    "neighbours",
    "nowhere",
    "persistence_life",
    "persistence_ports",
    "places",
    "routes",
    "sched_dh",
    "sctp_paths",
    "sctp_spread",
    "sctp_states",
    "tcp_states_dr_v6",
    "tcp_states_nat_v6",
    "thresholds",
    "timeouts",
    "tun_kinds",
)
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
PLAYED = [name for name in (*LIFE, *BASIC) if name not in LONG or os.environ.get("PYLVS_TESTS_EVERYTHING")]
# Recordings that need what the data plane does not have yet.
NOT_YET: dict[str, str] = {}


def differing_steps(scenario: str, report: str) -> set[str]:
    """Of what the comparison printed, "scenario: step: field: expected X, got Y", the steps."""
    lines = (line.partition(": expected ") for line in report.splitlines() if line.startswith(f"{scenario}: "))
    return {head.removeprefix(f"{scenario}: ").rpartition(": ")[0] for head, found, _ in lines if found}


def test_every_recording_is_compared() -> None:
    recorded = {path.stem for path in (ORACLE.parent / "golden").glob("*.json")}
    assert recorded == {*BASIC, *LIFE, *NOT_YET}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("mode", "scenario"),
    [("tc", name) for name in PLAYED] + [("generic", name) for name in BASIC],
)
def test_the_director_does_what_ipvs_did(mode: str, scenario: str) -> None:
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
            scenario,
        ],
        env=os.environ | {"PATH": tools_first(), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), f"{done.stdout}{done.stderr}"
    different = DIFFERENT.get(scenario, set())
    assert differing_steps(scenario, done.stdout) == different, f"{done.stdout}{done.stderr}"
    assert done.stdout.rstrip().endswith(f" passed, {len(different)} failed"), f"{done.stdout}{done.stderr}"
