"""Reading blocks by a schema: accepted values, and findings about the others."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.config.compile.document import build
from pylvs.config.language.parser import read_text
from pylvs.config.language.tree import Severity
from pylvs.config.schema import global_defs
from pylvs.config.schema.grammar import Block, Keyword, Reader, Section, State
from pylvs.config.schema.types import (
    ADDRESS,
    BARE,
    ENDPOINT,
    FLAG,
    PORT,
    choice,
    integer,
    real,
    seconds,
    text,
    texts,
)

INNER = Block(
    "inner",
    "a block in a block",
    (Keyword("path", text("a path"), ""), Keyword("mark", integer(1, 9), "")),
)
OUTER = Block(
    "outer",
    "a block",
    (
        Keyword("weight", integer(0, 100), "", aliases=("heaviness",)),
        Keyword("priority", integer(0, 100, exact=True), ""),
        Keyword("delay", seconds(), ""),
        Keyword("share", real(0, 1), ""),
        Keyword("on_fire", FLAG, ""),
        Keyword("quick", FLAG, ""),
        Keyword("alone", BARE, ""),
        Keyword("method", choice("NAT", "DR"), ""),
        Keyword("address", ADDRESS, ""),
        Keyword("port", PORT, ""),
        Keyword("once", text(), "", first_wins=True),
        Keyword("dead", texts(), "", state=State.DEAD, instead="use weight"),
        Keyword("soon", texts(), "", state=State.LATER, instead="nothing is sent"),
        Keyword("silent", texts(), "", state=State.IGNORED),
        INNER,
        Block("list", "lines", lines=ENDPOINT, merged=True),
    ),
    head=text("a name"),
    merged=True,
)
ROOT = Block("", "", (OUTER,))


def read(text: str) -> tuple[Section, list[str]]:
    """The document's section and its findings without the locations."""
    reader = Reader(ROOT)
    section = reader.read(read_text(text)[0].nodes)
    return section, [
        f"{each.severity.value}: {each.text}; {each.advice}".rstrip("; ") for each in reader.findings.all()
    ]


def outer(*lines: str) -> tuple[Section, list[str]]:
    """The section and the findings of one block `outer`."""
    section, findings = read("\n".join(["outer one {", *lines, "}"]))
    return section.sections[0], findings


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("weight 7", "weight", 7),
        ("weight +7", "weight", 7),
        ('weight " 7"', "weight", 7),
        ("heaviness 7", "weight", 7),
        ("delay 0.25", "delay", 0.25),
        ("share .5", "share", 0.5),
        ("on_fire no", "on_fire", False),
        ("quick", "quick", True),
        ("quick off", "quick", False),
        ("alone", "alone", True),
        ("method DR", "method", "DR"),
        ("port 80", "port", 80),
    ],
)
def test_values_are_read_by_their_types(line: str, name: str, value: object) -> None:
    section, findings = outer(line)
    assert findings == []
    assert section.value(name, object) == value


@pytest.mark.parametrize(
    ("line", "name", "value", "finding"),
    [
        ("on_fire No", "on_fire", False, "'No' counts as 'no' here, and is invalid in keepalived; write 'no'"),
        ("quick ON", "quick", True, "'ON' counts as 'on' here, and is invalid in keepalived; write 'on'"),
        ("alone off", "alone", True, "surplus 'off' behind alone is ignored: alone is on; remove alone"),
        ("alone No", "alone", True, "surplus 'No' behind alone is ignored: alone is on; remove alone"),
        ("alone on", "alone", True, "surplus 'on' behind alone is ignored"),
    ],
)
def test_words_of_flags_are_keepalived_s(line: str, name: str, value: bool, finding: str) -> None:
    section, findings = outer(line)
    assert findings == [f"warning: {finding}"]
    assert section.value(name, bool) is value


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("weight", "error: weight lacks a whole number, 0 to 100; write 'weight ...' with a whole number, 0 to 100"),
        ("weight 101;", "error: '101;' is not a whole number"),
        ("weight -5x", "error: '-5x' is not a whole number"),
        ("priority 10;", "error: '10;' is not a whole number"),
        ("priority 0x10", "error: '0x10' is not a whole number"),
        ("weight 101", "error: weight 101 is not between 0 and 100"),
        ("delay -1", "error: delay -1 seconds is not between 0 and 4294"),
        ("delay soon", "error: 'soon' is not a number of seconds"),
        ("share 2", "error: share 2 is not between 0 and 1"),
        ("on_fire maybe", "error: 'maybe' is neither yes nor no; write one of on, true, yes, off, false, no"),
        ("method dr", "error: 'dr' is not one of NAT, DR; did you mean 'DR'?"),
        ("address web/24", "error: 'web' is not an IP address"),
        ("address 10.0.0.1%eth0", "error: '10.0.0.1%eth0' is not an IP address; write it without a device"),
        ("weight " + "9" * 5000, "error: a number of 5000 digits is too large"),
        ("port 0", "error: port 0 is not between 1 and 65535"),
        ("port http", "error: 'http' is not a whole number"),
    ],
)
def test_a_wrong_value_is_named_and_left_out(line: str, finding: str) -> None:
    section, findings = outer(line)
    assert findings == [finding]
    assert section.settings == []


