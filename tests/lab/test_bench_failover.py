"""The bench of a failover runs: each program, method and detection, and failbacks. No test asserts a speed."""

from __future__ import annotations

import itertools

import pytest

from bench.failover import failbacks
from bench.failover.network import BFD, DR, KEEPALIVED, NAT, PYLVS, VRRP, Setup
from bench.failover.trial import EVENTS, KILLED, STOPPED, YIELDS, Size, play
from tests.interop import keepalived

SETUPS = [Setup(*each) for each in itertools.product((PYLVS, KEEPALIVED), (VRRP, BFD), (DR, NAT))]


@pytest.mark.nightly("a measurement, whose virtual routers a busy machine disturbs; the gate tests its programs")
@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
@pytest.mark.timeout(900)
@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_each_event_of_a_master_is_measured(setup: Setup) -> None:
    found = list(play(setup, EVENTS, Size(50, 50), print))
    can_yield = (setup.program, setup.detection) == (PYLVS, VRRP)
    assert [each.event for each in found] == [event for event in EVENTS if event != YIELDS or can_yield]
    assert all(each.lost <= each.established == 50 for each in found)
    assert all(each.gap_s > 0 for each in found)


@pytest.mark.timeout(600)
def test_connections_that_carry_data_live_through_failbacks() -> None:
    found = list(failbacks.play(2, 20, print))
    assert [each.event for each in found] == [KILLED, STOPPED]
    assert [(each.reset, each.silent) for each in found] == [(0, 0)] * 2
