"""Checks with good outcomes are repeated in the prober process, which only counts them."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
from ipaddress import ip_address

import pytest

from pylvs.health.checkers.sockets import Endpoint
from pylvs.health.prober.link import ProberLink
from pylvs.health.prober.repeat import Repeater
from pylvs.health.probes import CheckContext, Outcome, ProbeScheduler, ScheduledProbe
from pylvs.model.checks import Check, Pace, Target, TcpCheck
from tests.unit.health.fake_servers import PATIENT, TURNS, replies, tcp
from tests.unit.health.prober.test_prober import HELLO, http, outcome, with_link
from tests.waiting import until_async


class Steady:
    """A check that is repeated in the process, in a real scheduler."""

    def __init__(self, link: ProberLink, check: Check, every_s: float = 0.05) -> None:
        self.outcomes: list[Outcome] = []
        self.same = 0
        self.reason = ""
        self.every_s = every_s
        self.scheduled = ScheduledProbe(link.probe_of(check, CheckContext()))
        self.scheduled.on_outcome, self.scheduled.on_same = self._outcome, self._same
        self.scheduled.is_steady = lambda outcome: outcome.ok
        self.scheduler = ProbeScheduler()
        self.scheduler.start(asyncio.get_running_loop())
        self.scheduler.schedule(self.scheduled, 0)

    def _outcome(self, outcome: Outcome) -> float:
        self.outcomes.append(outcome)
        return self.every_s

    def _same(self, count: int, reason: str) -> None:
        self.same += count
        self.reason = reason


@pytest.mark.parametrize("plain", [True, False])
def test_good_outcomes_are_counted_and_the_first_other_one_is_reported(plain: bool) -> None:
    async def scenario(link: ProberLink) -> None:
        connections = 0

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            if not plain:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(HELLO)

        async with tcp(handler) as target:
            steady = Steady(link, TcpCheck(target=target, pace=PATIENT) if plain else http(target))
            await until_async(lambda: steady.same >= 20)
            assert len(steady.outcomes) == 1
            assert steady.reason == ("connected" if plain else "status 200")
            reported = steady.same
            for _ in range(TURNS):  # a connection may be accepted, and its handler not begun
                await asyncio.sleep(0)
            assert connections > reported  # the first outcome is not counted
            assert steady.scheduled.took_s is not None
            assert steady.scheduled.due > asyncio.get_running_loop().time() - 10
        await until_async(lambda: len(steady.outcomes) > 1)
        assert not steady.outcomes[1].ok  # refused now
        assert not steady.outcomes[1].inconclusive
        assert link._repetitions == {}
        await steady.scheduler.close()

    with_link(scenario)


def test_a_repeated_connection_that_hangs_times_out() -> None:
    """The listener's queue is full, so further SYNs are dropped."""

    async def scenario(link: ProberLink) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            target = Target(ip_address("127.0.0.1"), listener.getsockname()[1])
            steady = Steady(link, TcpCheck(target=target, pace=Pace(timeout_s=1.0)))

            def failed() -> list[Outcome]:  # an inconclusive one comes first if the process starts late
                return [each for each in steady.outcomes if not each.ok and not each.inconclusive]

            await until_async(failed)
            assert failed()[0] == Outcome(False, "timed out after 1 s")
            await steady.scheduler.close()

    with_link(scenario)


def test_a_repetition_ends_with_a_pause_or_an_immediate_probe_and_survives_the_process() -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(replies()) as target:
            steady = Steady(link, TcpCheck(target=target, pace=PATIENT))
            await until_async(lambda: steady.same)
            steady.scheduler.schedule(steady.scheduled, 0)  # check-now
            await until_async(lambda: len(steady.outcomes) == 2)
            before = steady.same
            await until_async(lambda: steady.same > before)
            os.kill(link.process.pid, signal.SIGKILL)
            await until_async(lambda: link.process.restarts)
            before = steady.same
            await until_async(lambda: steady.same > before)
            assert all(each.ok for each in steady.outcomes)  # not one inconclusive outcome
            steady.scheduler.pause(steady.scheduled)
            assert link._repetitions == {}
            before = steady.same
            await outcome(link, TcpCheck(target=target, pace=PATIENT))  # the process has read what was sent before
            await asyncio.sleep(0)
            assert steady.same == before
            steady.scheduler.resume(steady.scheduled, 0)
            await until_async(lambda: steady.same > before)
            await steady.scheduler.close()
            assert link._repetitions == {}

    with_link(scenario)


def test_a_repetition_that_is_not_reported_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(link: ProberLink) -> None:
        async with tcp(replies()) as target:
            steady = Steady(link, TcpCheck(target=target, pace=PATIENT))
            await until_async(lambda: link._repetitions)
            monkeypatch.setattr(link, "_apply_same", lambda same, now: None)
            (only,) = link._repetitions.values()
            only.due = 0.0
            link._sweep()
            assert steady.outcomes[-1] == Outcome(False, "the prober process did not report in time", inconclusive=True)
            await steady.scheduler.close()

    with_link(scenario)


class Disconnected(Endpoint):
    """A target whose connections fail in a way that no checker expects."""

    __slots__ = ()

    def finish(self, made: socket.socket) -> None:
        raise OSError(errno.ENOTCONN, "not connected")


def test_an_exception_of_one_connection_affects_no_other() -> None:
    ended: list[tuple[int, Outcome | Exception]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        repeater = Repeater(lambda run, outcome, took_s: ended.append((run, outcome)), lambda message: True)
        repeater.start(loop)
        loop.remove_reader(repeater._epoll.fileno())  # until both connections are ready
        async with tcp(replies()) as target:
            for run, kind in ((1, Disconnected), (2, Endpoint)):
                repeater.add(run, never, (kind(target), PATIENT.timeout_s), 0.01)
            await until_async(lambda: len(repeater._connecting) == 2)
            sockets = [each.sock for each in repeater._connecting.values()]
            await until_async(lambda: len(select.select([], sockets, [], 0)[1]) == 2)
            repeater._connected()
            assert repeater._connecting == {}
            assert [each.fileno() for each in sockets] == [-1, -1]
            assert repeater._runs[2].good == 1
            repeater.cancel(2)
        repeater._epoll.close()

    asyncio.run(scenario())
    ((run, outcome),) = ended
    assert run == 1
    assert isinstance(outcome, OSError)


async def never() -> Outcome:
    """Be no probe: these runs only connect."""
    raise AssertionError
