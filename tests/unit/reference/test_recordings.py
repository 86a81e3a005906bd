"""The reference replays recordings of the real IPVS in memory."""

from __future__ import annotations

import pytest

from tests.unit.reference import simulated_wire

PLAYED = (
    "crowds",
    "dr_basic",
    "dr_basic_v6",
    "expiry",
    "nat_basic",
    "nat_basic_v6",
    "nowhere",
    "persistence",
    "persistence_life",
    "quiesce",
    "reuse",
    "sched_dh",
    "sched_fo",
    "sched_lc",
    "sched_mh",
    "sched_nq",
    "sched_ovf",
    "sched_rr",
    "sched_sed",
    "sched_sh",
    "sched_wlc",
    "sched_wrr",
    "tcp_states_dr",
    "tcp_states_dr_v6",
    "tcp_states_nat",
    "tcp_states_nat_v6",
    "tcp_states_secure",
    "tcp_states_tun",
    "thresholds",
    "timeouts",
    "tun_basic",
    "tun_basic_v6",
    "tun_kinds",
    "tun_mixed",
)


@pytest.mark.parametrize("scenario", PLAYED)
def test_the_reference_does_what_ipvs_did(scenario: str) -> None:
    expected = simulated_wire.recorded(scenario)
    passed, failed, lines = simulated_wire.compared(scenario, expected, simulated_wire.observed(scenario))
    assert not failed, "\n".join(lines[:20])
    assert passed == len(expected)
