"""Reloads: what did not change keeps its state, and what changed begins again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pylvs.health.events import Override, QuorumLost, ServerDown, Standing
from pylvs.model.checks import Check
from pylvs.model.service import Destination, Method, ServiceKey
from pylvs.model.wanted import GlobalSettings, WantedServer
from tests.unit.health.engine_harness import DEAD, OK, PACE, EngineHarness, key, server, service, tcp, unchecked, vip

ALPHA = replace(PACE, alpha=True)
SLOW = replace(PACE, delay_loop_s=20)


def test_the_same_configuration_changes_nothing() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.start()
        harness.kill(2)
        harness.pass_(25)
        harness.names()
        rows, before = harness.engine.desired_rows(), harness.engine.snapshot()
        harness.made.clear()
        harness.replace(service(server(1), server(2)))
        assert harness.made == []
        assert harness.engine.snapshot() == before  # timers too
        assert all(now is then for now, then in zip(harness.engine.desired_rows(), rows, strict=True))
        assert harness.names() == []


def test_another_change_leaves_the_states_of_servers() -> None:
    with EngineHarness(service(server(1), server(2), server(3))) as harness:
        harness.start()
        harness.kill(2)
        harness.pass_(25)
        before = harness.snapshot("web").servers
        harness.names()
        harness.made.clear()
        harness.replace(service(server(1), server(2), server(4), scheduler="rr"))
        assert harness.made == [tcp(4)]
        assert harness.table() == {1: 1, 4: 1}
        assert harness.snapshot("web").servers[:2] == before[:2]
        assert [event.name for event in harness.engine.history(key(2))][-1] == "server_down"
        assert harness.names() == ["server_added 4", "server_down 3"]
        assert harness.engine.desired_rows()[0].service.scheduler == "rr"


def at(port: int, method: Method = Method.ROUTE, *checks: Check, number: int = 2) -> WantedServer:
    """Server number 2 with another port in the table."""
    return WantedServer(Destination(key(number, port), method), checks or (tcp(number),))


@pytest.mark.parametrize(
    ("old", "new", "method"), [(80, 0, Method.ROUTE), (0, 80, Method.MASQ), (80, 8080, Method.TUNNEL)]
)
def test_a_server_whose_port_follows_the_service_keeps_its_state(old: int, new: int, method: Method) -> None:
    with EngineHarness(service(server(1), at(old, method), at(old, method, number=3))) as harness:
        harness.start()
        harness.set_outcome(tcp(3), DEAD)
        harness.pass_(25)
        harness.engine.disable(key(2, old))
        harness.names()
        harness.replace(service(server(1), at(new, method), at(new, method, number=3), keys=(vip(), vip(port=443))))
        assert harness.table() == {1: 1}
        assert harness.names() == []
        assert harness.engine.overrides() == {("web", key(2, new)): Override(Standing.DISABLED)}
        assert [each.name for each in harness.engine.history(key(2, new))] == ["overridden", "weight_changed"]
        harness.set_outcome(tcp(3), OK)
        harness.engine.enable(key(2, new))
        harness.pass_(25)
        assert harness.table() == {1: 1, 2: 1, 3: 1}


def test_a_renamed_service_keeps_its_servers_and_their_history() -> None:
    with EngineHarness(service(server(1), at(0))) as harness:
        harness.start()
        harness.engine.disable(key(2, 0))
        harness.replace(service(server(1), at(80), name="renamed"))
        assert harness.engine.overrides() == {("renamed", key(2)): Override(Standing.DISABLED)}
        assert harness.engine.current_name(("web", key(2, 0))) == ("renamed", key(2))
        assert harness.engine.current_name(("web", key(1))) == ("renamed", key(1))
        assert [each.name for each in harness.engine.history(key(2))] == ["overridden", "weight_changed"]


def test_another_written_port_is_another_server() -> None:
    with EngineHarness(service(server(1), at(80, Method.MASQ))) as harness:
        harness.start()
        harness.engine.disable(key(2, 80))
        harness.names()
        harness.replace(service(server(1), at(8080, Method.MASQ)))
        assert harness.table() == {1: 1, 2: 1}
        assert "server_added 2" in harness.names()


def test_a_server_that_may_be_one_of_two_begins_again() -> None:
    with EngineHarness(service(server(1), at(0, Method.MASQ))) as harness:
        harness.start()
        harness.engine.disable(key(2, 0))
        harness.names()
        harness.replace(service(server(1), at(80, Method.MASQ), at(443, Method.MASQ)))
        assert harness.engine.overrides() == {}
        assert harness.names() == ["server_added 2", "server_added 2", "server_down 2"]


def test_a_removed_server_that_was_up_has_a_down_event() -> None:
    """As recorded, with and without omega."""
    other = service(server(4), server(5), name="other", keys=(vip(2),))
    with EngineHarness(service(server(1), server(2), server(3)), other) as harness:
        harness.start()
        harness.kill(2, 5)
        harness.pass_(25)
        harness.take(ServerDown)
        harness.names()
        harness.replace(service(server(1)))
        events = harness.events
        assert harness.names() == ["server_down 3", "server_down 4", "quorum_lost"]
        assert all(getattr(event, "ending", False) and getattr(event, "removed", False) for event in events)
        assert [event.weight for event in events if isinstance(event, QuorumLost)] == [0]
        assert len(harness.engine.desired_rows()) == 1
        probes = len(harness.times(4))
        harness.pass_(60)
        assert len(harness.times(4)) == probes


def test_a_server_that_is_down_stays_down_when_its_check_changes() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.start()
        harness.kill(2)
        harness.pass_(25)
        harness.names()
        harness.replace(service(server(1), server(2, tcp(2, SLOW))))
        assert harness.table() == {1: 1}
        harness.pass_(60)
        assert harness.table() == {1: 1}
        assert harness.names() == []  # and no event is repeated
        harness.revive(2)
        harness.pass_(25)
        assert harness.names() == ["server_up 2"]


def test_a_server_that_is_up_stays_up_when_its_check_changes_even_to_alpha() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.start()
        harness.names()
        harness.kill(2)
        harness.replace(service(server(1), server(2, tcp(2, ALPHA), tcp(2, ALPHA, port=443))))
        assert harness.table() == {1: 1, 2: 1}
        harness.pass_(0.5)  # the first probe after a reload needs its retries
        assert harness.table() == {1: 1, 2: 1}
        harness.pass_(2)
        assert harness.table() == {1: 1}
        assert harness.names() == ["server_down 2"]


def test_new_servers_begin_as_at_the_start() -> None:
    with EngineHarness(service(server(1))) as harness:
        harness.start()
        harness.kill(3)
        harness.replace(service(server(1), server(2, pace=ALPHA), server(3)))
        assert harness.table() == {1: 1, 3: 1}
        harness.pass_(5)
        assert harness.table() == {1: 1, 2: 1}


def test_a_removed_check_no_longer_counts() -> None:
    both = (tcp(1), tcp(1, port=443))
    with EngineHarness(service(server(1, *both))) as harness:
        harness.start()
        harness.set_outcome(both[1], DEAD)
        harness.pass_(25)
        assert harness.table() == {}
        harness.names()
        harness.replace(service(server(1, both[0])))
        assert harness.table() == {1: 1}
        assert harness.names() == ["server_up 1", "quorum_gained"]


def test_a_changed_weight_quorum_and_sorry_server_count_at_once() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.start()
        harness.names()
        probes = len(harness.probes)
        harness.replace(service(server(1, weight=5), server(2), quorum=3))
        assert harness.table() == {1: 5, 2: 1}
        assert harness.names() == ["weight_changed 1"]
        harness.replace(service(server(1), server(2), quorum=3, sorry=98))
        assert harness.table() == {98: 1}
        assert harness.names() == ["weight_changed 1", "quorum_lost", "sorry_server_in 98"]
        harness.replace(service(server(1), server(2), quorum=3, sorry=99))
        assert harness.table() == {99: 1}
        assert harness.names() == ["sorry_server_out 98", "sorry_server_in 99"]
        harness.replace(service(server(1), server(2), quorum=2))
        assert harness.table() == {1: 1, 2: 1}
        assert harness.names() == ["quorum_gained", "sorry_server_out 99"]
        harness.pass_(5)
        assert len(harness.probes) == probes  # no check began anew


def test_a_service_with_another_name_is_the_same_service() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.start()
        harness.kill(2)
        harness.pass_(25)
        harness.names()
        harness.replace(service(server(1), server(2), name="shop"))
        assert harness.table() == {1: 1}
        assert harness.names() == []
        harness.revive(2)
        harness.pass_(25)
        assert harness.names() == ["server_up 2"]


def test_overrides_stay_with_the_servers_that_stay() -> None:
    with EngineHarness(service(server(1), server(2), server(3))) as harness:
        harness.start()
        harness.engine.drain(key(1))
        harness.engine.set_weight(key(2), 7)
        harness.engine.disable(key(3))
        harness.replace(service(server(1, tcp(1, SLOW)), server(2, weight=4)))
        assert harness.table() == {1: 0, 2: 7}
        harness.replace(service(server(1), server(2), server(3)))
        assert harness.table() == {1: 0, 2: 7, 3: 1}  # the third went, and is a new one now


def test_a_server_named_twice_counts_once() -> None:
    with EngineHarness(service(server(1), unchecked(1, 9))) as harness:
        harness.start()
        assert harness.table() == {1: 1}
        harness.names()
        harness.replace(service(server(1), unchecked(1, 8)))
        assert harness.names() == []
        assert harness.table() == {1: 1}


def test_a_probe_that_runs_through_a_reload_counts_where_its_check_stays() -> None:
    with EngineHarness(service(server(1), server(2))) as harness:
        harness.start()
        harness.names()
        harness.probe_s = 5
        harness.kill(1, 2)
        harness.pass_(20)  # the second failing probes run
        assert harness.probes_running == 2
        harness.replace(service(server(1), server(2, tcp(2, SLOW))))
        assert harness.names() == []
        harness.pass_(3)
        assert harness.names() == ["server_down 1"]


def test_another_script_user_makes_new_probes_and_keeps_states() -> None:
    with EngineHarness(service(server(1))) as harness:
        harness.start()
        harness.kill(1)
        harness.pass_(25)
        harness.made.clear()
        harness.replace(service(server(1)))
        assert harness.made == []
        harness.replace(service(server(1)), settings=GlobalSettings(script_user="nobody"))
        assert harness.made == [tcp(1)]
        assert harness.table() == {}
        assert harness.snapshot("web").servers[0].checked


def test_a_service_that_is_renamed_and_keeps_one_of_its_addresses_is_the_same() -> None:
    """A group is named by its entries: without an address it has no protocol."""
    mark = ServiceKey.of_mark(7)
    before = replace(service(server(1), server(2), name="group web tcp"), keys=(vip(), mark))
    with EngineHarness(before) as harness:
        harness.start()
        harness.engine.drain(key(2))
        harness.kill(1)
        harness.pass_(60)
        harness.replace(replace(before, name="group web", keys=(mark,)))
        assert harness.table(mark) == {2: 0}
        assert harness.engine.overrides() == {("group web", key(2)): Override(Standing.DRAINED)}
