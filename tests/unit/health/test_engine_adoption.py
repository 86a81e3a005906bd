"""After a crash the table's state of servers counts until they are checked."""

from __future__ import annotations

from dataclasses import replace

from pylvs.health.events import Override, ServiceIdentity, Standing
from pylvs.health.probes import Outcome
from pylvs.model.checks import MiscCheck, Script
from pylvs.model.service import Destination, Method
from pylvs.model.wanted import WantedServer
from tests.unit.health.engine_harness import PACE, EngineHarness, found, key, server, service, tcp, unchecked, vip

LATE = replace(PACE, warmup_s=20)  # the first probe comes after ten seconds
ALPHA = replace(LATE, alpha=True)


def test_a_server_missing_in_the_table_stays_down_until_checked() -> None:
    with EngineHarness(service(server(1, pace=LATE), server(2, pace=LATE), unchecked(3))) as harness:
        harness.engine.adopt([found(vip(), (1, 1))])
        assert harness.table() == {1: 1, 3: 1}
        harness.start(5)
        assert harness.table() == {1: 1, 3: 1}
        assert harness.names() == ["quorum_gained"]
        harness.pass_(10)
        assert harness.table() == {1: 1, 2: 1, 3: 1}
        assert harness.names() == ["server_up 2"]


def test_a_server_that_is_still_dead_causes_no_event() -> None:
    with EngineHarness(service(server(1, pace=LATE), server(2, pace=LATE))) as harness:
        harness.engine.adopt([found(vip(), (1, 1))])
        harness.kill(2)
        harness.start(60)
        assert harness.names() == ["quorum_gained"]
        assert harness.table() == {1: 1}


def test_a_server_in_the_table_is_up_even_with_alpha_and_has_its_retries() -> None:
    with EngineHarness(service(server(1, pace=ALPHA), server(2, pace=ALPHA))) as harness:
        harness.engine.adopt([found(vip(), (1, 1), (2, 1))])
        assert harness.table() == {1: 1, 2: 1}
        harness.kill(2)
        harness.start(10.5)  # its first probe failed
        assert harness.table() == {1: 1, 2: 1}
        harness.pass_(1)
        assert harness.table() == {1: 1}


def test_weight_0_is_down_only_with_inhibit_on_failure() -> None:
    inhibiting = server(1, pace=LATE, inhibit_on_failure=True)
    with EngineHarness(service(inhibiting, server(2, pace=LATE), server(3, pace=LATE, weight=0))) as harness:
        harness.engine.adopt([found(vip(), (1, 0), (2, 0), (3, 0))])
        assert [each.up for each in harness.snapshot("web").servers] == [False, True, True]
        assert harness.table() == {1: 0, 2: 1, 3: 0}


def test_a_service_missing_in_the_table_starts_as_configured() -> None:
    with EngineHarness(service(server(1, pace=LATE), server(2, pace=LATE))) as harness:
        harness.engine.adopt([found(vip(9), (1, 1))])
        assert harness.table() == {1: 1, 2: 1}


def test_any_key_of_a_group_is_enough() -> None:
    with EngineHarness(service(server(1, pace=LATE), server(2, pace=LATE), keys=(vip(1), vip(2)))) as harness:
        harness.engine.adopt([found(vip(2), (1, 1))])
        assert harness.table(vip(1)) == harness.table(vip(2)) == {1: 1}


def test_a_sorry_server_that_serves_continues() -> None:
    servers = (server(1, pace=LATE), server(2, pace=LATE, inhibit_on_failure=True), server(3, pace=LATE))
    with EngineHarness(service(*servers, quorum=2, sorry=99)) as harness:
        harness.engine.adopt([found(vip(), (2, 0), (99, 1))])
        assert harness.table() == {2: 0, 99: 1}
        harness.kill(3)
        harness.start(30)
        assert harness.table() == {1: 1, 2: 1}


def test_a_sorry_server_beside_real_ones_serves_until_checks_give_a_quorum() -> None:
    """A crash between the edits of a quorum leaves both, whether it was lost or gained."""
    servers = [server(number, pace=LATE) for number in (1, 2, 3)]
    with EngineHarness(service(*servers, unchecked(4), quorum=3, sorry=99)) as harness:
        harness.engine.adopt([found(vip(), (1, 1), (2, 1), (4, 1), (99, 1))])
        assert harness.table() == {99: 1}
        assert harness.snapshot("web").weight_up == 1
        harness.set_outcome(1, Outcome(False, "too many open files", inconclusive=True))
        harness.kill(3)
        harness.start(5)
        harness.engine.set_weight(key(2), 2)
        harness.engine.enable(key(1))
        assert harness.table() == {99: 1}
        harness.set_outcome(2, Outcome(False, "too many open files", inconclusive=True))
        harness.pass_(10)
        assert harness.names() == ["quorum_lost", "sorry_server_in 99", "overridden 2"]
        assert harness.table() == {99: 1}
        harness.revive(2)
        harness.pass_(10)
        assert harness.names() == ["server_up 2", "quorum_gained", "sorry_server_out 99"]
        assert harness.table() == {2: 2, 4: 1}


def test_a_drained_server_beside_a_sorry_server_keeps_its_connections() -> None:
    with EngineHarness(service(server(1, pace=LATE), server(2, pace=LATE), sorry=99)) as harness:
        harness.engine.restore_overrides({("web", key(1)): Override(Standing.DRAINED)}, {})
        harness.engine.adopt([found(vip(), (1, 0), (2, 1), (99, 1))])
        assert harness.table() == {1: 0, 99: 1}


