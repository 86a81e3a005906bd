"""How findings are shown."""

from __future__ import annotations

from pylvs.config.language.parser import read_text
from pylvs.config.language.tree import MAX_FINDINGS, Findings, Location
from pylvs.config.show import Report


def report(text: str, pictures: bool = False, colours: bool = False) -> str:
    document, findings = read_text(text, "x.conf")
    return Report(document, pictures, colours).text(findings)


def test_a_finding_is_one_line_and_on_a_terminal_a_picture_too() -> None:
    text = "a\n\tb ${X}c ${YY}\n"
    lines = [
        "x.conf:2:4: error: no variable 'X' is defined before this line; define it: $X=...",
        "x.conf:2:10: error: no variable 'YY' is defined before this line; define it: $YY=...",
    ]
    assert report(text).splitlines() == lines
    assert report(text, pictures=True).splitlines() == [
        lines[0],
        "    \tb ${X}c ${YY}",
        "    \t  ^~~~",
        lines[1],
        "    \tb ${X}c ${YY}",
        "    \t        ^~~~~",
    ]


def test_colours_are_around_the_severity_and_the_caret() -> None:
    lines = report("}", pictures=True, colours=True).splitlines()
    assert lines == [
        "x.conf:1:1: \x1b[1;31merror:\x1b[0m '}' closes nothing; remove it",
        "    }",
        "    \x1b[1;31m^\x1b[0m",
    ]


def test_a_long_line_is_cut_around_the_location() -> None:
    _, line, caret = report("x" * 1000 + " } " + "y" * 1000, pictures=True).splitlines()
    assert len(line) < 120
    assert line[caret.index("^")] == "}"


def test_nothing_that_a_terminal_would_obey_is_printed() -> None:
    text = report('a "\x1b[2J', pictures=True)
    assert "\x1b" not in text
    assert "\ufffd[2J" in text


def test_a_location_without_text_has_no_picture() -> None:
    document, _ = read_text("a {", "x.conf")
    findings = Findings()
    findings.error(Location("other.conf", 7, 1), "wrong", "repair it")
    assert Report(document, pictures=True).text(findings.all()) == "other.conf:7:1: error: wrong; repair it\n"


def test_findings_are_unique_and_limited() -> None:
    _, findings = read_text("$A= \\\n}\n~SEQ(N,1,50) $A")
    assert len(findings) == 1
    _, findings = read_text("}\n" * (MAX_FINDINGS + 500) + "a {")
    assert len(findings) == MAX_FINDINGS + 1  # fatal findings ignore the limit
    assert findings[-2].text == f"more than {MAX_FINDINGS - 1} findings"
    assert findings[-1].fatal
