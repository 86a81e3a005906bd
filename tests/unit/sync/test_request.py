"""Requests for whole tables: their notices, and what both ends know."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.sync import request, wire
from pylvs.sync.request import ANSWER_S, LONGEST_S, MOST_REQUESTS, PAUSE_S, REPEATS_S, Kind, Notice, Request, Requests

IDS = st.binary(min_size=request.ID_BYTES, max_size=request.ID_BYTES)
ONE, TWO = b"master 1", b"master 2"


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
    made = Request(ONE)
    assert not made.is_over(0.0)
    sent = [number for number in range(100) if made.is_due(number / 50)]
    assert [number / 50 for number in sent] == pytest.approx(REPEATS_S)


def test_without_a_reply_it_is_over_soon() -> None:
    made = Request(ONE)
    made.is_due(7.0)
    assert not made.is_over(7 + ANSWER_S - 0.1)
    assert made.is_over(7 + ANSWER_S)


def test_it_is_over_when_each_master_that_replied_has_sent_its_table() -> None:
    made = Request(ONE)
    made.is_due(7.0)
    for sender in ONE, TWO:
        made.receive(Kind.BEGUN, sender)
    made.receive(Kind.SENT, ONE)
    assert not made.is_over(7 + LONGEST_S - 0.1)
    made.receive(Kind.SENT, TWO)
    assert made.is_over(7 + ANSWER_S)


def test_a_master_that_never_ends_delays_it_by_a_limit() -> None:
    made = Request(ONE)
    made.is_due(7.0)
    made.receive(Kind.BEGUN, ONE)
    assert made.is_over(7 + LONGEST_S)


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