def test_a_sorry_server_ends_at_the_start_without_checks() -> None:
    with EngineHarness(service(unchecked(1, weight=2), quorum=2, sorry=99)) as harness:
        harness.engine.adopt([found(vip(), (1, 2), (99, 1))])
        assert harness.table() == {1: 2}
        harness.start(60)
        assert harness.names() == ["quorum_gained"]


def test_a_quorum_within_its_hysteresis_is_adopted_from_the_table() -> None:
    servers = [server(number, pace=LATE) for number in (1, 2, 3)]
    with EngineHarness(service(*servers, quorum=3, hysteresis=1, sorry=99, sorry_server_inhibit=True)) as harness:
        harness.engine.adopt([found(vip(), (1, 1), (2, 1), (99, 0))])
        assert harness.table() == {1: 1, 2: 1, 99: 0}


def test_a_weight_set_by_a_check_holds_until_its_next_outcome() -> None:
    script = MiscCheck(script=Script(("load",)), dynamic=True, pace=LATE)
    with EngineHarness(service(server(1, script, weight=10), server(2, pace=LATE, weight=10))) as harness:
        harness.engine.adopt([found(vip(), (1, 3), (2, 4))])
        assert harness.table() == {1: 3, 2: 10}  # nothing but its operator can have set the second's
        harness.set_outcome(script, Outcome(True, "weight 5", 5))
        harness.start(15)
        assert harness.table() == {1: 5, 2: 10}
        assert harness.names() == ["quorum_gained", "weight_changed 1"]


def test_an_override_of_the_weight_does_not_revive_a_dead_server() -> None:
    with EngineHarness(
        service(*(server(number, pace=LATE, weight=0, inhibit_on_failure=True) for number in (1, 2)))
    ) as harness:
        harness.engine.restore_overrides({("web", key(1)): Override(weight=7), ("web", key(2)): Override(weight=0)}, {})
        harness.engine.adopt([found(vip(), (1, 0), (2, 0))])
        assert [each.up for each in harness.snapshot("web").servers] == [False, True]
        assert harness.table() == {1: 0, 2: 0}


def test_an_adopted_weight_ends_with_the_first_outcome() -> None:
    first, second = (MiscCheck(script=Script((name,)), dynamic=True, pace=LATE) for name in ("load", "other"))
    with EngineHarness(service(server(1, first, weight=10))) as harness:
        harness.engine.adopt([found(vip(), (1, 3))])
        harness.set_outcome(first, Outcome(True, "weight 5", 5))
        harness.start(15)
        assert harness.table() == {1: 5}
        harness.replace(service(server(1, second, weight=20)))
        assert harness.table() == {1: 20}


def test_an_override_is_no_sign_of_health() -> None:
    with EngineHarness(
        service(*(server(number, pace=LATE, inhibit_on_failure=True) for number in (1, 2, 3)))
    ) as harness:
        overrides = {
            ("web", key(1)): Override(Standing.DRAINED),
            ("web", key(2)): Override(Standing.DISABLED),
            ("web", key(7)): Override(Standing.DRAINED),
            ("shop", key(1)): Override(Standing.DRAINED),
        }
        assert harness.engine.restore_overrides(overrides, {}) == (("web", key(1)), ("web", key(2)))
        harness.engine.adopt([found(vip(), (1, 0), (3, 1))])
        assert harness.table() == {1: 0, 3: 1}
        harness.start(1)
        harness.engine.enable(key(1))
        harness.engine.enable(key(2))
        assert harness.table() == {1: 1, 2: 1, 3: 1}


def test_an_override_is_found_again_under_the_port_of_a_former_version() -> None:
    third = WantedServer(Destination(key(3), Method.MASQ), (tcp(3, LATE),))
    with EngineHarness(service(server(1, pace=LATE), server(2, pace=LATE), third)) as harness:
        overrides = {
            ("web", key(1, 0)): Override(Standing.DISABLED),
            ("web", key(2, 0)): Override(Standing.DISABLED),
            ("web", key(2)): Override(weight=7),
            ("web", key(3, 8080)): Override(Standing.DISABLED),
        }
        former = {"web": ServiceIdentity((vip(),), frozenset(name for _, name in overrides))}
        assert harness.engine.restore_overrides(overrides, former) == (("web", key(1)), ("web", key(2)))
        assert harness.engine.overrides() == {
            ("web", key(1)): Override(Standing.DISABLED),
            ("web", key(2)): Override(weight=7),
        }
        assert harness.engine.current_name(("web", key(1, 0))) == ("web", key(1))
        assert harness.engine.current_name(("web", key(2, 0))) == ("web", key(2, 0))


def test_an_override_of_a_server_that_is_gone_is_none_of_another_one_of_its_address() -> None:
    stays = WantedServer(Destination(key(1, 0), Method.MASQ), (tcp(1, LATE),))
    drained = {("web", key(1, 8080)): Override(Standing.DRAINED)}
    for former in {"web": ServiceIdentity((vip(),), frozenset({key(1, 0), key(1, 8080)}))}, {}:
        with EngineHarness(service(stays)) as harness:
            assert harness.engine.restore_overrides(drained, former) == ()
            assert harness.engine.current_name(("web", key(1, 8080))) == ("web", key(1, 8080))


def test_an_override_is_found_again_under_another_name_of_its_service() -> None:
    drained = {("web", key(1, 0)): Override(Standing.DRAINED)}
    former = {"web": ServiceIdentity((vip(),), frozenset({key(1, 0), key(2)}))}
    with EngineHarness(service(server(1), name="other", keys=(vip(2),)), service(server(1), name="shop")) as harness:
        assert harness.engine.restore_overrides(drained, former) == (("shop", key(1)),)
        assert harness.engine.current_name(("web", key(1, 0))) == ("shop", key(1))
        assert harness.engine.identity("shop") == ServiceIdentity((vip(),), frozenset({key(1)}))
