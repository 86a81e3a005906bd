"""The frames between two directors: what one encodes the other decodes, and nothing else passes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.peer import wire
from pylvs.peer.summary import ServerSummary, ServiceSummary, Summary
from pylvs.peer.wire import BadFrame, Begin, End, Held, Hello, Kind, Limits

LIMITS = Limits(name=48, record=80, call=376, batch=4096)
HELLO = Hello(wire.PROTOCOL, "0.1.0", "abc", "director1")
SUMMARY = Summary({"web": ServiceSummary("a", {"10.0.0.1:80": ServerSummary("b", "c", None)})}, "900 120 300")


def test_each_content_decodes_to_what_was_encoded() -> None:
    assert wire.decode_hello(wire.encode_hello(HELLO)) == HELLO
    assert wire.decode_summary(wire.encode_summary(SUMMARY)) == SUMMARY
    begin, end, held = Begin(1, 7.8, 3, True), End(1, 2, 3), Held(1, 2, 3, 4, 5, 6)
    assert wire.decode_begin(wire.encode_begin(begin)) == begin
    assert wire.decode_end(wire.encode_end(end)) == end
    assert wire.decode_held(wire.encode_held(held)) == held


@given(kind=st.integers(0, 255), content=st.binary(max_size=200))
def test_any_bytes_are_accepted_or_refused_as_a_frame(kind: int, content: bytes) -> None:
    with contextlib.suppress(BadFrame):
        if len(content) <= wire.most_bytes(kind, LIMITS):
            wire.check(kind, content, LIMITS)
            assert kind in set(Kind)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=10))
def test_any_json_is_refused_as_hello(value: object) -> None:
    with pytest.raises(BadFrame):
        wire.decode_hello(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (Kind.HELLO, b"[" * 3000),
        (Kind.HELLO, wire.encode_hello(replace(HELLO, name="a\nb"))),
        (Kind.HELLO, wire.encode_hello(replace(HELLO, version="x" * 300))),
        (Kind.SUMMARY, b'{"services": {"a": 1}}'),
        (Kind.BEGIN, wire.encode_begin(Begin(0, float("nan"), 0, True))),
        (Kind.BEGIN, wire.encode_begin(Begin(0, 0.0, 0, True))),
        (Kind.BEGIN, wire.encode_begin(Begin(0, 1e9, 0, True))),
        (Kind.BEGIN, b""),
        (Kind.END, bytes(11)),
        (Kind.HELD, bytes(25)),
        (Kind.NAMES, bytes(LIMITS.name + 1)),
        (Kind.CONNECTIONS, bytes(LIMITS.record - 1)),
        (Kind.CALLS, bytes(LIMITS.record)),
        (Kind.TEMPLATES, bytes(1)),
    ],
)
def test_a_content_of_another_form_is_refused(kind: Kind, content: bytes) -> None:
    with pytest.raises(BadFrame):
        wire.check(kind, content, LIMITS)


def test_lengths_have_limits_by_kind() -> None:
    assert wire.most_bytes(Kind.ASK, LIMITS) == 0
    assert wire.most_bytes(Kind.CONNECTIONS, LIMITS) == 80 * 4096
    assert wire.most_bytes(Kind.CALLS, LIMITS) == 376 * 4096
    assert max(wire.most_bytes(kind, LIMITS) for kind in Kind) < 1 << 25
    with pytest.raises(BadFrame, match="kind 77"):
        wire.most_bytes(77, LIMITS)


def test_each_side_may_send_other_kinds() -> None:
    assert set(Kind) == wire.ASKING | wire.ANSWERING
    assert {Kind.HELLO, Kind.SUMMARY} == wire.ASKING & wire.ANSWERING


def test_another_version_is_named() -> None:
    assert wire.problem(HELLO, replace(HELLO, name="director2", version="0.2.0")) == "", "the form is what matters"
    for other in (
        replace(HELLO, version="0.2.0", format="def"),
        replace(HELLO, version="0.2.0", protocol=wire.PROTOCOL + 1),
    ):
        assert "runs pylvs 0.2.0, this director 0.1.0" in wire.problem(HELLO, other)
