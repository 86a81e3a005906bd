"""Servers that are up, but complete few handshakes: they are named, and with handshake_share they count as down."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from pylvs.health.events import HandshakesLow, HandshakesLowEnded, ServerDown, ServerName, ServerUp
from pylvs.health.handshakes import Shaken
from pylvs.model.dataclass import replace
from pylvs.model.rows import Handshakes
from pylvs.model.service import Destination, Protocol, ServiceKey
from pylvs.model.wanted import WantedService
from tests.unit.health.engine_harness import EngineHarness, key, server, service, vip

TEXT = "completes 0 of 30 handshakes, others 100%"
FINE, DEAD = Handshakes(30, 30), Handshakes(30, 0)


def judged(harness: EngineHarness, recent: bool = True, **found: Handshakes) -> list[int]:
    """Judge by handshakes of servers, as `rs1=...`; return the servers whose minute begins anew.

    Without `recent` they are older than the last seconds.
    """
    minute: Mapping[ServerName, Handshakes] = {("web", key(int(name[2:]))): each for name, each in found.items()}
    anew = harness.engine.judge(Shaken(minute, minute if recent else {}, minute))
    return [server.address.packed[-1] for _, server in anew]


def three(**more: object) -> WantedService:
    return service(server(1), server(2), server(3), **more)  # type: ignore[arg-type]  # fields of the service


def low(harness: EngineHarness) -> dict[int, str]:
    servers = harness.snapshot("web").servers
    return {each.server.address.packed[-1]: each.handshakes_low for each in servers if each.handshakes_low}


def test_a_server_that_completes_none_is_named_until_it_completes_enough() -> None:
    with EngineHarness(three()) as harness:
        harness.start()
        harness.names()
        for _ in range(2):
            assert judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE) == []
            assert low(harness) == {1: TEXT}
        assert harness.table() == {1: 1, 2: 1, 3: 1}
        found = harness.snapshot("web").servers[0]
        assert (found.up, found.handshakes, found.handshakes_total) == (True, DEAD, DEAD)
        (event,) = harness.take(HandshakesLow)
        assert (event.server, event.reason) == (key(1), TEXT)
        judged(harness, rs1=Handshakes(30, 25), rs2=FINE, rs3=FINE)
        (over,) = harness.take(HandshakesLowEnded)
        assert (over.server, over.reason) == (key(1), "completes 25 of 30 handshakes")
        assert low(harness) == {}
        assert harness.names() == []


def test_a_named_server_stays_named_while_few_clients_come() -> None:
    with EngineHarness(three()) as harness:
        harness.start()
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        mixed = Handshakes(30, 20)  # most of it before the fault
        judged(harness, False, rs1=mixed, rs2=FINE, rs3=FINE)
        judged(harness, rs1=Handshakes(4, 4), rs2=FINE, rs3=FINE)
        assert low(harness) == {1: TEXT}
        judged(harness, rs1=Handshakes(5, 5), rs2=FINE, rs3=FINE)
        assert low(harness) == {}


def test_the_last_seconds_show_a_fault_behind_a_good_minute() -> None:
    with EngineHarness(three()) as harness:
        harness.start()
        names = [("web", key(number)) for number in (1, 2, 3)]
        recent = dict(zip(names, (DEAD, FINE, FINE), strict=True))
        minute = dict(zip(names, (Handshakes(90, 60), FINE, FINE), strict=True))
        harness.engine.judge(Shaken(minute, recent, minute))
        assert low(harness) == {1: TEXT}


def test_a_server_without_handshakes_in_the_last_minute_is_not_named_any_more() -> None:
    with EngineHarness(three()) as harness:
        harness.start()
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        judged(harness, rs2=FINE, rs3=FINE)
        assert [event.reason for event in harness.take(HandshakesLowEnded)] == ["it gets no new connections"]
        assert harness.snapshot("web").servers[0].handshakes == Handshakes()
        judged(harness)
        assert [each.handshakes for each in harness.snapshot("web").servers] == [Handshakes()] * 3


def test_only_servers_that_get_connections_are_compared() -> None:
    """One is down by its check, one is drained. So the others fail alike."""
    with EngineHarness(three()) as harness:
        harness.start()
        harness.kill(2)
        harness.pass_(25)
        harness.engine.drain(key(3))
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        assert low(harness) == {}
        assert harness.snapshot("web").handshakes_low == "completes 0 of 30 handshakes, all real servers alike"
        judged(harness, rs1=FINE)
        assert harness.snapshot("web").handshakes_low == ""
        names = [each for each in harness.names() if "handshakes" in each]
        assert names == ["service_handshakes_low", "service_handshakes_low_ended"]


def test_udp_has_no_handshakes() -> None:
    udp = ServiceKey(Protocol.UDP, vip(1).address, 53)
    with EngineHarness(service(server(1), keys=(udp,))) as harness:
        found = harness.snapshot("web").servers[0]
        assert (found.handshakes, found.handshakes_total, found.handshakes_are_low) == (None, None, None)
    with EngineHarness(service(server(1), keys=(ServiceKey.of_mark(7),))) as harness:
        assert harness.snapshot("web").servers[0].handshakes == Handshakes()


def test_handshakes_of_a_server_that_a_reload_removed_mean_nothing() -> None:
    with EngineHarness(three()) as harness:
        harness.start()
        harness.replace(service(server(2), server(3)))
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        assert low(harness) == {}
        harness.replace()
        assert judged(harness, rs2=DEAD) == []


# --- handshake_share ---


def test_a_share_below_the_limit_takes_the_server_out_and_a_trial_brings_it_back() -> None:
    with EngineHarness(three(handshake_share=50, handshake_retry_s=60.0)) as harness:
        harness.start()
        harness.names()
        assert judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE) == []
        assert harness.table() == {2: 1, 3: 1}
        (down,) = harness.take(ServerDown)
        assert (down.server, down.reason) == (key(1), f"handshake_share: {TEXT}")
        assert harness.snapshot("web").servers[0].out_by_handshakes
        harness.pass_(59)
        assert judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE) == []
        assert harness.table() == {2: 1, 3: 1}
        harness.pass_(1)
        assert judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE) == [1]  # its old handshakes do not count
        assert harness.table() == {1: 1, 2: 1, 3: 1}
        (up,) = harness.take(ServerUp)
        assert up.reason == "handshake_share: on trial after 60 s"


def test_who_fails_its_trial_is_out_for_twice_as_long() -> None:
    with EngineHarness(three(handshake_share=50, handshake_retry_s=60.0)) as harness:
        harness.start()
        for pause in (60, 120, 240, 480, 600, 600):
            judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
            harness.pass_(pause - 1)
            judged(harness)
            assert harness.table() == {2: 1, 3: 1}
            harness.pass_(1)
            judged(harness)
            assert harness.table() == {1: 1, 2: 1, 3: 1}
        harness.pass_(601)  # it was fine for so long
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        harness.pass_(60)
        judged(harness)
        assert harness.table() == {1: 1, 2: 1, 3: 1}


def test_few_handshakes_take_no_server_out() -> None:
    with EngineHarness(three(handshake_share=50, handshake_minimum=31)) as harness:
        harness.start()
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        assert harness.table() == {1: 1, 2: 1, 3: 1}
        assert low(harness) == {1: TEXT}


def test_the_quorum_keeps_its_last_servers() -> None:
    """With a quorum of 2 only one of three may be out; the worst one is."""
    with EngineHarness(three(handshake_share=50, quorum=2)) as harness:
        harness.start()
        judged(harness, rs1=Handshakes(30, 2), rs2=DEAD, rs3=FINE)
        assert harness.table() == {1: 1, 3: 1}
        assert harness.snapshot("web").has_quorum


def test_a_failing_check_brings_back_what_the_quorum_needs() -> None:
    with EngineHarness(three(handshake_share=50, quorum=2)) as harness:
        harness.start()
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        harness.names()
        harness.kill(2)
        harness.pass_(25)
        assert harness.table() == {1: 1, 3: 1}
        assert harness.names()[-2:] == ["server_down 2", "server_up 1"]  # and the quorum was not lost


def test_checks_still_count_for_a_server_that_is_out() -> None:
    with EngineHarness(three(handshake_share=50)) as harness:
        harness.start()
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        harness.kill(1)
        harness.pass_(65)
        judged(harness)
        assert harness.table() == {2: 1, 3: 1}
        harness.revive(1)
        harness.pass_(25)
        assert harness.table() == {1: 1, 2: 1, 3: 1}


def test_a_server_that_a_reload_renames_returns_in_time() -> None:
    """Its service has another name, too."""
    with EngineHarness(three(handshake_share=50)) as harness:
        harness.start()
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        renamed = replace(server(1), destination=Destination(key(1, 8080)))
        harness.replace(service(renamed, server(2), server(3), name="other", handshake_share=50))
        assert harness.table() == {2: 1, 3: 1}
        harness.pass_(60)
        assert judged(harness) == [1]
        assert harness.table() == {1: 1, 2: 1, 3: 1}


def test_without_the_keyword_again_a_server_returns() -> None:
    with EngineHarness(three(handshake_share=50)) as harness:
        harness.start()
        judged(harness, rs1=DEAD, rs2=FINE, rs3=FINE)
        assert harness.table() == {2: 1, 3: 1}
        harness.replace(three())
        judged(harness)
        assert harness.table() == {1: 1, 2: 1, 3: 1}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("kill"), st.integers(1, 4)),
            st.tuples(st.just("revive"), st.integers(1, 4)),
            st.tuples(st.just("judge"), st.integers(0, 15)),
            st.tuples(st.just("pass"), st.integers(1, 200)),
        ),
        max_size=25,
    ),
    st.integers(1, 4),
)
def test_handshakes_alone_never_cost_the_quorum(steps: list[tuple[str, int]], quorum: int) -> None:
    """After each step: with the quorum lost, none is out by handshakes. Servers that are up are in the table."""
    wanted = service(*map(server, range(1, 5)), handshake_share=50, quorum=quorum)
    with EngineHarness(wanted) as harness:
        harness.start()
        for what, number in steps:
            if what == "judge":
                judged(harness, True, **{f"rs{at + 1}": DEAD if number >> at & 1 else FINE for at in range(4)})
            elif what == "pass":
                harness.pass_(number)
            else:
                (harness.kill if what == "kill" else harness.revive)(number)
            found = harness.snapshot("web")
            out = [each for each in found.servers if each.out_by_handshakes]
            assert found.has_quorum or not out
            assert {each.server.address.packed[-1] for each in found.servers if each.up} == harness.table().keys()
            assert not any(each.up for each in out)
