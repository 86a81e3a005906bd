"""The start of services: the table before the first check, and the events, as in keepalived 2.2.7."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from pylvs.health.events import QuorumGained, QuorumLost, ServerDown
from pylvs.model.checks import SmtpCheck, Target
from tests.unit.health.engine_harness import PACE, EngineHarness, server, service, unchecked, vip

ALPHA = replace(PACE, alpha=True, retry=3)
PATIENT = replace(PACE, retry=3)


def test_the_table_is_known_before_the_start_and_full() -> None:
    with EngineHarness(service(server(1, weight=3), server(2), unchecked(3))) as harness:
        assert harness.table() == {1: 3, 2: 1, 3: 1}
        assert harness.names() == []


def test_a_start_reports_the_quorum_but_no_server() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.start()
        (gained,) = harness.take(QuorumGained)
        assert (gained.weight, gained.quorum, gained.initial) == (2, 1, True)
        assert harness.names() == []


def test_the_first_probe_counts_without_retries() -> None:
    with EngineHarness(service(server(1, pace=PATIENT), server(2, pace=PATIENT))) as harness:
        harness.kill(2)
        harness.start()
        assert harness.table() == {1: 1}
        assert harness.names() == ["quorum_gained", "server_down 2"]


def test_a_first_smtp_check_has_its_retries() -> None:
    check = SmtpCheck(targets=(Target(ip_address("10.0.0.1"), 25),), pace=PATIENT)
    with EngineHarness(service(server(1, check))) as harness:
        harness.kill(1)
        harness.start()
        harness.pass_(2)  # fails at 0, 1, 2, 3
        assert harness.table() == {1: 1}
        harness.pass_(1)
        assert harness.table() == {}
        assert harness.times(1) == [0, 1, 2, 3]


def test_later_probes_need_their_retries() -> None:
    with EngineHarness(service(server(1, pace=PATIENT), server(2, pace=PATIENT))) as harness:
        harness.start()
        harness.kill(2)
        harness.pass_(12.4)  # fails at 10, 11, 12, 13
        assert harness.table() == {1: 1, 2: 1}
        harness.pass_(1)
        assert harness.table() == {1: 1}
        assert harness.times(2) == [0, 10, 11, 12, 13]


def test_alpha_servers_come_with_their_first_success() -> None:
    with EngineHarness(service(server(1, pace=ALPHA), server(2, pace=ALPHA), unchecked(3))) as harness:
        assert harness.table() == {3: 1}
        harness.kill(2)
        harness.start()
        assert harness.table() == {1: 1, 3: 1}
        down = [event for event in harness.events if isinstance(event, ServerDown)]
        assert [event.initial for event in down] == [True]
        assert harness.names() == ["quorum_gained", "server_up 1", "server_down 2"]
        harness.pass_(25)
        assert harness.names() == []  # events are not repeated
        harness.revive(2)
        harness.pass_(10)
        assert harness.names() == ["server_up 2"]


def test_an_alpha_server_that_inhibits_waits_in_the_table() -> None:
    with EngineHarness(service(server(1, pace=ALPHA, inhibit_on_failure=True))) as harness:
        assert harness.table() == {1: 0}
        harness.start()
        assert harness.table() == {1: 1}


def test_without_a_quorum_the_sorry_server_serves_at_the_start() -> None:
    with EngineHarness(
        service(server(1, pace=ALPHA), server(2, pace=ALPHA), unchecked(4), quorum=2, sorry=99)
    ) as harness:
        assert harness.table() == {99: 1}
        harness.kill(2)
        harness.start()
        assert harness.table() == {1: 1, 4: 1}
        assert harness.names() == [
            "quorum_lost",
            "sorry_server_in 99",
            "server_up 1",
            "quorum_gained",
            "sorry_server_out 99",
            "server_down 2",
        ]


def test_a_start_without_a_quorum_and_a_sorry_server_is_silent() -> None:
    with EngineHarness(service(server(1, pace=ALPHA))) as harness:
        harness.kill(1)
        harness.start()
        (lost,) = harness.take(QuorumLost)
        assert lost.initial
        assert lost.silent


def test_hysteresis_counts_at_the_start_too() -> None:
    with EngineHarness(service(server(1), server(2), server(3), quorum=3, hysteresis=1, sorry=99)) as harness:
        harness.start()
        (lost,) = harness.take(QuorumLost)
        assert not lost.silent
        assert harness.table() == {99: 1}


def test_all_services_of_a_configuration_start() -> None:
    services = [service(server(1), name=f"web {number}", keys=(vip(number),)) for number in range(1, 6)]
    with EngineHarness(*services) as harness:
        harness.start()
        assert [event.service for event in harness.take(QuorumGained)] == [f"web {number}" for number in range(1, 6)]
        assert len(harness.times(1)) == 5  # one probe a service, unless they are shared
