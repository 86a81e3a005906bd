"""The daemon's end of copies between directors: what it reports to virtual routers, shows, and calls a problem."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, cast

import pytest

from pylvs.cli.directors.peer import lines
from pylvs.daemon.peer_director.part import COMPARE_S, FRESH_S, LATE_S, SETTLED_S, UNCONNECTED_S, Director, percent
from pylvs.daemon.peer_director.summary import digests_of, summary_of
from pylvs.health.engine import Engine
from pylvs.model.checks import Script, Target, TcpCheck
from pylvs.model.errors import Busy, InvalidOperation
from pylvs.model.plain import to_plain
from pylvs.model.service import Timeouts
from pylvs.model.wanted import Configuration, PeerSettings
from pylvs.peer.summary import Summary
from pylvs.system.processes.channel import BadMessage
from tests.unit.daemon.daemons import QUICK, address, configuration, server, service

PEER = PeerSettings(ip_address("192.0.2.9"), key_file="/key")


class FakeEngine:
    """An engine with a configuration, and no servers that were checked."""

    def __init__(self, configured: Configuration) -> None:
        self.configuration = configured

    def snapshot(self) -> list[Any]:
        return []


class Machine:
    """A daemon's part, with a clock and virtual routers of a test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.reports: list[tuple[float | None, str]] = []
        self.engine = FakeEngine(configuration(service(server(1))))
        engine = cast("Engine", self.engine)
        self.part = Director(lambda: engine, self._report, self._timeouts, clock=lambda: self.now)
        self.part._settings = PEER
        self.taken: dict[str, Any] = dict.fromkeys(("underway", "newer", "full", "unknown_count"), 0)
        self.taken |= {"complete": True, "live": 10_000, "records": 10_000, "held": 10_000, "unknown": []}
        self.taken |= {"seconds": 1.5, "current_at": 999.0}

    async def _report(self, current_at: float | None, text: str) -> None:
        self.reports.append((current_at, text))

    async def _timeouts(self) -> Timeouts:
        return Timeouts()

    def status(self, connected: bool = True, problem: str = "", sent: Any = None, **taken: Any) -> None:
        """Let the process report."""
        status = {"connected": connected, "problem": problem, "since": self.now, "name": "other", "version": "0.1.0"}
        self.part._receive({"status": status | {"taken": self.taken | taken, "sent": sent}})

    def step(self) -> tuple[float | None, str]:
        asyncio.run(self.part.step())
        return self.reports[-1]

    def problems(self) -> list[str]:
        return [f"{each.kind} {each}" for each in self.part.problems()]

    def shown(self) -> list[str]:
        encoded = self.part.encoded()
        assert encoded is not None
        return list(lines(encoded))


def test_virtual_routers_get_the_time_of_a_complete_copy() -> None:
    machine = Machine()
    assert machine.step() == (None, "the process that copies has not reported yet")
    machine.status()
    assert machine.step() == (999.0, "100% of 10,000 connections held")


@pytest.mark.parametrize(("held", "enough"), [(10_000, True), (9_999, True), (9_998, False)])
def test_all_but_one_of_ten_thousand_connections_are_enough(held: int, enough: bool) -> None:
    machine = Machine()
    machine.status(held=held)
    current_at, text = machine.step()
    assert (current_at is not None) is enough
    assert text == f"{held / 100:.2f}% of 10,000 connections held" if held < 10_000 else text.startswith("100%")


def test_copies_that_are_not_current_are_not_enough() -> None:
    machine = Machine()
    machine.status()
    machine.now += FRESH_S
    assert machine.step()[0] is None
    machine.status(current_at=machine.now, complete=False, underway=500)
    assert machine.step() == (None, "500 of 10,000 connections copied")
    machine.status(connected=False, problem="192.0.2.9 port 8848: Connection refused", current_at=machine.now)
    assert machine.step() == (None, "192.0.2.9 port 8848: Connection refused")


