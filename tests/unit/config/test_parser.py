"""Blocks: where braces may be, and findings about missing and surplus ones."""

from __future__ import annotations

import pytest

from pylvs.config.language.parser import read_text
from tests.unit.config.trees import findings_of, outline, parsed_outline, walk


@pytest.mark.parametrize(
    "text",
    [
        "a b {\n c\n d e\n}\nf",
        "a b\n{\n c\n d e }\nf",
        "a b # x\n\n# y {\n\n{ c\n d e } f",
        "a b{c\nd e}f",
    ],
)
def test_braces_may_be_anywhere(text: str) -> None:
    assert parsed_outline(text) == ["a|b {", "  c", "  d|e", "}", "f"]


def test_a_block_on_one_line_holds_one_statement() -> None:
    assert parsed_outline("a { b c } d { } e { f { g } h }") == [
        *("a {", "  b|c", "}", "d {", "}", "e {", "  f {", "    g", "  }", "  h", "}"),
    ]


def test_braces_in_quotes_and_comments_are_none() -> None:
    assert parsed_outline('a "{" # {\nb ! }\n"}" {\n}') == ["a|{", "b", "} {", "}"]


def test_a_block_that_is_never_closed_is_named_where_it_opens() -> None:
    document, findings = read_text("a {\n  b\n  c {\n  }\n", "x.conf")
    assert [str(finding) for finding in findings] == [
        "x.conf:1:3: error: the block of 'a' is never closed; write its '}'"
    ]
    assert findings[0].fatal
    assert outline(document) == ["a {", "  b", "  c {", "  }", "}"]


def test_the_indentation_shows_which_brace_is_missing() -> None:
    text = "vs {\n  rs 1 {\n    weight 1\n  rs 2 {\n    weight 2\n  }\n}\nother {\n}\n"
    assert findings_of(text) == [
        (
            "-:1:4: error: the block of 'vs' is never closed; write its '}'; by indentation, the block of 'rs' "
            "at line 2 lacks one before line 4"
        ),
    ]


def test_a_brace_too_many_is_named_and_read_over() -> None:
    document, findings = read_text("a {\n}\n}\nb")
    assert [str(finding) for finding in findings] == ["-:3:1: error: '}' closes nothing; remove it"]
    assert not findings[0].fatal
    assert outline(document) == ["a {", "}", "b"]


def test_the_indentation_shows_which_brace_is_too_many() -> None:
    text = "vs {\n  rs {\n  }\n  }\n  rs {\n  }\n}\n"
    assert findings_of(text) == [
        "-:7:1: error: '}' closes nothing; remove it, or that at line 4, indented unlike the block of 'vs' at line 1"
    ]


def test_statements_of_a_block_without_a_keyword_belong_to_the_block_around_it() -> None:
    document, findings = read_text("a {\n{ b }\n}")
    assert [str(finding) for finding in findings] == [
        "-:2:1: error: '{' without a keyword before it; write its keyword, or remove it"
    ]
    assert outline(document) == ["a {", "  b", "}"]


def test_blocks_that_are_too_deep_are_left_out() -> None:
    document, findings = read_text("a {\n" * 10_000 + "b\n" + "}\n" * 10_000 + "c\n")
    assert [str(finding) for finding in findings] == [
        "-:33:3: error: blocks within blocks, over 32 deep; close those that should end"
    ]
    assert document.nodes[-1].keyword == "c"
    assert len(list(walk(document.nodes))) == 33
