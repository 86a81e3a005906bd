"""Checks that ask the same of the same server may be one probe for all of its services."""

from __future__ import annotations

from dataclasses import replace

from pylvs.health.outcome import Outcome
from pylvs.model.checks import MiscCheck
from pylvs.model.scripts import Script
from pylvs.model.wanted import WantedService
from tests.unit.health.engine_harness import PACE, EngineHarness, server, service, tcp, vip

SHARED = replace(PACE, shared=True)


def services(number: int) -> list[WantedService]:
    """So many services with the same two servers."""
    return [
        service(server(1, pace=SHARED), server(2, pace=SHARED), name=f"web {each}", keys=(vip(each),))
        for each in range(1, number + 1)
    ]


def test_one_probe_speaks_for_all_services() -> None:
    with EngineHarness(*services(50)) as stage:
        stage.start()
        stage.pass_(20)
        assert len(stage.probes) == 2 * 3
        stage.names()
        stage.kill(2)
        stage.pass_(25)
        assert all(stage.table(vip(each)) == {1: 1} for each in range(1, 51))
        assert stage.names() == ["server_down 2"] * 50
        assert stage.changes == 1
        assert stage.engine.service_snapshot("web 7").servers[0].checks[0].shared_by == 50


def test_other_servers_and_other_questions_are_not_shared() -> None:
    other = (tcp(1, SHARED), tcp(1, SHARED, port=443), tcp(1, replace(SHARED, delay_loop_s=5)), tcp(1))
    with EngineHarness(*(service(server(1, check), name=str(check), keys=(vip(),)) for check in other)) as stage:
        stage.start()
        assert len(stage.probes) == 4
    script = MiscCheck(script=Script(("ask",)), pace=SHARED)
    with EngineHarness(service(server(1, script), server(2, script))) as stage:
        stage.start()
        assert len(stage.probes) == 2  # of two servers


def test_a_weight_is_not_shared_between_different_ones() -> None:
    script = MiscCheck(script=Script(("ask",)), pace=SHARED, dynamic=True)
    with EngineHarness(
        service(server(1, script, weight=10), name="a", keys=(vip(1),)),
        service(server(1, script, weight=10), name="b", keys=(vip(2),)),
        service(server(1, script, weight=20), name="c", keys=(vip(3),)),
    ) as stage:
        stage.say(script, Outcome(True, "weight 4", 4))
        stage.start()
        assert len(stage.probes) == 2
        probes = len(stage.probes)
        stage.replace(
            service(server(1, script, weight=10), name="a", keys=(vip(1),)),
            service(server(1, script, weight=20), name="b", keys=(vip(2),)),
            service(server(1, script, weight=20), name="c", keys=(vip(3),)),
        )
        stage.pass_(5)
        assert len(stage.probes) == probes  # b has joined c
        assert [stage.table(vip(each)) for each in (1, 2, 3)] == [{1: 4}] * 3


def test_a_service_that_joins_knows_what_is_known() -> None:
    with EngineHarness(*services(2)) as stage:
        stage.start()
        stage.kill(2)
        stage.pass_(25)
        stage.names()
        stage.replace(*services(3))
        assert stage.table(vip(3)) == {1: 1}
        assert stage.names() == ["server_added 1", "server_added 2", "server_down 2", "quorum_gained"]
        stage.replace(*services(3)[:1])
        stage.revive(2)
        stage.names()
        stage.pass_(10)
        assert stage.names() == ["server_up 2"]
        stage.replace()
        probes = len(stage.probes)
        stage.pass_(60)
        assert len(stage.probes) == probes


def test_a_server_with_two_ports_is_probed_once_where_the_question_is_one() -> None:
    first = server(1, pace=SHARED)
    second = replace(first, destination=replace(first.destination, key=replace(first.destination.key, port=81)))
    with EngineHarness(service(first, second)) as stage:
        stage.start()
        assert len(stage.probes) == 1
        stage.kill(1)
        stage.pass_(25)
        assert stage.engine.desired_rows()[0].destinations == ()
