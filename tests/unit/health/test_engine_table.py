"""The desired table as servers fail and recover; "as recorded" means from keepalived 2.2.7 on the real IPVS."""

from __future__ import annotations

import pytest

from pylvs.health.events import CheckFailed, CheckInconclusive, CheckRecovered, QuorumLost, ServerDown
from pylvs.health.probes import Outcome
from tests.unit.health.engine_harness import DEAD, OK, EngineHarness, key, server, service, tcp, unchecked, vip


def settle(harness: EngineHarness, kill: tuple[int, ...] = (), revive: tuple[int, ...] = ()) -> dict[int, int]:
    """Return the table after these servers failed and recovered, and every check has noticed."""
    harness.kill(*kill)
    harness.revive(*revive)
    harness.pass_(25)
    return harness.table()


def test_quorum_with_hysteresis_a_sorry_server_and_one_that_inhibits() -> None:
    """As recorded: quorum 2, hysteresis 1, sorry server, the second of four servers inhibits."""
    servers = (server(1), server(2, inhibit_on_failure=True), server(3), server(4))
    with EngineHarness(service(*servers, quorum=2, hysteresis=1, sorry=99)) as harness:
        harness.start()
        assert harness.table() == {1: 1, 2: 1, 3: 1, 4: 1}
        assert settle(harness, kill=(1,)) == {2: 1, 3: 1, 4: 1}
        assert settle(harness, kill=(3,)) == {2: 1, 4: 1}
        assert settle(harness, kill=(4,)) == {2: 1}
        harness.names()
        assert settle(harness, kill=(2,)) == {2: 0, 99: 1}
        assert harness.names() == ["server_down 2", "quorum_lost", "sorry_server_in 99"]
        assert settle(harness, revive=(1,)) == {2: 0, 99: 1}
        assert settle(harness, revive=(2,)) == {2: 0, 99: 1}
        assert harness.names() == ["server_up 1", "server_up 2"]
        assert settle(harness, revive=(3,)) == {1: 1, 2: 1, 3: 1}
        assert harness.names() == ["server_up 3", "quorum_gained", "sorry_server_out 99"]


def test_a_sorry_server_that_inhibits_waits_with_weight_0() -> None:
    """As recorded: sorry_server_inhibit."""
    servers = (server(1), server(2, inhibit_on_failure=True), server(3))
    with EngineHarness(service(*servers, quorum=2, sorry=99, sorry_server_inhibit=True)) as harness:
        assert harness.table() == {1: 1, 2: 1, 3: 1, 99: 0}
        harness.start()
        assert settle(harness, kill=(1, 2)) == {2: 0, 99: 1}
        assert settle(harness, revive=(1,)) == {1: 1, 2: 0, 3: 1, 99: 0}


def test_without_a_sorry_server_the_remaining_servers_serve() -> None:
    """As recorded: quorum 2 of three."""
    with EngineHarness(service(server(1), server(2), server(3), quorum=2)) as harness:
        harness.start()
        assert settle(harness, kill=(1, 3)) == {2: 1}
        assert harness.take(QuorumLost)
        assert settle(harness, kill=(2,)) == {}


def test_a_sorry_server_may_be_one_of_the_real_ones() -> None:
    with EngineHarness(service(server(1, weight=5), server(2), sorry=1)) as harness:
        harness.start()
        assert harness.table() == {1: 5, 2: 1}
        assert settle(harness, kill=(1, 2)) == {1: 1}


def test_the_keys_of_a_group_have_the_same_servers() -> None:
    keys = (vip(1), vip(2), vip(3, 443))
    with EngineHarness(service(server(1), server(2), keys=keys)) as harness:
        harness.start()
        settle(harness, kill=(2,))
        assert [harness.table(each) for each in keys] == [{1: 1}] * 3
        assert harness.times(1)[:2] == [0, 10]  # probed once for all of them


def test_rows_keep_the_order_of_the_configuration() -> None:
    with EngineHarness(service(server(3), server(1), unchecked(2), sorry=99)) as harness:
        harness.start()
        settle(harness, kill=(3,))
        settle(harness, revive=(3,))
        assert list(harness.table()) == [3, 1, 2]


def test_every_check_of_a_server_must_be_good() -> None:
    both = (tcp(1), tcp(1, port=443))
    with EngineHarness(service(server(1, *both), server(2))) as harness:
        harness.start()
        harness.names()
        harness.set_outcome(both[1], DEAD)
        harness.pass_(25)
        assert harness.table() == {2: 1}
        harness.set_outcome(both[0], DEAD)
        harness.pass_(25)
        harness.set_outcome(both[1], OK)
        harness.pass_(25)
        assert harness.table() == {2: 1}
        assert [event.check for event in harness.take(CheckRecovered)] == ["TCP_CHECK"]
        assert harness.names() == ["server_down 1"]
        harness.set_outcome(both[0], OK)
        harness.pass_(25)
        assert harness.names() == ["server_up 1"]


