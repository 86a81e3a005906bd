"""Mark rules: lists that others pass over, words that say the same, mistakes in one line."""

from __future__ import annotations

import itertools
import random
import shlex
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.errors import InvalidOperation
from pylvs.model.marks import ALL_BITS, TO_THE_END, MarkRule, Packet, checked, joined, mark_of, with_rule, without
from pylvs.model.marks.words import conditions, port_ranges, rule_of, rule_text

SHOP = Packet(ip_address("198.51.100.7"), ip_address("192.0.2.1"), 6, 4000, 443)


def test_every_rule_is_asked_and_the_last_word_counts() -> None:
    rules = [checked(rule_of(mark, dst="192.0.2.1")) for mark in "123"]
    assert mark_of(rules, SHOP) == 3
    assert mark_of([replace(rules[0], then_skip=TO_THE_END), *rules[1:]], SHOP) == 1


@pytest.mark.parametrize(
    ("mark", "before", "after"),
    [("5", 0xFF, 5), ("0x10/0xf0", 0xAB, 0x1B), ("0x8/0", 0x9, 0x1), ("0x3/0x3", 0x8, 0xB), ("0/0x1", 0x3, 0x2)],
)
def test_a_mask_selects_which_bits_change(mark: str, before: int, after: int) -> None:
    assert mark_of([rule_of(mark, dst="192.0.2.1")], SHOP, before) == after


@pytest.mark.parametrize(
    ("options", "matches"),
    [
        ({"proto": "tcp"}, True),
        ({"proto": "!tcp"}, False),
        ({"proto": "17"}, False),
        ({"dports": "80,443"}, True),
        ({"dports": "https"}, True),
        ({"dports": "400-442"}, False),
        ({"dports": "!80"}, True),
        ({"sports": "4000-4000"}, True),
        ({"src": "198.51.100.0/24"}, True),
        ({"src": "!198.51.100.0/24"}, False),
        ({"dst": "192.0.2.77/24"}, True),
        ({"dst": "2001:db8::1"}, False),
        ({"dst": "::/0"}, False),
        ({"device": "eth7"}, False),
        ({"device": "!eth7"}, True),
        ({"mac": "00:00:00:00:00:00"}, True),
        ({"tcp_flags": "0/0x2"}, True),
        ({"tos": "0x10/0x10"}, False),
        ({"if_mark": "0"}, True),
        ({"if_mark": "!0"}, False),
    ],
)
def test_conditions(options: dict[str, str], matches: bool) -> None:
    assert mark_of([checked(rule_of("9", **options))], SHOP) == (9 if matches else 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dst": "192.0.2"}, "--dst 192.0.2: not an address"),
        ({"src": "localhost"}, "--src localhost: not an address"),
        ({"dports": "80-"}, "--dports 80-: not a port"),
        ({"dports": "90-80"}, "--dports 90-80: this range of ports ends before it begins"),
        ({"dports": "65536"}, "--dports 65536: a port is a number from 0 to 65535"),
        ({"dports": ""}, ""),
        ({"dports": "80,,443"}, "--dports '': not a port"),
        ({"proto": "tpc"}, "--proto tpc: no such protocol"),
        ({"proto": "256"}, "--proto 256: no such protocol"),
        ({"mac": "02:00"}, "--mac 02:00: not a link address"),
        ({"mark": "-1"}, "-1: a mark is a number"),
        ({"mark": "4294967296"}, "4294967296: a mark is a number"),
        ({"sports": ","}, "--sports '': not a port"),
        ({"tcp_flags": "1/"}, "--tcp-flags '': a set of TCP flags is a number"),
        ({"tos": "0x100"}, "--tos 0x100: a type of service is a number"),
        ({"if_mark": "!"}, "--if-mark '': a mark is a number"),
        ({"mark": ""}, "'': a mark is a number"),
        ({"mark": "1/x"}, "x: a mark is a number"),
        ({"src": "::1", "dst": "192.0.2.1"}, "IPv4 and IPv6"),
        ({"dports": ",".join(str(port) for port in range(1, 40, 2))}, "20 ranges of ports; 16 fit"),
        ({"dports": "a\udcffb"}, "not a port"),
        ({"dports": "a\0b"}, "not a port"),
        ({"device": "a\udcffb"}, "--in a\udcffb: no name of a network device"),
        ({"device": "a" * 16}, f"--in {'a' * 16}: too long for the name of a network device"),
    ],
)
def test_mistakes_are_named(options: dict[str, str], words: str) -> None:
    options = {"mark": "1", "dst": "192.0.2.1"} | options
    if not words:
        assert checked(rule_of(**options)).target_ports == ()  # type: ignore[arg-type]
        return
    with pytest.raises(InvalidOperation) as error:
        checked(rule_of(**options))  # type: ignore[arg-type]
    assert words in str(error.value)


