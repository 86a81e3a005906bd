"""AGENT_CHECK: the keywords of HAProxy's agents, alone and combined."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.health.checkers.agent import AgentState
from pylvs.health.probes import CheckContext, Outcome, ProbeFailed, probe_of
from pylvs.model.checks import AgentCheck, Pace, Target
from tests.unit.health.fake_servers import PATIENT, TIMED_OUT, Handler, asked, lapse, tcp, undisturbed


def agent_check(target: Target, pace: Pace = PATIENT) -> AgentCheck:
    return AgentCheck(target=target, pace=pace)


def agent(*lines: bytes, hold: bool = False) -> Handler:
    """Return a handler that sends each connection the next line."""
    left = list(lines)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0))
        await writer.drain()
        if hold:
            await reader.read()

    return handler


def of(weight: int) -> CheckContext:
    return CheckContext(weight=weight)


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("75%", Outcome(True, "the agent says 75%: weight 15", 15)),
        ("0%", Outcome(True, "the agent says 0%: weight 0", 0)),
        ("150%", Outcome(True, "the agent says 150%: weight 30", 30)),
        ("up", Outcome(True, "the agent says up")),
        ("UP Ready", Outcome(True, "the agent says up")),
        ("drain", Outcome(True, "the agent says drain", 0)),
        ("drain 50%", Outcome(True, "the agent says drain", 0)),
        ("up,50%", Outcome(True, "the agent says 50%: weight 10", 10)),
        ("maint", Outcome(False, "the agent says maint")),
        ("down", Outcome(False, "the agent says down")),
        ("fail", Outcome(False, "the agent says fail")),
        ("stopped", Outcome(False, "the agent says stopped")),
        ("down#disk is full", Outcome(False, "the agent says down: 'disk is full'")),
        ("ready 20% down #disk", Outcome(False, "the agent says down: 'disk'")),
        ("50% maxconn:30", Outcome(True, "the agent says 50%: weight 10 (ignored: 'maxconn:30')", 10)),
        ("maxconn:30", Outcome(True, "the agent says up (ignored: 'maxconn:30')")),
        ("ready\t100", Outcome(True, "the agent says up (ignored: '100')")),
        ("up\r75%", Outcome(True, "the agent says up")),
    ],
)
def test_the_meaning_of_keywords(line: str, outcome: Outcome) -> None:
    standing = AgentState()
    standing.update(line)
    assert standing.outcome(20) == outcome


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "the agent sent an empty line"),
        ("# only words", "the agent sent an empty line"),
        ("HTTP/1.1 200 OK", "the agent sent 'HTTP/1.1 200 OK', which has no known keyword"),
        ("-5%", "the agent sent '-5%', which has no known keyword"),
    ],
)
def test_an_invalid_line_is_an_error(line: str, reason: str) -> None:
    with pytest.raises(ProbeFailed, match=f"^{reason}$"):
        AgentState().update(line)


@pytest.mark.parametrize(
    ("configured", "percent", "weight"),
    [(1, 75, 1), (1, 1, 1), (3, 50, 2), (100, 33, 33), (0, 50, 0), (2**31 - 1, 999_999_999, 2**31 - 1)],
)
def test_a_share_is_rounded_but_not_down_to_nothing(configured: int, percent: int, weight: int) -> None:
    standing = AgentState()
    standing.update(f"{percent}%")
    assert standing.outcome(configured).weight == weight


def test_a_value_that_a_line_omits_stays() -> None:
    lines = [
        b"75%\n",
        b"drain\n",
        b"up\n",
        b"50%\n",
        b"ready\n",
        b"down # x\n",
        b"25%\n",
        b"up\n",
        b"maint\n",
        b"100%\n",
    ]
    expected = [(True, 15), (True, 0), (True, 0), (True, 0), (True, 10), (False, None), (False, None), (True, 5)]
    expected += [(False, None), (False, None)]

    async def main() -> list[tuple[bool, int | None]]:
        async with tcp(agent(*lines)) as target:
            probe = probe_of(agent_check(target), of(20))
            outcomes = [await probe() for _ in lines]
        return [(outcome.ok, outcome.weight) for outcome in outcomes]

    assert undisturbed(main) == expected


def test_a_line_is_read_with_or_without_its_end() -> None:
    for line, hold in ((b"50%", False), (b"50%\n", True), (b"50%\r\n", True)):
        assert asked(agent_check, agent(line, hold=hold), context=of(20)).weight == 10


def test_the_configured_text_is_sent_first() -> None:
    requests: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readline())
        writer.write(b"up\n")

    check = lambda target: AgentCheck(target=target, pace=PATIENT, send=b"state\n")  # noqa: E731
    assert asked(check, handler).ok
    assert requests == [b"state\n"]


async def agent_that_hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    lapse()
    await reader.read()


def test_an_unreachable_agent_is_a_failure() -> None:
    assert asked(agent_check, agent_that_hangs).reason == f"{TIMED_OUT} waiting for the agent's report"
    assert asked(agent_check, agent(b"")).reason == "connection closed waiting for the agent's report"
    too_long = asked(agent_check, agent(b"x" * 5000))
    assert too_long == Outcome(False, "a line of more than 1024 bytes waiting for the agent's report")


@given(st.text(max_size=60), st.integers(0, 2**31 - 1))
def test_no_line_makes_the_checker_raise(line: str, configured: int) -> None:
    standing = AgentState()
    try:
        standing.update(line)
    except ProbeFailed:
        return
    outcome = standing.outcome(configured)
    assert outcome.weight is None or 0 <= outcome.weight < 2**31
    assert "\n" not in outcome.reason
