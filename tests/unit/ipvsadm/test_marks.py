"""A service of a firewall mark that no packet can have: the command says so, and does it."""

from __future__ import annotations

import io

import pytest

from pylvs.ipvsadm.commands import Session
from pylvs.ipvsadm.main import run_restore
from pylvs.model.marks import MarkRule, checked
from pylvs.model.marks.words import rule_of
from tests.memory import MemoryDirector
from tests.unit.ipvsadm.replaying import AllHere


class Terminal(io.StringIO):
    """What a person looks at."""

    def isatty(self) -> bool:
        return True


def director_with(*rules: MarkRule) -> MemoryDirector:
    director = MemoryDirector()
    director.change_mark_rules(lambda _: list(rules))
    return director


def warning(words: str, director: MemoryDirector, stderr: io.StringIO | None = None) -> str:
    """Run a command that succeeds and prints nothing on stdout; return the output on stderr."""
    stdout, stderr = io.StringIO(), stderr or io.StringIO()
    assert Session(director, io.StringIO(), stdout, stderr, host=AllHere()).run(words.split()).status == 0
    assert stdout.getvalue() == ""
    return stderr.getvalue()


RULE = checked(rule_of("5", dst="192.0.2.1"))


@pytest.mark.parametrize("words", ["-A -f 6", "-A -f 5 -6", "-A -f 6 -s rr -p 60"])
def test_a_mark_that_no_rule_gives_is_warned_of(words: str) -> None:
    director = director_with(RULE)
    text = warning(words, director)
    assert text.startswith("ipvsadm: warning: no rule gives packets of IPv")
    assert text.count("\n") == 1
    assert len(director.services()) == 1


@pytest.mark.parametrize("rule", [RULE, rule_of("0x5/0xf", dst="192.0.2.1"), rule_of("5/0", dst="0.0.0.0/0")])
def test_a_mark_that_a_rule_may_give_is_not(rule: MarkRule) -> None:
    assert warning("-A -f 5", director_with(checked(rule))) == ""


def test_bits_that_a_rule_does_not_change_may_be_anything() -> None:
    assert warning(f"-A -f {0xF1}", director_with(checked(rule_of("0x1/0xf", dst="192.0.2.1")))) == ""
    assert warning(f"-A -f {0xF2}", director_with(checked(rule_of("0x1/0xf", dst="192.0.2.1")))) != ""


def test_without_any_rule_only_a_terminal_gets_the_warning() -> None:
    assert warning("-A -f 5", MemoryDirector()) == ""
    assert "pylvs mark add" in warning("-A -f 5", MemoryDirector(), Terminal())
    assert warning("-A -t 192.0.2.1:80", MemoryDirector(), Terminal()) == ""


def test_what_is_restored_is_warned_of_too() -> None:
    director, stderr = director_with(RULE), io.StringIO()
    rules = io.StringIO("-A -f 5 -s rr\n-A -f 7 -s rr\n")
    assert run_restore([], Session(director, rules, io.StringIO(), stderr)) == 0
    assert stderr.getvalue().count("warning") == 1
    assert "the mark 7" in stderr.getvalue()
