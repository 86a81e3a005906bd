"""The reference page has what the schema accepts."""

from __future__ import annotations

import re
from pathlib import Path

from pylvs.config.language.parser import read_text
from pylvs.config.language.tree import Severity
from pylvs.config.schema.global_defs import ROOT
from pylvs.config.schema.grammar import Block, Keyword, Reader, State

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"


def test_the_page_ignores_no_statement_that_the_parser_obeys() -> None:
    """The language's own page has them."""
    language = (PAGE.parent / "language.md").read_text()
    parsed = [entry.name for entry in _keywords() if entry.state is State.PARSED]
    assert parsed
    for name in parsed:
        assert f"`{name}" in language
    ignored = re.findall(r"^Accepted and ignored: (.*)\.$", PAGE.read_text(), re.MULTILINE)
    obeyed = set(re.findall(r"`(include\w*|\w*seed)[ `]", language))
    assert not obeyed & {name.strip("`") for line in ignored for name in line.split(", ")}


def test_the_bounds_of_whole_numbers_are_those_that_count() -> None:
    """The first and the last one that the page names count as they are written, those beside them do not."""
    tested = 0
    for entry in _keywords():
        if found := re.match(r"a whole number, (-?\d+) to (-?\d+)$", entry.type.syntax):
            first, last = int(found[1]), int(found[2])
            tested += 1
            counting = [each for each in (first - 1, first, last, last + 1) if _counts(entry, each)]
            assert counting == [first, last], entry.name
    assert tested > 50


def _counts(entry: Keyword, number: int) -> bool:
    """Return whether the keyword accepts a number without an error, and keeps it."""
    reader = Reader(Block("", "", (Keyword("number", entry.type, ""),)))
    section = reader.read(read_text(f"number {number}")[0].nodes)
    has_error = any(each.severity is Severity.ERROR for each in reader.findings.all())
    return not has_error and [each.value for each in section.settings] == [number]


def _keywords() -> list[Keyword]:
    return [entry for block in ROOT.blocks() for entry in block.entries if isinstance(entry, Keyword)]
