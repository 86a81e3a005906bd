"""Words as keepalived splits them: comments, quotes, escapes; findings about probable mistakes."""

from __future__ import annotations

import pytest

from pylvs.config.language.lexer import split_arguments
from pylvs.config.language.parser import read_text
from pylvs.config.language.tree import Location
from tests.unit.config.trees import findings_of, outline, parsed_outline, walk


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("router_id a b", "router_id|a|b"),
        ("\trouter_id\va\fb\r", "router_id|a|b"),
        ("router_id a # b", "router_id|a"),
        ("router_id a!b", "router_id|a"),
        (r"router_id a\#b\!c", "router_id|a#b!c"),
        ('router_id "a  #! {b}" c', "router_id|a  #! {b}|c"),
        ('router_id a"b c"d', "router_id|a|b c|d"),
        ('router_id ""', "router_id|"),
        (r"auth_pass pa$word's\x41\n", r"auth_pass|pa$word's\x41\n"),
        (r'router_id "C:\x"', r"router_id|C:\x"),
    ],
)
def test_most_statements_are_read_simply(text: str, words: str) -> None:
    assert parsed_outline(text) == [words]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notify_up \"/bin/a 'b c' d\" root", "notify_up|/bin/a 'b c' d|root"),
        ("notify_up '/bin/a \"b\" {c} #d'", 'notify_up|/bin/a "b" {c} #d'),
        (r"script a\ b\#c", "script|a b#c"),
        ("script a\"b c\"d'e f'", "script|ab cde f"),
        (r'script "\x41\101\cA\n\t\E\q\\\""', 'script|AA\x01\n\t\x1bq\\"'),
        (r'script "\x4142"', "script|B"),  # a number is as long as its digits; its last eight bits count
        (r'script "\xc3\xa4\303\266"', "script|äö"),
        ('script "$HOME ${X}"', "script|$HOME ${X}"),
        (r'regex "a\\.b"', r"regex|a\.b"),
    ],
)
def test_scripts_and_regular_expressions_have_quotes_and_escapes(text: str, words: str) -> None:
    assert parsed_outline(text) == [words]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ('router_id "a b', '-:1:11: error: the quote " is not closed on its line; write the " that ends it'),
        ("script /bin/a 'b", "-:1:15: error: the quote ' is not closed on its line; write the ' that ends it"),
        (
            "virtualhost 'a b'",
            '-:1:13: warning: single quotes are ordinary characters here; write " to make one word of several',
        ),
        (
            "script a \\\nb",
            "-:1:10: error: only a definition ($NAME= \\) continues after a '\\'; write the statement on one line",
        ),
        (
            r'regex "^a\.b"',
            (
                r"-:1:10: warning: '\.' is read before the regular expression is, which never sees the backslash; "
                r"write \\. for it to reach the expression"
            ),
        ),
        (r'script "a\x00"', "-:1:10: error: no word can hold a NUL character; remove it"),
        (r'script "a\xffb"', "-:1:8: error: these bytes are not UTF-8; save the file as UTF-8"),
        ("weight\u00a03", "-:1:1: warning: the word holds an invisible character, U+00A0; remove it"),
        ("router_id \u201ca\u201d", '-:1:11: warning: \u201c is an ordinary character here; write " to quote'),
    ],
)
def test_probable_mistakes_are_findings(text: str, finding: str) -> None:
    assert findings_of(text) == [finding]


def test_no_quote_is_closed_on_another_line() -> None:
    assert findings_of('a "b\nc"') == [
        '-:1:3: error: the quote " is not closed on its line; write the " that ends it',
        '-:2:2: error: the quote " is not closed on its line; write the " that ends it',
    ]


def test_a_line_may_not_be_of_any_length() -> None:
    document, findings = read_text("a\n" + "b " * 5_000_000 + "\nc")
    assert [str(finding) for finding in findings] == [
        "-:2:65537: error: no line has more than 65536 characters; write shorter lines"
    ]
    assert outline(document) == ["a", "c"]


def test_a_word_has_its_location() -> None:
    document, _ = read_text('a\n  \tscript "x y"\\ z { "b" }', "f.conf")
    locations = [(word.text, word.location) for node in walk(document.nodes) for word in node.words]
    assert locations == [
        ("a", Location("f.conf", 1, 1, 1)),
        ("script", Location("f.conf", 2, 4, 6)),
        ("x y z", Location("f.conf", 2, 11, 8)),
        ("b", Location("f.conf", 2, 22, 3)),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/bin/check", ("/bin/check",)),
        ("/bin/check 'a b' \"c d\" e\\ f", ("/bin/check", "a b", "c d", "e f")),
        ("/bin/sh -c 'x #{y}' #z {}", ("/bin/sh", "-c", "x #{y}", "#z", "{}")),
        ("  /bin/check  ''  ", ("/bin/check", "")),
        ("", ()),
    ],
)
def test_a_scripts_word_is_split_into_its_arguments(text: str, expected: tuple[str, ...]) -> None:
    assert split_arguments(text) == expected


def test_a_scripts_open_quote_is_an_error() -> None:
    with pytest.raises(ValueError):
        split_arguments("/bin/check 'a")
