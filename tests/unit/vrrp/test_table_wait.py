"""A virtual router is not master before this host has its first table: packets would meet no service."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from pylvs.model.vrrp import OWNER, VrrpGroup
from pylvs.vrrp.protocol.machine import State, TransitionReason
from pylvs.vrrp.router import Router, SyncGroup
from tests.unit.vrrp.fake_network import FakeHost, Switch, instance

WAIT_S = 30.0
TAKE_OVER_S = 3.7  # three intervals and a skew


def cold(priority: int = 100, other: int = 0) -> tuple[Switch, Router]:
    """Return a switch, perhaps with a master of another priority, and a router that starts without a table."""
    switch = Switch()
    if other:
        FakeHost(switch, ip_address("10.0.0.2"), name="m2").add(instance(other)).start()
        switch.run(10)
    router = FakeHost(switch, ip_address("10.0.0.1"), name="m1").add(replace(instance(priority), starts_as_master=True))
    router.start(table_by=switch.now + WAIT_S)
    return switch, router


@pytest.mark.parametrize("priority", [100, OWNER])
def test_it_becomes_master_as_soon_as_the_table_is_there(priority: int) -> None:
    switch, router = cold(priority)
    switch.run(WAIT_S / 2)
    assert switch.masters() == []
    router.serve()
    switch.run(0.001)
    assert switch.masters() == ["m1"]
    why = TransitionReason.OWNER if priority == OWNER else TransitionReason.TIMER
    assert router.history.transitions[-1].become.why is why


def test_a_table_that_is_there_in_time_delays_nothing() -> None:
    switch, router = cold()
    switch.run(1)
    router.serve()
    switch.run(TAKE_OVER_S - 1.2)
    assert switch.masters() == []
    switch.run(0.2)
    assert switch.masters() == ["m1"]


@pytest.mark.parametrize("priority", [100, OWNER])
def test_the_wait_has_a_limit(priority: int) -> None:
    switch, _ = cold(priority)
    switch.run(WAIT_S - 0.1)
    assert switch.masters() == []
    switch.run(0.2)
    assert switch.masters() == ["m1"]


@pytest.mark.parametrize("ready_s", [1.0, 10.0])
def test_it_preempts_when_it_would_without_the_wait_or_with_the_table(ready_s: float) -> None:
    switch, router = cold(other=90)
    switch.run(ready_s)
    assert switch.masters() == ["m2"]
    router.serve()
    switch.run(max(TAKE_OVER_S - ready_s, 0.001))
    assert (router.state, switch.masters()) == (State.MASTER, ["m1"])


@pytest.mark.parametrize("priority", [100, OWNER])
def test_a_better_master_that_appears_in_this_time_stays(priority: int) -> None:
    switch, router = cold(priority)
    switch.run(10)
    FakeHost(switch, ip_address("10.0.0.9"), name="m9").add(instance(OWNER)).start()
    switch.run(5)
    router.serve()
    switch.run(10)
    assert (router.state, switch.masters()) == (State.BACKUP, ["m9"])


def test_the_members_of_a_group_wait_together() -> None:
    switch = Switch()
    host = FakeHost(switch, ip_address("10.0.0.1"), name="m1")
    members = [host.add(replace(instance(100), name=name, vrid=vrid)) for vrid, name in enumerate(("a", "b"), 1)]
    SyncGroup(VrrpGroup(name="G", members=("a", "b")), members)
    for each in members:
        each.start(table_by=switch.now + WAIT_S)
    switch.run(WAIT_S / 2)
    assert {each.state for each in members} == {State.BACKUP}
    for each in members:
        each.serve()
    switch.run(2)
    assert {each.state for each in members} == {State.MASTER}