def test_failures_are_counted_and_named() -> None:
    with EngineHarness(service(server(1))) as harness:
        harness.start()
        harness.kill(1)
        harness.pass_(40)
        failures = harness.take(CheckFailed)
        assert [(each.attempt, each.attempts, each.counted) for each in failures] == [(1, 2, False), (2, 2, True)]
        (down,) = harness.take(ServerDown)
        assert (down.service, down.server, down.reason) == ("web", key(1), "TCP_CHECK: connection refused")
        assert down.at == 1e9 + 1011
        history = harness.engine.history(key(1))
        assert [event.name for event in history] == ["check_failed", "check_failed", "server_down"]


def test_one_failure_among_successes_is_forgotten() -> None:
    with EngineHarness(service(server(1))) as harness:
        harness.start()
        for _ in range(5):
            harness.kill(1)
            probes = len(harness.probes)
            while len(harness.probes) == probes:
                harness.pass_(0.5)
            harness.revive(1)
            harness.pass_(3)  # the retry comes a second later
        assert harness.take(ServerDown) == []
        assert len(harness.take(CheckFailed)) == 5


def test_a_check_that_this_machine_cannot_make_is_inconclusive() -> None:
    with EngineHarness(service(server(1))) as harness:
        harness.start()
        harness.names()
        harness.set_outcome(1, Outcome(False, "no file descriptors are left", inconclusive=True))
        harness.pass_(100)
        assert harness.table() == {1: 1}
        assert [event.reason for event in harness.take(CheckInconclusive)] == ["no file descriptors are left"]
        harness.kill(1)
        harness.pass_(25)
        assert harness.table() == {}


def test_listeners_of_the_table_are_called_only_if_it_changed() -> None:
    with EngineHarness(service(server(1), server(2)), service(server(3), name="other", keys=(vip(2),))) as harness:
        harness.start()
        harness.pass_(60)
        before, rows = harness.changes, harness.engine.desired_rows()
        harness.pass_(60)
        assert harness.changes == before
        harness.kill(2)
        harness.pass_(25)
        assert harness.changes == before + 1
        now = harness.engine.desired_rows()
        assert now[0] != rows[0]
        assert now[1] is rows[1]


def test_thousands_of_concurrent_failures_are_all_reported() -> None:
    with EngineHarness(service(*(server(number) for number in range(1, 251)), quorum=100, sorry=254)) as harness:
        harness.start()
        harness.names()
        harness.kill(*range(1, 201))
        harness.pass_(25)
        assert harness.table() == {254: 1}
        assert harness.names()[150:154] == ["server_down 151", "quorum_lost", "sorry_server_in 254", "server_down 152"]
        harness.revive(*range(1, 201))
        harness.pass_(25)
        assert harness.table() == dict.fromkeys(range(1, 251), 1)


def test_a_listener_that_raises_disturbs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    with EngineHarness(service(server(1))) as harness:

        def fail(*_: object) -> None:
            raise RuntimeError("mine")

        harness.engine.on_event(fail)
        harness.engine.on_change(fail)
        requests: list[str] = []
        harness.engine.on_event(lambda event: requests.append(event.name))
        harness.start()
        harness.kill(1)
        harness.pass_(25)
        assert "server_down" in requests
        assert harness.table() == {}
    assert "a listener to quorum_gained failed" in caplog.text


@pytest.mark.parametrize("omega", [True, False])
def test_the_stop_is_published_for_services_with_omega(omega: bool) -> None:
    with EngineHarness(service(server(1), server(2), server(3), omega=omega)) as harness:
        harness.start()
        harness.kill(2)
        harness.pass_(25)
        harness.names()
        harness.engine.announce_stop()
        assert not any(getattr(event, "removed", False) for event in harness.events)
        assert harness.names() == (["server_down 1", "server_down 3", "quorum_lost"] if omega else [])
        assert harness.table() == {1: 1, 3: 1}


@pytest.mark.parametrize("omega", [True, False])
def test_the_stop_ends_a_quorum_that_was_lost_before(omega: bool) -> None:
    with EngineHarness(service(server(1), omega=omega)) as harness:
        harness.start()
        harness.kill(1)
        harness.pass_(25)
        assert "quorum_lost" in harness.names()
        harness.engine.announce_stop()
        assert harness.names() == (["quorum_lost"] if omega else [])


def test_ending_leaves_no_probe_behind() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.probe_s = 4
        harness.start()
        assert harness.probes_running == 2
        harness.wait(harness.engine.close())
        assert harness.probes_running == 0
        harness.pass_(100)
        assert len(harness.probes) == 2
