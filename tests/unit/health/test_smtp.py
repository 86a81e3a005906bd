"""SMTP_CHECK: the dialogue, and wrong replies of mail servers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pylvs.health.probes import Outcome
from pylvs.model.checks import Pace, SmtpCheck, Target
from tests.unit.health.fake_servers import PATIENT, TIMED_OUT, Handler, asked, closed, lapse, received


def smtp_check(target: Target, pace: Pace = PATIENT) -> SmtpCheck:
    return SmtpCheck(targets=(target,), pace=pace)


def server(*replies: bytes, hang: bool = False, requests: list[bytes] | None = None) -> Handler:
    """Return a handler that sends these replies: the first at once, each other after a line."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, reply in enumerate(replies):
            if number:
                line = await reader.readline()
                if requests is not None:
                    requests.append(line)
            writer.write(reply)
            await writer.drain()
        if hang:
            await received(writer)
            lapse()
        if hang or len(replies) < 3:
            await reader.read()

    return handler


HELLO, DONE, BYE = b"220 mx ready\r\n", b"250 mx\r\n", b"221 bye\r\n"
GREETED = Outcome(True, "greeted: '220 mx ready'")


def test_requests_are_keepaliveds() -> None:
    requests: list[bytes] = []
    assert asked(smtp_check, server(HELLO, DONE, BYE, requests=requests)) == GREETED
    assert requests == [b"HELO smtpchecker.keepalived.org\r\n", b"QUIT\r\n"]
    requests.clear()
    check = lambda target: replace(smtp_check(target), helo_name="me.example")  # noqa: E731
    assert asked(check, server(HELLO, DONE, BYE, requests=requests)) == GREETED
    assert requests[0] == b"HELO me.example\r\n"


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ((b"220 mx ready\n", b"250 mx\n", b"221 bye\n"), GREETED),
        ((b"220-one\r\n220-two\r\n220 mx ready\r\n", b"250-mx\r\n250 HELP\r\n", BYE), GREETED),
        ((HELLO, DONE, b"500 what?\r\n"), GREETED),
        ((b"220\r\n", DONE, BYE), Outcome(True, "greeted: '220'")),
        ((b"554 no\r\n",), Outcome(False, "the greeting is '554 no', not 220")),
        ((b"220-one\r\n554 no\r\n",), Outcome(False, "the greeting is '554 no', not 220")),
        ((HELLO, b"500 what?\r\n", BYE), Outcome(False, "the answer to HELO is '500 what?', not 250")),
        ((b"HTTP/1.1 400 Bad\r\n",), Outcome(False, "the greeting is 'HTTP/1.1 400 Bad', which is no SMTP")),
        ((b"2200 mx\r\n",), Outcome(False, "the greeting is '2200 mx', which is no SMTP")),
        ((b"220-" + b"x" * 5000 + b"\r\n",), Outcome(False, "a line of more than 4096 bytes waiting for the greeting")),
        ((b"220-" + b"x" * 5000,), Outcome(False, "a line of more than 4096 bytes waiting for the greeting")),
        ((b"220-x\r\n" * 200,), Outcome(False, "the greeting has more than 100 lines")),
        ((HELLO, DONE, b""), Outcome(False, "connection closed waiting for the answer to QUIT")),
    ],
)
def test_replies_of_a_server_decide_the_outcome(replies: tuple[bytes, ...], outcome: Outcome) -> None:
    assert asked(smtp_check, server(*replies)) == outcome


@pytest.mark.parametrize(
    ("replies", "what"),
    [
        ((b"",), "the greeting"),
        ((b"220-one\r\n",), "the greeting"),
        ((HELLO, b""), "the answer to HELO"),
        ((HELLO, DONE, b""), "the answer to QUIT"),
    ],
)
def test_a_server_that_stops_replying_times_out(replies: tuple[bytes, ...], what: str) -> None:
    assert asked(smtp_check, server(*replies, hang=True)) == Outcome(False, f"{TIMED_OUT} waiting for {what}")


def test_all_addresses_must_answer() -> None:
    with closed() as refusing:
        both = lambda target: SmtpCheck(targets=(target, refusing), pace=PATIENT)  # noqa: E731
        assert asked(both, server(HELLO, DONE, BYE)) == Outcome(False, f"{refusing}: connection refused")
    twice = lambda target: SmtpCheck(targets=(target, target), pace=PATIENT)  # noqa: E731
    assert asked(twice, server(HELLO, DONE, BYE)) == GREETED
