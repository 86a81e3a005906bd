"""Requests for whole tables: their notices, and what both ends know."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.sync import request, wire
from pylvs.sync.request import (
    AGAIN_S,
    ANSWER_S,
    LONGEST_S,
    MOST_MASTERS,
    MOST_REQUESTS,
    PAUSE_S,
    REPEATS_S,
    SILENT_S,
    Kind,
    Masters,
    Notice,
    Request,
    Requests,
)

IDS = st.binary(min_size=request.ID_BYTES, max_size=request.ID_BYTES)
ONE, TWO = b"master 1", b"master 2"
BACKUP = b"backup."


def reply(kind: Kind, sender: bytes, made: Request) -> Notice:
    return Notice(kind, made.token, sender)


@given(st.sampled_from(Kind), IDS, IDS, st.integers(0, 255))
def test_a_notice_is_read_as_it_is_written_and_ipvs_takes_no_connection_from_it(
    kind: Kind, token: bytes, sender: bytes, syncid: int
) -> None:
    notice = Notice(kind, token, sender)
    data = request.encode(notice, syncid)
    assert request.decode(data, syncid) == request.decode(data, 0) == notice
    assert request.decode(data, syncid % 255 + 1) is None or syncid % 255 + 1 == syncid
    counts = Counter[str]()
    assert wire.parse(data, syncid, counts) == []
    assert counts == {"messages": 1, "connections": 0}


@given(st.binary(max_size=2 * request.SIZE))
def test_other_bytes_are_no_notice(data: bytes) -> None:
    assert request.decode(data, 0) is None


@pytest.mark.parametrize("at", [0, 2, 4, 5, 6, request.NAME_AT, request.KIND_AT])
def test_a_wrong_byte_is_no_notice(at: int) -> None:
    data = bytearray(request.encode(Notice(Kind.SENT, ONE), 5))
    data[at] ^= 0x40
    assert request.decode(bytes(data), 5) is None


def test_a_request_is_repeated_because_one_may_be_lost() -> None:
    made = Request(BACKUP)
    assert not made.is_over(0.0)
    sent = [number for number in range(100) if made.is_due(number / 50)]
    assert [number / 50 for number in sent] == pytest.approx(REPEATS_S)


def test_without_a_reply_it_is_over_soon() -> None:
    made = Request(BACKUP)
    made.is_due(7.0)
    assert not made.is_over(7 + ANSWER_S - 0.1)
    assert made.is_over(7 + ANSWER_S)


def test_it_is_over_when_each_master_that_replied_has_sent_its_table() -> None:
    made = Request(BACKUP)
    made.is_due(7.0)
    for sender in ONE, TWO:
        made.receive(reply(Kind.BEGUN, sender, made))
    made.receive(reply(Kind.SENT, ONE, made))
    assert not made.is_over(7 + LONGEST_S - 0.1)
    made.receive(reply(Kind.SENT, TWO, made))
    assert made.is_over(7 + ANSWER_S)


def test_a_master_that_never_ends_delays_it_by_a_limit() -> None:
    made = Request(BACKUP)
    made.is_due(7.0)
    made.receive(reply(Kind.BEGUN, ONE, made))
    assert not made.is_over(7 + LONGEST_S - 0.1)
    assert made.is_over(7 + LONGEST_S)


def test_another_request_waits_for_the_end_of_the_last_one_and_has_another_token() -> None:
    made = Request(BACKUP)
    assert not made.again(7.0), "none has begun"
    made.is_due(7.0)
    first = reply(Kind.SENT, ONE, made)
    made.receive(reply(Kind.BEGUN, ONE, made))
    assert not made.again(7 + AGAIN_S)
    assert made.receive(first)
    assert not made.again(7 + AGAIN_S - 0.1)
    assert made.again(7 + AGAIN_S)
    assert made.is_due(7 + AGAIN_S)
    assert made.token != first.token
    assert not made.receive(first), "of the first request"
    assert made.count == 2


def test_a_token_is_another_one_for_as_many_requests_as_a_master_remembers() -> None:
    made, tokens = Request(BACKUP), list[bytes]()
    made.is_due(0.0)
    for number in range(1, 1000):
        tokens.append(made.token)
        assert len(made.token) == request.ID_BYTES
        assert made.again(number * LONGEST_S)
    assert all(tokens[at] not in tokens[at + 1 : at + 1 + MOST_REQUESTS] for at in range(len(tokens)))


def test_notices_are_for_the_backup_that_asked_and_those_of_living_masters_for_all() -> None:
    token = BACKUP + b"\1"
    assert [request.is_for(Notice(kind, token), BACKUP) for kind in Kind] == [False, True, True, True]
    assert [request.is_for(Notice(kind, token), b"another") for kind in Kind] == [False, False, False, True]


def test_a_master_of_which_a_backup_missed_messages_is_asked_until_it_replies() -> None:
    made = Masters()
    for number in 1, 2, 4, 4, 5:
        made.alive(ONE, number, float(number))
        assert not made.missed(number), "a network may lose one, or repeat it"
    made.alive(ONE, 8, 8.0)
    assert made.missed(8.0) == "messages of a master were missed"
    made.asked()
    assert made.missed(8.1)
    made.begun(TWO, 8.2)
    assert made.missed(8.2)
    made.begun(ONE, 8.2)
    assert not made.missed(8.2)
    made.alive(ONE, 2, 9.0)
    assert made.missed(9.0), "a number that cannot follow"


def test_of_a_master_that_is_first_seen_late_messages_were_missed_unless_it_has_replied() -> None:
    made = Masters()
    made.begun(ONE, 0.0)
    made.alive(ONE, 900, 1.0)
    assert not made.missed(1.0)
    made.alive(TWO, 900, 1.0)
    assert made.missed(1.0)


def test_a_silent_master_is_reported_until_a_request_begins() -> None:
    made = Masters()
    made.alive(ONE, 1, 0.0)
    assert not made.missed(SILENT_S)
    for _ in range(2):
        assert made.missed(SILENT_S + 0.1) == "a master is silent"
    made.asked()
    assert not made.missed(SILENT_S + 0.2)
    made.alive(ONE, 2 + int(SILENT_S), SILENT_S + 1)
    assert made.missed(SILENT_S + 1), "it was forgotten, so its numbers are those of an unknown one"


def test_a_master_of_an_older_build_is_never_missed() -> None:
    """It replies, and does not show that it runs."""
    made = Masters()
    made.begun(ONE, 0.0)
    assert not any(made.missed(number) for number in range(100))


def test_forged_masters_are_bounded() -> None:
    made = Masters()
    for number in range(1000):
        made.alive(number.to_bytes(request.ID_BYTES), 1, 0.0)
        made.begun(number.to_bytes(request.ID_BYTES), 0.0)
    assert len(made._known) == MOST_MASTERS


def test_a_repeated_request_sends_the_table_once() -> None:
    made = Requests(TWO)
    assert made.receive(ONE) == made.receive(ONE) == Notice(Kind.BEGUN, ONE, TWO)
    assert made.begin(5.0)
    assert made.receive(ONE) == Notice(Kind.BEGUN, ONE, TWO)
    assert made.end(6.0) == [Notice(Kind.SENT, ONE, TWO)]
    assert made.receive(ONE) == Notice(Kind.SENT, ONE, TWO)
    assert not made.begin(100.0)


def test_requests_that_come_while_it_sends_are_served_together_after_a_pause() -> None:
    made = Requests(ONE)
    made.receive(b"first...")
    assert made.begin(0.0)
    for token in b"second..", b"third...":
        made.receive(token)
    assert not made.begin(5.0)
    assert len(made.end(10.0)) == 1
    assert not made.begin(19.9), "as long as the last one took"
    assert made.begin(20.0)
    assert [each.token for each in made.end(20.1)] == [b"second..", b"third..."]
    made.receive(b"fourth..")
    assert not made.begin(20.1 + PAUSE_S - 0.1)


def test_requests_whose_table_is_gone_are_served_with_the_later_ones() -> None:
    made = Requests(ONE)
    made.receive(b"first...")
    assert made.begin(0.0)
    made.receive(b"second..")
    made.wait_again()
    assert not made.is_serving
    assert made.begin(1.0)
    assert [each.token for each in made.end(2.0)] == [b"first...", b"second.."]


def test_a_flood_of_requests_is_bounded() -> None:
    made = Requests(ONE)
    replies = [made.receive(number.to_bytes(request.ID_BYTES)) for number in range(1000)]
    assert sum(reply is not None for reply in replies) == MOST_REQUESTS
