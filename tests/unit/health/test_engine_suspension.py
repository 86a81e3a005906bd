"""ha_suspend: no checks while this host does not have the service's address."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from pylvs.model.service import ServiceKey
from tests.unit.health.engine_harness import PACE, EngineHarness, server, service, vip

HERE = [ip_address("192.0.2.1"), ip_address("198.51.100.9")]
ELSEWHERE = [ip_address("198.51.100.9")]


def test_checks_run_only_while_the_address_is_here() -> None:
    with EngineHarness(service(server(1), ha_suspend=True), service(server(2), name="b", keys=(vip(2),))) as harness:
        harness.engine.set_host_addresses(ELSEWHERE)
        harness.start()
        assert harness.names() == ["checks_suspended", "quorum_gained", "quorum_gained"]
        harness.pass_(30)
        assert (len(harness.times(1)), len(harness.times(2))) == (0, 4)
        assert harness.snapshot("web").suspended
        harness.kill(1)
        harness.engine.set_host_addresses(HERE)
        assert harness.names() == ["checks_resumed"]
        harness.pass_(5)
        assert len(harness.times(1)) == 1
        assert harness.table() == {}
        harness.engine.set_host_addresses(ELSEWHERE)
        harness.revive(1)
        harness.pass_(60)
        assert harness.table() == {}  # what was known stays
        assert len(harness.times(1)) == 1


def test_a_probe_that_runs_when_the_address_is_removed_counts_and_is_the_last() -> None:
    with EngineHarness(service(server(1), ha_suspend=True)) as harness:
        harness.engine.set_host_addresses(HERE)
        harness.probe_s = 3
        harness.start()
        harness.kill(1)
        harness.engine.set_host_addresses(ELSEWHERE)
        harness.pass_(60)
        assert harness.table() == {}
        assert len(harness.times(1)) == 1
        assert harness.wait(harness.engine.check_now())  # does not wait for what will not come


def test_marks_have_no_address_and_a_group_needs_one() -> None:
    marked = service(server(1), name="mark", keys=(ServiceKey.of_mark(7),), ha_suspend=True)
    group = service(server(2), name="group", keys=(vip(1), vip(5)), ha_suspend=True)
    with EngineHarness(marked, group) as harness:
        harness.engine.set_host_addresses(HERE)
        harness.start()
        assert [len(harness.times(1)), len(harness.times(2))] == [1, 1]
        harness.engine.set_host_addresses(ELSEWHERE)
        harness.pass_(20)
        assert [len(harness.times(1)), len(harness.times(2))] == [3, 1]


def test_with_unknown_addresses_nothing_is_suspended() -> None:
    with EngineHarness(service(server(1), ha_suspend=True)) as harness:
        harness.start()
        assert len(harness.times(1)) == 1


def test_a_shared_check_runs_while_any_of_its_services_is_active() -> None:
    pace = replace(PACE, shared=True)
    first = service(server(1, pace=pace), ha_suspend=True)
    second = service(server(1, pace=pace), name="b", keys=(vip(2),))
    with EngineHarness(first, second) as harness:
        harness.engine.set_host_addresses(ELSEWHERE)
        harness.start()
        assert len(harness.times(1)) == 1
        harness.replace(first, replace(second, ha_suspend=True))
        harness.pass_(30)
        assert len(harness.times(1)) == 1
        harness.engine.set_host_addresses([*ELSEWHERE, ip_address("192.0.2.2")])
        harness.pass_(0.5)
        assert len(harness.times(1)) == 2


def test_a_reload_adds_suspended_servers_to_a_suspended_service() -> None:
    pace = replace(PACE, shared=True)
    with EngineHarness(service(server(1, pace=pace), ha_suspend=True)) as harness:
        harness.engine.set_host_addresses(ELSEWHERE)
        harness.start()
        suspended = service(server(1, pace=pace), server(2), ha_suspend=True)
        harness.replace(suspended)
        harness.pass_(30)
        assert harness.probes == []
        harness.replace(suspended, service(server(1, pace=pace), name="b", keys=(vip(2),)))
        harness.pass_(5)
        assert (len(harness.times(1)), len(harness.times(2))) == (
            1,
            0,
        )  # the new service wants the check that it shares


def test_a_shared_check_stops_when_a_reload_removes_its_last_active_service() -> None:
    pace = replace(PACE, shared=True)
    here = service(server(1, pace=pace), server(2), ha_suspend=True)
    elsewhere = service(server(1, pace=pace), name="b", keys=(vip(2),), ha_suspend=True)
    for reloaded in ((elsewhere,), (replace(here, servers=here.servers[1:]), elsewhere)):
        with EngineHarness(here, elsewhere) as harness:
            harness.engine.set_host_addresses(HERE)
            harness.start()
            harness.replace(*reloaded)
            harness.pass_(30)
            assert len(harness.times(1)) == 1
            harness.engine.set_host_addresses([ip_address("192.0.2.2")])
            harness.pass_(0.5)
            assert len(harness.times(1)) == 2
