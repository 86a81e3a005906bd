"""What the table should be as servers go and come; "as recorded" means from keepalived 2.2.7 on the real IPVS."""

from __future__ import annotations

import pytest

from pylvs.health.events import CheckFailed, CheckInconclusive, CheckRecovered, QuorumLost, ServerDown
from pylvs.health.outcome import Outcome
from tests.unit.health.engine_harness import DEAD, OK, EngineHarness, key, server, service, tcp, unchecked, vip


def settle(stage: EngineHarness, kill: tuple[int, ...] = (), revive: tuple[int, ...] = ()) -> dict[int, int]:
    """The table after these servers died and came back, long enough for every check to notice."""
    stage.kill(*kill)
    stage.revive(*revive)
    stage.pass_(25)
    return stage.table()


def test_quorum_with_hysteresis_a_sorry_server_and_one_that_inhibits() -> None:
    """As recorded: quorum 2, hysteresis 1, sorry server, the second of four servers inhibits."""
    servers = (server(1), server(2, inhibit_on_failure=True), server(3), server(4))
    with EngineHarness(service(*servers, quorum=2, hysteresis=1, sorry=99)) as stage:
        stage.start()
        assert stage.table() == {1: 1, 2: 1, 3: 1, 4: 1}
        assert settle(stage, kill=(1,)) == {2: 1, 3: 1, 4: 1}
        assert settle(stage, kill=(3,)) == {2: 1, 4: 1}
        assert settle(stage, kill=(4,)) == {2: 1}
        stage.names()
        assert settle(stage, kill=(2,)) == {2: 0, 99: 1}
        assert stage.names() == ["server_down 2", "quorum_lost", "sorry_server_in 99"]
        assert settle(stage, revive=(1,)) == {2: 0, 99: 1}
        assert settle(stage, revive=(2,)) == {2: 0, 99: 1}
        assert stage.names() == ["server_up 1", "server_up 2"]
        assert settle(stage, revive=(3,)) == {1: 1, 2: 1, 3: 1}
        assert stage.names() == ["server_up 3", "quorum_gained", "sorry_server_out 99"]


def test_a_sorry_server_that_inhibits_waits_with_weight_0() -> None:
    """As recorded: sorry_server_inhibit."""
    servers = (server(1), server(2, inhibit_on_failure=True), server(3))
    with EngineHarness(service(*servers, quorum=2, sorry=99, sorry_server_inhibit=True)) as stage:
        assert stage.table() == {1: 1, 2: 1, 3: 1, 99: 0}
        stage.start()
        assert settle(stage, kill=(1, 2)) == {2: 0, 99: 1}
        assert settle(stage, revive=(1,)) == {1: 1, 2: 0, 3: 1, 99: 0}


def test_without_a_sorry_server_who_is_left_serves_on() -> None:
    """As recorded: quorum 2 of three."""
    with EngineHarness(service(server(1), server(2), server(3), quorum=2)) as stage:
        stage.start()
        assert settle(stage, kill=(1, 3)) == {2: 1}
        assert stage.take(QuorumLost)
        assert settle(stage, kill=(2,)) == {}


def test_a_sorry_server_may_be_one_of_the_real_ones() -> None:
    with EngineHarness(service(server(1, weight=5), server(2), sorry=1)) as stage:
        stage.start()
        assert stage.table() == {1: 5, 2: 1}
        assert settle(stage, kill=(1, 2)) == {1: 1}


def test_the_keys_of_a_group_have_the_same_servers() -> None:
    keys = (vip(1), vip(2), vip(3, 443))
    with EngineHarness(service(server(1), server(2), keys=keys)) as stage:
        stage.start()
        settle(stage, kill=(2,))
        assert [stage.table(each) for each in keys] == [{1: 1}] * 3
        assert stage.times(1)[:2] == [0, 10]  # probed once for all of them


def test_rows_keep_the_order_of_the_configuration() -> None:
    with EngineHarness(service(server(3), server(1), unchecked(2), sorry=99)) as stage:
        stage.start()
        settle(stage, kill=(3,))
        settle(stage, revive=(3,))
        assert list(stage.table()) == [3, 1, 2]


def test_every_check_of_a_server_must_be_good() -> None:
    both = (tcp(1), tcp(1, port=443))
    with EngineHarness(service(server(1, *both), server(2))) as stage:
        stage.start()
        stage.names()
        stage.say(both[1], DEAD)
        stage.pass_(25)
        assert stage.table() == {2: 1}
        stage.say(both[0], DEAD)
        stage.pass_(25)
        stage.say(both[1], OK)
        stage.pass_(25)
        assert stage.table() == {2: 1}
        assert [event.check for event in stage.take(CheckRecovered)] == ["TCP_CHECK"]
        assert stage.names() == ["server_down 1"]
        stage.say(both[0], OK)
        stage.pass_(25)
        assert stage.names() == ["server_up 1"]


