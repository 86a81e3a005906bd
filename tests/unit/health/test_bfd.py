"""BFD_CHECK: the results of BFD sessions, and what becomes of servers when their process does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from pylvs.health.events import CheckInconclusive, ServerDown, ServerUp
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.health.sessions import SessionTable
from pylvs.model.checks import BfdCheck, Pace
from pylvs.model.dataclass import replace
from tests.unit.health.engine_harness import EngineHarness, key, server, service
from tests.unit.health.fake_servers import undisturbed

CHECK = BfdCheck(session="b", pace=Pace(delay_loop_s=10, timeout_s=5, retry=0, warmup_s=0))


def outcome(table: SessionTable | None, timeout_s: float = 0.01) -> Outcome:
    check = replace(CHECK, pace=replace(CHECK.pace, timeout_s=timeout_s))

    async def main() -> Outcome:
        return await probe_of(check, CheckContext(sessions=table))()

    return undisturbed(main)


def known(**results: tuple[bool | None, str]) -> SessionTable:
    table = SessionTable()
    table.replace(results)
    return table


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ((True, ""), Outcome(True, "session b is up")),
        ((False, "Path Down"), Outcome(False, "session b is down: Path Down")),
        ((None, "no answer yet"), Outcome(False, "session b is unknown: no answer yet", inconclusive=True)),
    ],
)
def test_a_check_has_the_result_of_its_session(result: tuple[bool | None, str], expected: Outcome) -> None:
    assert outcome(known(b=result)) == expected


@pytest.mark.parametrize("table", [None, SessionTable(), known(), known(other=(True, ""))])
def test_a_session_that_nothing_is_known_of_is_inconclusive(table: SessionTable | None) -> None:
    found = outcome(table)
    assert (found.ok, found.inconclusive) == (False, True)


def test_a_check_waits_for_the_first_result() -> None:
    async def main() -> Outcome:
        table = SessionTable()
        probe = asyncio.ensure_future(probe_of(CHECK, CheckContext(sessions=table))())
        await asyncio.sleep(0)
        table.replace({"b": (None, "no answer yet")})
        await asyncio.sleep(0)
        assert not probe.done()
        table.update("b", True, "")
        return await probe

    assert undisturbed(main).ok


def test_a_process_that_does_not_answer_makes_every_session_unknown() -> None:
    table = known(b=(True, ""), c=(False, "Path Down"))
    changes: list[set[str]] = []

    def note(names: Collection[str]) -> None:
        changes.append(set(names))

    table.on_change = note
    table.lose("it is stopped")
    assert table.result("b") == (None, "it is stopped")
    table.lose("it is still stopped")  # the first reason stays
    table.update("b", False, "")  # an event that came late
    assert table.result("b") == (None, "it is stopped")
    table.replace({"b": (False, "Path Down"), "c": (False, "Path Down")})
    assert table.result("b") == (False, "Path Down")
    assert changes == [{"b", "c"}, {"b", "c"}]


def test_the_same_results_change_nothing() -> None:
    table = known(b=(True, ""))
    table.on_change = lambda names: pytest.fail(f"{names} changed")
    table.replace({"b": (True, "")})
    table.update("b", True, "")


def test_a_change_of_a_session_counts_at_once() -> None:
    with EngineHarness(service(server(1, CHECK), server(2))) as harness:
        harness.start(1)
        harness.kill(1)
        harness.engine.sessions_changed({"other"})
        harness.pass_(0.001)
        assert harness.take(ServerDown) == []
        harness.engine.sessions_changed({"b"})
        harness.pass_(0.001)
        assert [each.server for each in harness.take(ServerDown)] == [key(1)]
        assert harness.table() == {2: 1}
        harness.revive(1)
        harness.engine.sessions_changed({"b"})
        harness.pass_(0.001)
        assert [each.server for each in harness.take(ServerUp)] == [key(1)]


def test_a_server_keeps_its_state_while_its_session_is_unknown() -> None:
    with EngineHarness(service(server(1, CHECK))) as harness:
        harness.start(1)
        harness.set_outcome(1, Outcome(False, "session b is unknown", inconclusive=True))
        harness.engine.sessions_changed({"b"})
        harness.pass_(60)
        assert harness.take(ServerDown) == []
        assert [each.reason for each in harness.take(CheckInconclusive)] == ["session b is unknown"]
        assert harness.snapshot("web").servers[0].checks[0].inconclusive


def test_a_session_that_changes_before_the_start_is_probed_by_the_start() -> None:
    with EngineHarness(service(server(1, CHECK))) as harness:
        harness.engine.sessions_changed({"b"})
        harness.start(1)
        assert len(harness.probes) == 1
