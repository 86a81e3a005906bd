"""Operator overrides: their effect on the table, and on checks."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from pylvs.health.events import Overridden, Override, Standing, WeightChanged
from pylvs.model.errors import NoSuchDestination, NoSuchService, OutOfRange
from tests.unit.health.engine_harness import PACE, EngineHarness, key, server, service, tcp, vip


def two_services() -> EngineHarness:
    """Return an engine with servers 1 and 2 in two services."""
    harness = EngineHarness(service(server(1), server(2)), service(server(1), server(2), name="shop", keys=(vip(2),)))
    harness.start()
    harness.names()
    return harness


def test_drain_keeps_the_server_in_the_table_with_weight_0() -> None:
    with two_services() as harness:
        assert harness.engine.drain(key(1), "web") == (("web", key(1)),)
        assert harness.table() == {1: 0, 2: 1}
        assert harness.table(vip(2)) == {1: 1, 2: 1}
        assert harness.names() == ["overridden 1", "weight_changed 1"]
        assert harness.engine.enable(key(1)) == (("web", key(1)), ("shop", key(1)))
        assert harness.table() == {1: 1, 2: 1}
        assert harness.names() == ["overridden 1", "weight_changed 1"]


def test_disable_removes_the_server_and_its_checks_continue() -> None:
    with two_services() as harness:
        harness.engine.disable(ip_address("10.0.0.1"))
        assert harness.table() == harness.table(vip(2)) == {2: 1}
        harness.kill(1)
        harness.pass_(25)
        harness.engine.enable(key(1))
        assert harness.table() == {2: 1}
        harness.revive(1)
        harness.pass_(10)
        assert harness.table() == {1: 1, 2: 1}


def test_a_weight_holds_until_it_is_taken_back() -> None:
    with two_services() as harness:
        harness.engine.set_weight(key(2), 9, "web")
        assert harness.table() == {1: 1, 2: 9}
        harness.engine.drain(key(2), "web")
        harness.engine.enable(key(2), "web")
        assert harness.table() == {1: 1, 2: 9}
        harness.engine.set_weight(key(2), None)
        assert harness.table() == {1: 1, 2: 1}
        changes = harness.take(WeightChanged)
        assert [(each.before, each.weight) for each in changes] == [(1, 9), (9, 0), (0, 9), (9, 1)]
        assert changes[0].reason == "the operator: weight 9"


def test_a_repeated_override_is_no_event() -> None:
    with two_services() as harness:
        harness.engine.drain(key(1))
        harness.names()
        harness.engine.drain(key(1))
        assert harness.names() == []


def test_a_drained_server_keeps_its_connections_while_the_sorry_server_serves() -> None:
    with EngineHarness(service(server(1), server(2), quorum=2, sorry=99)) as harness:
        harness.start()
        harness.engine.drain(key(1))
        assert harness.table() == {1: 0, 99: 1}
        harness.kill(1)
        harness.pass_(25)
        assert harness.table() == {99: 1}


def test_a_dead_server_stays_out_with_an_override_of_its_weight() -> None:
    with two_services() as harness:
        harness.kill(1)
        harness.pass_(25)
        harness.names()
        harness.engine.set_weight(key(1), 50)
        assert harness.table() == {2: 1}
        assert harness.names() == ["overridden 1", "overridden 1"]
        harness.revive(1)
        harness.pass_(10)
        assert harness.table() == {1: 50, 2: 1}


def test_the_engine_lists_the_overrides() -> None:
    with two_services() as harness:
        harness.engine.drain(key(1), "web")
        harness.engine.set_weight(key(1), 3, "web")
        assert harness.engine.overrides() == {("web", key(1)): Override(Standing.DRAINED, 3)}
        (first, last) = harness.take(Overridden)
        assert (first.override, last.override) == (Override(Standing.DRAINED), Override(Standing.DRAINED, 3))
        harness.engine.enable(key(1))
        harness.engine.set_weight(key(1), None)
        assert harness.engine.overrides() == {}


def test_an_unknown_server_is_reported() -> None:
    with two_services() as harness:
        with pytest.raises(NoSuchDestination, match=r"10\.0\.0\.7:80: no such real server in any service"):
            harness.engine.drain(key(7))
        with pytest.raises(NoSuchDestination, match="in service web"):
            harness.engine.disable(key(1, 81), "web")
        with pytest.raises(NoSuchService, match="shoq: no such service"):
            harness.engine.enable(key(1), "shoq")
        with pytest.raises(OutOfRange, match="weight -1: must be from 0 to"):
            harness.engine.set_weight(key(1), -1)
        assert harness.names() == []


def test_check_now_probes_immediately() -> None:
    slow = replace(PACE, delay_loop_s=3600)
    with EngineHarness(service(server(1, tcp(1, slow), tcp(1, slow, port=443)), server(2, pace=slow))) as harness:
        harness.start()
        harness.probe_s = 0.25
        harness.kill(1)
        (snapshot,) = harness.wait(harness.engine.check_now(key(1)))
        assert [check.failures for check in snapshot.checks] == [1, 1]
        assert [check.next_in_s for check in snapshot.checks] == [1, 1]  # retries as usual
        assert len(harness.times(2)) == 1
        assert len(harness.wait(harness.engine.check_now())) == 2
        assert len(harness.times(2)) == 2
        assert harness.wait(harness.engine.check_now(key(2), "web"))[0].up


def test_check_now_of_a_check_that_is_removed_ends() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.start()
        harness.probe_s = 3
        waiting = harness.loop.create_task(harness.engine.check_now())
        harness.pass_(1)
        harness.replace(service(server(1)))
        (left,) = harness.wait(waiting)
        assert left.server == key(1)