@pytest.mark.parametrize(
    ("line", "name", "value", "finding"),
    [
        ("weight 10;", "weight", 10, "'10;' is not a whole number; 10 counts; write decimal digits alone"),
        ("weight 1.5", "weight", 1, "'1.5' is not a whole number; 1 counts; write decimal digits alone"),
        ("weight 0x10", "weight", 0, "'0x10' is not a whole number; 0 counts; write decimal digits alone"),
        ("weight heavy", "weight", 0, "'heavy' is not a whole number; 0 counts; write decimal digits alone"),
        ("port 80;", "port", 80, "'80;' is not a whole number; 80 counts; write decimal digits alone"),
    ],
)
def test_a_number_with_further_characters_counts_as_in_keepalived(
    line: str, name: str, value: int, finding: str
) -> None:
    section, findings = outer(line)
    assert findings == [f"error: {finding}"]
    assert section.value(name, int) == value


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("10.0.0.1/24", "prefix length /24"),
        ("10.0.0.1/a", "prefix length /a"),
        ("10.0.0.1-9", "end of a range -9"),
    ],
)
def test_behind_an_address_a_length_or_range_is_ignored(text: str, ignored: str) -> None:
    section, findings = outer(f"address {text}")
    assert findings == [f"warning: the {ignored} has no meaning here and is ignored; write 10.0.0.1"]
    assert section.value("address", object) == ip_address("10.0.0.1")


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("wieght 5", "warning: wieght is not known in outer and is ignored; did you mean 'weight'?"),
        ("path /", "warning: path is not known in outer and is ignored; it belongs in inner"),
        ("xyzzy", "warning: xyzzy is not known in outer and is ignored; remove it"),
        ("paht /", "warning: paht is not known in outer and is ignored; remove it"),  # path would be refused here
        ("weight 5 6 7", "warning: surplus '6 7' behind weight is ignored"),
        ("alone yes", "warning: surplus 'yes' behind alone is ignored"),
        ("dead 4", "warning: dead has no effect; use weight"),
        ("soon 4", "warning: soon is not implemented: ignored; nothing is sent"),
        ("inner", "error: inner has no block; add { ... }"),
    ],
)
def test_every_problem_is_a_finding(line: str, finding: str) -> None:
    assert outer(line)[1] == [finding]


def test_ignored_keywords_are_no_findings() -> None:
    assert outer("silent 1 2 3")[1] == []


def test_of_two_the_last_counts_unless_the_first_does() -> None:
    section, findings = outer("weight 1", "heaviness 2", "once a", "once b")
    assert section.value("weight", int) == 2
    assert section.value("once", str) == "a"
    assert findings == [
        "warning: heaviness was given already in line 2; the last one counts; remove one of them",
        "warning: once was given already in line 4; the first one counts; remove one of them",
    ]


def test_blocks_may_occur_repeatedly() -> None:
    section, findings = outer("inner {", "mark 1", "}", "inner {", "path /", "}")
    assert findings == []
    assert [each.value("mark", int) for each in section.below("inner")] == [1, None]


def test_lines_of_a_block_are_values() -> None:
    section, findings = outer("list {", "10.0.0.1 80", "::1 53", "nonsense", "}")
    assert [str(address) for address, _ in section.sections[0].lines(tuple)] == ["10.0.0.1", "::1"]
    assert findings == ["error: 'nonsense' is not an IP address"]


def test_a_block_without_its_head_does_not_count() -> None:
    section, findings = read("outer {\nweight 101\n}")
    assert list(section.below("outer")) == []
    assert findings[0] == "error: outer lacks a name; write 'outer ...' with a name"
    assert len(findings) == 2  # its statements are checked nevertheless


def test_a_finding_is_located_at_its_word() -> None:
    reader = Reader(ROOT)
    reader.read(read_text("outer one {\n    weight 5 6\n    delay x\n}")[0].nodes)
    assert [(each.location.line, each.location.column) for each in reader.findings.all()] == [(2, 14), (3, 11)]
    assert [each.severity for each in reader.findings.all()] == [Severity.WARNING, Severity.ERROR]


def test_a_keyword_without_effect_is_noted_with_the_reason() -> None:
    quiet = {"no_checker_emails", "vrrp_no_swap", "dynamic", "debug"}
    ignored = [each for block in global_defs.ROOT.blocks() for each in block.entries if each.state is State.IGNORED]
    assert {each.name for each in ignored if not each.instead} == quiet, "they are always on"
    _, found = build(read_text("global_defs {\n bfd_rt_priority 5\n}\n")[0])
    assert [(each.severity, each.text) for each in found] == [(Severity.NOTE, "bfd_rt_priority has no effect in pylvs")]
