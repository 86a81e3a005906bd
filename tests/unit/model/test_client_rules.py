"""client rules: their words, and what is wrong with them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.model.client_rules import Action, checked, rule_of
from pylvs.model.errors import InvalidOperation
from pylvs.model.service import Protocol, ServiceKey

SERVICE = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)


@pytest.mark.parametrize(
    "text",
    [
        "allow 10.0.0.0/8",
        "deny 2001:db8::/32",
        "deny 10.0.0.1/32 pass",
        "limit 0.0.0.0/0 20/s",
        "limit ::/0 20/min per 64",
        "limit 10.0.0.0/8 1/h per 24 burst 5 pass",
    ],
)
def test_a_rule_is_written_as_it_is_read(text: str) -> None:
    assert str(rule_of(text.split())) == text


def test_a_limit_has_defaults() -> None:
    rule = rule_of(["limit", "10.0.0.0/8", "20/min"])
    assert (rule.action, rule.burst, rule.client_bits, rule.interval_ns) == (Action.DROP, 20, 32, 3_000_000_000)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "an empty rule: must be allow PREFIX"),
        ("allow", "allow: must be"),
        ("allow 10.0.0.0/8 pass", "allow 10.0.0.0/8 pass: must be"),
        ("deny 10.0.0.0/8 20/s", "deny 10.0.0.0/8 20/s: must be"),
        ("deny 10.0.0.0/33", "10.0.0.0/33: must be a prefix"),
        ("deny 10.0.0.1/8", "10.0.0.1/8: has bits behind its prefix; write 10.0.0.0/8"),
        ("deny fe80::1%eth0", "fe80::1%eth0: a prefix has no zone; leave out the %"),
        ("deny fe80::%eth0/64", "fe80::%eth0/64: a prefix has no zone; leave out the %"),
        ("deny x", "x: must be a prefix"),
        ("limit 10.0.0.0/8", "limit 10.0.0.0/8: must be"),
        ("limit 10.0.0.0/8 20", "20: must be connections in a time"),
        ("limit 10.0.0.0/8 20/day", "20/day: must be connections in a time"),
        ("limit 10.0.0.0/8 0/s", "rate 0: must be a number from 1"),
        ("limit 10.0.0.0/8 5/s per 7", "per 7: must be a number from 8 to 32"),
        ("limit 10.0.0.0/8 5/s per", "must be allow PREFIX"),
        ("limit 10.0.0.0/8 5/s per 24 per 24", "must be allow PREFIX"),
        ("limit 10.0.0.0/8 5/s burst 0", "burst 0: must be a number from 1"),
    ],
)
def test_wrong_words_are_named(text: str, problem: str) -> None:
    with pytest.raises(InvalidOperation) as caught:
        rule_of(text.split())
    assert problem in str(caught.value)


def test_rules_are_ordered_by_prefix_and_each_is_there_once() -> None:
    rules = [rule_of(line.split()) for line in ("deny 10.1.0.0/16", "allow 10.0.0.0/8", "deny 10.1.0.0/16")]
    assert [str(each) for each in checked(SERVICE, 4, rules)] == ["allow 10.0.0.0/8", "deny 10.1.0.0/16"]


def test_two_rules_for_one_prefix_are_refused() -> None:
    rules = [rule_of(line.split()) for line in ("deny 10.0.0.0/8", "limit 10.0.0.0/8 5/s")]
    with pytest.raises(InvalidOperation, match=r"two rules for 10.0.0.0/8: deny 10.0.0.0/8; limit 10.0.0.0/8 5/s"):
        checked(SERVICE, 4, rules)