@given(st.text(max_size=12), st.sampled_from(("mark", "dst", "dports", "proto", "mac", "tos", "if_mark", "tcp_flags")))
def test_any_words_are_taken_or_refused(text: str, option: str) -> None:
    options = {"mark": "1", "dst": "192.0.2.1"} | {option: text}
    with suppress(InvalidOperation):
        assert checked(rule_of(**options)).family in (0, 4, 6)  # type: ignore[arg-type]


RULES = st.builds(
    MarkRule,
    mask=st.sampled_from((ALL_BITS, 0xF0)),
    value=st.integers(0, ALL_BITS),
    protocol=st.sampled_from((0, 6, 17, 132, 1, 99)),
    source=st.sampled_from((None, ip_network("198.51.100.0/24"))),
    target=st.sampled_from((ip_network("192.0.2.1/32"), ip_network("192.0.2.0/30"))),
    target_ports=st.lists(st.integers(0, 65535), max_size=16).map(lambda found: joined((each, each) for each in found)),
    device=st.sampled_from(("", "eth0")),
    link=st.sampled_from((b"", bytes(range(6)))),
    then_skip=st.sampled_from((0, TO_THE_END)),
)


@given(RULES)
def test_what_is_listed_can_be_added(rule: MarkRule) -> None:
    rule = checked(rule)
    words = shlex.split(rule_text(rule, 1))
    final = "--final" in words
    words = [word for word in words if word != "--final"]
    assert rule.changes_nothing is False
    options = {name.lstrip("-"): text for name, text in zip(words[:-1:2], words[1:-1:2], strict=True)}
    renamed = {{"in": "device"}.get(name, name): text for name, text in options.items()}
    assert checked(rule_of(words[-1], final=final, **renamed)) == rule
    assert conditions(rule).keys() == options.keys()


SKIPS = st.sampled_from((0, 0, 1, 2, 3, TO_THE_END))
LISTS = st.lists(st.tuples(st.booleans(), SKIPS, SKIPS), min_size=1, max_size=8)


def listed(shape: list[tuple[bool, int, int]]) -> list[MarkRule]:
    """Rules that set one bit each, so that the mark tells which were asked and matched; half of them match."""
    target = {True: ip_network("192.0.2.1/32"), False: ip_network("192.0.2.9/32")}
    return [
        MarkRule(mask=1 << at, value=1 << at, family=4, target=target[yes], then_skip=then, else_skip=other)
        for at, (yes, then, other) in enumerate(shape)
    ]


@given(LISTS, st.integers(0, 7))
def test_adding_and_removing_a_rule_keeps_the_jumps_of_others(shape: list[tuple[bool, int, int]], at: int) -> None:
    rules, position = listed(shape), at % (len(shape) + 1)
    longer = with_rule(rules, MarkRule(mask=0, value=0), position)
    assert mark_of(longer, SHOP) == mark_of(rules, SHOP)
    assert [rule.value for rule in without(longer, position)] == [rule.value for rule in rules]
    assert mark_of(without(longer, position), SHOP) == mark_of(rules, SHOP)


def test_ranges_are_joined() -> None:
    assert port_ranges("80,8000-8010,81,8005-8020", 6) == ((80, 81), (8000, 8020))
    draw = random.Random(1)
    for _ in range(200):
        ranges = [
            (first, first + draw.randrange(5)) for first in (draw.randrange(60) for _ in range(draw.randrange(8)))
        ]
        found = joined(ranges)
        assert {port for first, last in found for port in range(first, last + 1)} == {
            port for first, last in ranges for port in range(first, last + 1)
        }
        assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(found))
