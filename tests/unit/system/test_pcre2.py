"""PCRE2 through ctypes: its dialect, offsets, and the bound on what a match may cost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.system import pcre2
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


@pytest.mark.parametrize("failing", [{"pcre2_match_8": -48}, {"pcre2_match_data_create_8": None}])
def test_a_match_without_memory_is_no_failure_of_the_text(
    failing: dict[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        def __getattr__(self, name: str) -> Callable[..., int | None]:
            return lambda *_: failing.get(name, 1)

    regex = Regex(b"a")
    monkeypatch.setattr(regex, "_library", Library())
    with pytest.raises(MemoryError):
        regex.search(b"a", 0, None, lambda: False)


def test_a_match_without_end_is_given_up() -> None:
    with pytest.raises(MatchFailed, match="the match was given up: match limit exceeded"):
        Regex(b"^(a+)+$").matches(b"a" * 40 + b"b")


FROM_EACH_START = b"x[^y]*+[yz]"  # scans the rest of the text from each x
PATTERNS = [b"needle", b"^needle", b"needle$", b".*needle", b"(?<=x)needle", b"(?<=\\n)needle", b"", b"x*+n", b"."]
PATTERNS += [b"a(*COMMIT)b|n", b"x+(*SKIP)n|e", b"x|\\Gn", b"^.*n", b"(?s).*needle", b"(?m)^needle$", FROM_EACH_START]
PIECES = [b"x", b"\n", b"needle", b"a", b"ab", b"x" * 50, "\N{SNOWMAN}".encode(), b"\x80" * 9, b"\xff"]


def found(search: Callable[[], bool]) -> bool | str:
    """Return the result, or why there is none."""
    try:
        return search()
    except MatchFailed as error:
        return str(error)


@given(
    st.sampled_from(PATTERNS),
    st.lists(st.sampled_from(["utf", "firstline", "multiline", "dotall"]), max_size=2, unique=True),
    st.lists(st.sampled_from(PIECES), max_size=20),
    st.integers(0, 40),
    st.none() | st.integers(0, 300),
    st.booleans(),
)
def test_a_search_in_slices_finds_what_one_match_finds(
    pattern: bytes, options: list[str], pieces: list[bytes], first: int, last: int | None, slow: bool
) -> None:
    regex, text = Regex(pattern, tuple(options)), b"".join(pieces)
    ticks = count(step=1.0 if slow else 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pcre2, "monotonic", lambda: next(ticks))
        patch.setattr(pcre2, "_FIRST_SLICE", 3)
        sliced = found(lambda: regex.search(text, first, last, lambda: False))
    assert sliced == found(lambda: regex.matches(text, first, last))


def test_a_search_ends_when_its_time_is_over_although_each_match_is_within_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole search would take 5e11 steps, which PCRE2 counts as one for each start."""
    slices: list[tuple[int, int]] = []
    match = Regex.matches

    def counted(regex: Regex, data: bytes, first: int = 0, last: int | None = None, *, steps: int = 0) -> bool:
        slices.append((first, last or 0))
        return match(regex, data, first, last, steps=steps)

    ticks = count()
    monkeypatch.setattr(pcre2, "monotonic", lambda: float(next(ticks)))  # each slice takes a second
    monkeypatch.setattr(Regex, "matches", counted)
    with pytest.raises(MatchFailed, match="the search was given up"):
        Regex(FROM_EACH_START).search(b"x" * 1_000_000, 0, None, lambda: len(slices) == 10)
    assert [last - first + 1 for first, last in slices] == [64, 32, 16, 8, 4, 2, 1, 1, 1, 1]


def test_slices_of_a_search_that_is_fast_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcre2, "monotonic", lambda: 0.0)
    calls = 0

    def over() -> bool:
        nonlocal calls
        calls += 1
        return False

    assert not Regex(b"needle").search(b"x" * (16 << 20), 0, None, over)
    assert calls == 18  # 64 * (2^18 - 1) starts are fewer than 16 Mi, and the last slice has the rest


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
