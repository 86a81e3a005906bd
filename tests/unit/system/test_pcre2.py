"""PCRE2 through ctypes: its dialect, offsets, and the bound on what a match may cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.system.pcre2 import OPTIONS, BadRegex, MatchFailed, Regex


@pytest.mark.parametrize(
    ("pattern", "options", "text", "found"),
    [
        (b"h.llo", (), b"say hello", True),
        (b"^hello", (), b"say\nhello", False),
        (b"^hello", ("multiline",), b"say\nhello", True),
        (b"HELLO", ("caseless",), b"hello", True),
        (b"a.b", (), b"a\nb", False),
        (b"a.b", ("dotall",), b"a\nb", True),
        (b"b$", ("dollar_endonly",), b"b\n", False),
        (b"h e # x", ("extended",), b"he", True),
        (b"[[:digit:]]+(?<n>x)", (), b"12x", True),
        (b"^.$", ("utf",), "é".encode(), True),
        (b"^.$", (), "é".encode(), False),
        (b"h.llo", ("utf",), b"\xff h\xc3\xa9llo", True),
        (b"", (), b"", True),
        (b"a\0b", (), b"xa\0b", True),
    ],
)
def test_it_matches_as_pcre2_does(pattern: bytes, options: tuple[str, ...], text: bytes, found: bool) -> None:
    assert Regex(pattern, options).matches(text) is found


def test_a_match_begins_where_it_may() -> None:
    hello = Regex(b"hello")
    assert [hello.matches(b"say hello", first) for first in (0, 4, 5, 9, 10)] == [True, True, False, False, False]
    assert [hello.matches(b"say hello", 0, last) for last in (0, 3, 4, 99)] == [False, False, True, True]
    assert not Regex(b"^hello").matches(b"say hello", 4)
    assert Regex(b"(?<=say )hello").matches(b"say hello", 4)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(b"a(", "missing closing parenthesis at character 3"), (b"*", "quantifier does not follow a repeatable item")],
)
def test_a_bad_expression_is_named(pattern: bytes, text: str) -> None:
    with pytest.raises(BadRegex, match=text):
        Regex(pattern)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(BadRegex, match="there is no regex option 'sloppy'"):
        Regex(b"a", ("sloppy",))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_taken(option: str) -> None:
    assert Regex(b"a", (option,)).matches(b"a")


def test_a_match_without_end_is_given_up() -> None:
    with pytest.raises(MatchFailed, match="the match was given up: match limit exceeded"):
        Regex(b"^(a+)+$").matches(b"a" * 40 + b"b")


@given(st.binary(max_size=30), st.lists(st.sampled_from(sorted(OPTIONS)), max_size=3), st.binary(max_size=50))
def test_no_expression_does_more_than_match_or_refuse(pattern: bytes, options: list[str], text: bytes) -> None:
    """It matches or does not, the same each time, or is refused with words on one line."""
    ends = set[bool | str]()
    for _ in range(2):
        try:
            ends.add(Regex(pattern, tuple(options)).matches(text))
        except (BadRegex, MatchFailed) as error:
            ends.add(str(error))
    (end,) = ends
    assert isinstance(end, bool) or (end.strip() and "\n" not in end)


@given(st.binary(max_size=30), st.binary(max_size=50))
def test_a_quoted_text_matches_where_it_stands(literal: bytes, text: bytes) -> None:
    quoted = Regex(b"".join(b"\\x%02x" % each for each in literal))
    assert quoted.matches(text) is (literal in text)
    assert quoted.matches(text + literal + text)