def test_failures_are_counted_and_named() -> None:
    with EngineHarness(service(server(1))) as stage:
        stage.start()
        stage.kill(1)
        stage.pass_(40)
        failures = stage.take(CheckFailed)
        assert [(each.attempt, each.attempts, each.counted) for each in failures] == [(1, 2, False), (2, 2, True)]
        (down,) = stage.take(ServerDown)
        assert (down.service, down.server, down.reason) == ("web", key(1), "TCP_CHECK: connection refused")
        assert down.at == 1e9 + 1011
        history = stage.engine.history(key(1))
        assert [event.name for event in history] == ["check_failed", "check_failed", "server_down"]


def test_one_failure_among_successes_is_forgotten() -> None:
    with EngineHarness(service(server(1))) as stage:
        stage.start()
        for _ in range(5):
            stage.kill(1)
            probes = len(stage.probes)
            while len(stage.probes) == probes:
                stage.pass_(0.5)
            stage.revive(1)
            stage.pass_(3)  # the retry comes a second later
        assert stage.take(ServerDown) == []
        assert len(stage.take(CheckFailed)) == 5


def test_a_check_that_this_machine_cannot_make_says_nothing_of_the_server() -> None:
    with EngineHarness(service(server(1))) as stage:
        stage.start()
        stage.names()
        stage.say(1, Outcome(False, "no file descriptors are left", inconclusive=True))
        stage.pass_(100)
        assert stage.table() == {1: 1}
        assert [event.reason for event in stage.take(CheckInconclusive)] == ["no file descriptors are left"]
        stage.kill(1)
        stage.pass_(25)
        assert stage.table() == {}


def test_the_table_is_told_to_have_changed_only_when_it_has() -> None:
    with EngineHarness(service(server(1), server(2)), service(server(3), name="other", keys=(vip(2),))) as stage:
        stage.start()
        stage.pass_(60)
        before, rows = stage.changes, stage.engine.desired_rows()
        stage.pass_(60)
        assert stage.changes == before
        stage.kill(2)
        stage.pass_(25)
        assert stage.changes == before + 1
        now = stage.engine.desired_rows()
        assert now[0] != rows[0]
        assert now[1] is rows[1]


def test_thousands_that_fail_at_once_are_one_by_one_found() -> None:
    with EngineHarness(service(*(server(number) for number in range(1, 251)), quorum=100, sorry=254)) as stage:
        stage.start()
        stage.names()
        stage.kill(*range(1, 201))
        stage.pass_(25)
        assert stage.table() == {254: 1}
        assert stage.names()[150:154] == ["server_down 151", "quorum_lost", "sorry_server_in 254", "server_down 152"]
        stage.revive(*range(1, 201))
        stage.pass_(25)
        assert stage.table() == dict.fromkeys(range(1, 251), 1)


def test_a_listener_that_fails_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with EngineHarness(service(server(1))) as stage:

        def fail(*_: object) -> None:
            raise RuntimeError("mine")

        stage.engine.on_event(fail)
        end = stage.engine.on_change(fail)
        heard: list[str] = []
        stage.engine.on_event(lambda event: heard.append(event.name))
        stage.start()
        end()
        stage.kill(1)
        stage.pass_(25)
        assert "server_down" in heard
        assert stage.table() == {}
    assert "a listener to quorum_gained failed" in caplog.text


@pytest.mark.parametrize("omega", [True, False])
def test_the_end_is_told_to_those_who_want_it(omega: bool) -> None:
    with EngineHarness(service(server(1), server(2), server(3), omega=omega)) as stage:
        stage.start()
        stage.kill(2)
        stage.pass_(25)
        stage.names()
        stage.engine.announce_stop()
        assert stage.names() == (["server_down 1", "server_down 3", "quorum_lost"] if omega else [])
        assert stage.table() == {1: 1, 3: 1}


def test_ending_leaves_no_probe_behind() -> None:
    with EngineHarness(service(server(1), server(2))) as stage:
        stage.probe_s = 4
        stage.start()
        assert stage.engine.probes_running == 2
        stage.wait(stage.engine.close())
        assert stage.engine.probes_running == 0
        stage.pass_(100)
        assert len(stage.probes) == 2
