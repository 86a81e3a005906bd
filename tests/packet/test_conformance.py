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
    "defences_bounded",
    "expiry",
    "extension_headers",
    "fragments",
    "ftp_other_methods",
    "icmp_errors",
    "icmp_paths",
    "many_services",
    "neighbours_move",
    "ip_options",
    "marks",
    "nowhere",
    "persistence",
    "persistence_ports",
    "quiesce",
    "reuse",
    "routes",
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
    "sctp_spread",
    "sctp_states",
    "statistics",
    "tcp_states_dr",
    "tcp_states_dr_v6",
    "tcp_states_nat",
    "tcp_states_nat_v6",
    "tcp_states_secure",
    "tcp_states_tun",
    "timeouts",
    "tun_kinds",
    "tun_mixed",
)
# Longer than all they add to the others: played where PYLVS_TESTS_EVERYTHING is set.
LONG = (
    "cache_bypass",
    "icmp_errors",
    "icmp_paths",
    "nowhere",
    "persistence_ports",
    "routes",
    "sctp_spread",
    "sctp_states",
    "tcp_states_dr_v6",
    "tcp_states_nat_v6",
    "timeouts",
    "tun_kinds",
)
PLAYED = [name for name in (*LIFE, *BASIC) if name not in LONG or os.environ.get("PYLVS_TESTS_EVERYTHING")]
# Recordings that need what the data plane does not have yet.
NOT_YET: dict[str, str] = {}


def test_every_recording_is_compared() -> None:
    recorded = {path.stem for path in (ORACLE.parent / "golden").glob("*.json")}
    assert recorded == {*BASIC, *LIFE, *NOT_YET}


@pytest.mark.timeout(600)
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
            scenario,
        ],
        env=os.environ | {"PATH": tools_first(), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert done.stdout.rstrip().endswith(" passed, 0 failed")