def test_a_director_that_stays_away_is_a_problem_and_a_short_absence_is_none() -> None:
    machine = Machine()
    machine.status(connected=False, problem="no answer")
    machine.now += UNCONNECTED_S - 1
    assert machine.problems() == []
    machine.now += 1
    assert machine.problems() == ["peer 192.0.2.9: connections are not copied: no answer"]


def test_missing_connections_are_a_problem_with_their_servers() -> None:
    machine = Machine()
    machine.status(held=9000, full=100, unknown_count=900, unknown=[["10.0.0.7:80 of TCP 192.0.2.1:80", 900]])
    (problem,) = machine.problems()
    assert problem == (
        "peer_connections 192.0.2.9: 90.00% of 10,000 connections held; 100 found no space in the table; "
        "900 are of servers that are not here: 10.0.0.7:80 of TCP 192.0.2.1:80 (900)"
    )


def test_late_copies_are_a_problem() -> None:
    machine = Machine()
    machine.status()
    machine.now += LATE_S
    assert machine.problems() == ["peer_connections 192.0.2.9: copies are 30 s old: 100% of 10,000 connections held"]


def test_a_difference_is_a_problem_after_a_while() -> None:
    machine = Machine()
    machine.status()
    machine.part._receive({"summary": to_plain(Summary({}, "900 120 300"))})
    machine.step()
    assert machine.problems() == []
    machine.now += SETTLED_S + COMPARE_S
    machine.status(current_at=machine.now)
    machine.step()
    name = machine.engine.configuration.services[0].name
    assert machine.problems() == [f"peer_differs {name}: only this director has it"]
    machine.part._receive({"summary": to_plain(machine.part._ours)})
    machine.now += COMPARE_S
    machine.status(current_at=machine.now)
    machine.step()
    assert machine.problems() == []


def test_status_shows_both_directions() -> None:
    machine = Machine()
    machine.status(newer=3, sent={"underway": 0, "live": 7, "records": 7, "held": 6})
    known = "100% of its 10,000 connections are here, 3 of them known better here"
    assert machine.shown() == [
        f"other director: other (192.0.2.9), pylvs 0.1.0: {known}, 1.0 s behind",
        "  there: it holds 85.71% of 7 connections of this director",
        "  its configuration is not known",
    ]
    machine.status(complete=False, underway=5000, current_at=0.0, sent={"underway": 3, "live": 7})
    assert machine.shown()[:2] == [
        "other director: other (192.0.2.9), pylvs 0.1.0: 5,000 of 10,000 connections copied",
        "  there: 3 of 7 connections sent",
    ]


def test_a_share_is_100_percent_only_without_a_gap() -> None:
    assert [percent(part) for part in (1.0, 0.999999, 0.5, 0.0)] == ["100%", "99.99%", "50.00%", "0.00%"]


def test_a_copy_on_demand_needs_the_other_director() -> None:
    machine = Machine()
    machine.status(connected=False, problem="no answer")
    with pytest.raises(Busy, match="nothing can be copied: no answer"):
        machine.part.ask()
    machine.part._settings = PeerSettings()
    with pytest.raises(InvalidOperation, match="no peer_director"):
        machine.part.ask()


@pytest.mark.parametrize("message", [{}, {"status": 1}, {"summary": {"services": 3}}])
def test_a_message_of_another_form_ends_the_process(message: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        Machine().part._receive(message)


def test_what_concerns_one_director_alone_is_no_difference() -> None:
    plain = service(server(1))
    check = TcpCheck(pace=QUICK, target=Target(address(1), 80, source=address(99), device="eth7"))
    scripts = replace(server(1), notify_up=Script(("/bin/true",)), smtp_alert=True, checks=(check,))
    own = replace(plain, servers=(scripts,), quorum_up=Script(("/bin/true",)), smtp_alert=True)
    assert digests_of([own]) == digests_of([plain])
    for other in (
        replace(plain, scheduler="rr"),
        replace(plain, servers=(server(1, weight=2),)),
        replace(plain, servers=(replace(server(1), checks=()),)),
    ):
        assert digests_of([other]) != digests_of([plain])
    assert summary_of(digests_of([plain]), [], Timeouts()).timeouts == "900 120 300"
