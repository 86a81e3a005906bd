"""Equal checks of one server may share a probe for all of its services."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from pylvs.health.probes import Outcome
from pylvs.model.checks import HttpCheck, MiscCheck, Script, Target, Url
from pylvs.model.wanted import WantedService
from tests.unit.health.engine_harness import PACE, EngineHarness, server, service, tcp, vip

SHARED = replace(PACE, shared=True)


def services(number: int) -> list[WantedService]:
    """Return so many services with the same two servers."""
    return [
        service(server(1, pace=SHARED), server(2, pace=SHARED), name=f"web {each}", keys=(vip(each),))
        for each in range(1, number + 1)
    ]


def test_one_probe_counts_for_all_services() -> None:
    with EngineHarness(*services(50)) as harness:
        harness.start()
        harness.pass_(20)
        assert len(harness.probes) == 2 * 3
        harness.names()
        harness.kill(2)
        harness.pass_(25)
        assert all(harness.table(vip(each)) == {1: 1} for each in range(1, 51))
        assert harness.names() == ["server_down 2"] * 50
        assert harness.changes == 1
        assert harness.snapshot("web 7").servers[0].checks[0].shared_by == 50


def test_six_services_with_one_server_cost_one_probe_a_second() -> None:
    pace = replace(SHARED, delay_loop_s=1)
    six = [service(server(1, pace=pace), name=f"web {each}", keys=(vip(each),)) for each in range(1, 7)]
    with EngineHarness(*six) as harness:
        harness.start(59.5)
        assert harness.times(1) == [float(second) for second in range(60)]
        harness.kill(1)
        harness.pass_(1)
        assert [len(row.destinations) for row in harness.engine.desired_rows()] == [1] * 6  # a retry follows
        harness.pass_(1)
        assert [len(row.destinations) for row in harness.engine.desired_rows()] == [0] * 6


def test_a_page_is_shared_by_services_with_the_same_host_name_only() -> None:
    target = Target(ip_address("10.0.0.1"), 80)
    plain = HttpCheck(target=target, urls=(Url("/"),), pace=SHARED)
    named = replace(plain, virtualhost="own.example")
    with EngineHarness(
        service(server(1, plain), name="a", keys=(vip(1),), virtualhost="a.example"),
        service(server(1, plain), name="b", keys=(vip(2),), virtualhost="b.example"),
        service(server(1, plain), name="c", keys=(vip(3),), virtualhost="b.example"),
        service(server(1, named), name="d", keys=(vip(4),), virtualhost="a.example"),
        service(server(1, named), name="e", keys=(vip(5),), virtualhost="b.example"),
    ) as harness:
        harness.start()
        assert [check for _, _, check in harness.probes] == [plain, plain, named]
        harness.replace(
            service(server(1, plain), name="a", keys=(vip(1),), virtualhost="b.example"),
            service(server(1, plain), name="b", keys=(vip(2),), virtualhost="b.example"),
        )
        harness.pass_(10)
        assert len(harness.probes) == 4


def test_other_servers_and_other_questions_are_not_shared() -> None:
    other = (tcp(1, SHARED), tcp(1, SHARED, port=443), tcp(1, replace(SHARED, delay_loop_s=5)), tcp(1))
    with EngineHarness(*(service(server(1, check), name=str(check), keys=(vip(),)) for check in other)) as harness:
        harness.start()
        assert len(harness.probes) == 4
    script = MiscCheck(script=Script(("ask",)), pace=SHARED)
    with EngineHarness(service(server(1, script), server(2, script))) as harness:
        harness.start()
        assert len(harness.probes) == 2  # of two servers


def test_a_weight_is_not_shared_between_different_ones() -> None:
    script = MiscCheck(script=Script(("ask",)), pace=SHARED, dynamic=True)
    with EngineHarness(
        service(server(1, script, weight=10), name="a", keys=(vip(1),)),
        service(server(1, script, weight=10), name="b", keys=(vip(2),)),
        service(server(1, script, weight=20), name="c", keys=(vip(3),)),
    ) as harness:
        harness.set_outcome(script, Outcome(True, "weight 4", 4))
        harness.start()
        assert len(harness.probes) == 2
        probes = len(harness.probes)
        harness.replace(
            service(server(1, script, weight=10), name="a", keys=(vip(1),)),
            service(server(1, script, weight=20), name="b", keys=(vip(2),)),
            service(server(1, script, weight=20), name="c", keys=(vip(3),)),
        )
        harness.pass_(5)
        assert len(harness.probes) == probes  # b has joined c
        assert [harness.table(vip(each)) for each in (1, 2, 3)] == [{1: 4}] * 3


def test_a_new_service_has_the_states_of_its_shared_checks() -> None:
    with EngineHarness(*services(2)) as harness:
        harness.start()
        harness.kill(2)
        harness.pass_(25)
        harness.names()
        harness.replace(*services(3))
        assert harness.table(vip(3)) == {1: 1}
        assert harness.names() == ["server_added 1", "server_added 2", "server_down 2", "quorum_gained"]
        harness.replace(*services(3)[:1])
        harness.revive(2)
        harness.names()
        harness.pass_(10)
        assert harness.names() == ["server_up 2"]
        harness.replace()
        probes = len(harness.probes)
        harness.pass_(60)
        assert len(harness.probes) == probes


def test_a_server_with_two_ports_is_probed_once_by_equal_checks() -> None:
    first = server(1, pace=SHARED)
    second = replace(first, destination=replace(first.destination, key=replace(first.destination.key, port=81)))
    with EngineHarness(service(first, second)) as harness:
        harness.start()
        assert len(harness.probes) == 1
        harness.kill(1)
        harness.pass_(25)
        assert harness.engine.desired_rows()[0].destinations == ()
