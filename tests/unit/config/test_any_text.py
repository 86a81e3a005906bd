"""Any text parses without an exception and in bounded work, and printing preserves it."""

from __future__ import annotations

import tempfile

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pylvs.config.language.parser import read, read_text
from pylvs.config.language.tree import Document
from tests.unit.config.trees import printed, shapes, walk

MAX_TEXT = 5_000  # so that endless growth ends soon

PIECES = st.sampled_from(
    [
        *(
            "{",
            "}",
            " ",
            "\n",
            "\t",
            "\r",
            '"',
            "'",
            "\\",
            "\\\n",
            " \\\n",
            "#",
            "!",
            "\\#",
            "\\!",
            "\\x41",
            "\\101",
            "\\cA",
        ),
        *("$", "$A", "$A=", "$B=", "${A}", "${B}", "$B ", "${A", "${_PWD}", "${_HASH}", "${_BANG}x", "${_RANDOM 1 3}"),
        *(
            "${_ENV HOME}",
            "${_ENV}",
            "$A= \\\n",
            "$B=\\\n",
            "@a ",
            "@^a ",
            "@b ",
            "@",
            "~SEQ(N,1,3) ",
            "~SEQx(M,0x10,-4,2) ",
        ),
        *("~LST(N,1,2) ", "~LST({N,M},{1,2},{3,4}) ", "~SEQ(", ")", ",", "${N}", "$M", "~LST(N,{) ", "~"),
        *("include ", "includea ", "include_check ", "random_seed ", "script ", "regex ", "notify_up ", "misc_path "),
        *(
            "vrrp_instance ",
            "virtual_server 10.0.0.1 80 ",
            "weight 3",
            "a",
            "b.c",
            "\u00a0",
            "\u201c",
            "\ufffd",
            "\ufeff",
        ),
        *("\0", "\x01", "\x0b", "\x7f", "\u2028", "\ud800", "\ufdd0", "\U0001f600", "x" * 50),
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=60).map("".join), st.text(max_size=100))


def reread(document: Document) -> Document:
    """The document, printed and read."""
    return read_text(printed(document), max_text=1_000_000)[0]


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("include\n{ x }")
@example("a \\ }\nb \\ {")
@example("script \\x24{_PWD} '${_PWD}' \"a\nb\"")
@example("$A=$\n${A}{_PWD}")
def test_a_document_is_printed_and_read_as_the_same(text: str) -> None:
    document, _ = read_text(text, ids=("a",), max_text=MAX_TEXT)
    again = reread(document)
    assert shapes(again) == shapes(document)
    assert printed(again) == printed(document)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_findings_are_located_in_the_text(text: str) -> None:
    _, findings = read_text(text, "name.conf", ids=("a",), max_text=MAX_TEXT)
    lines = text.split("\n")
    for finding in findings:
        location = finding.location
        assert location.file == "name.conf"
        assert 1 <= location.line <= len(lines)
        assert 1 <= location.column <= len(lines[location.line - 1]) + 1
        assert location.width >= 1
        assert finding.text
        assert finding.advice


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_words_without_variables_are_at_their_location(text: str) -> None:
    text = text.replace("$", "").replace("~", "")
    document, _ = read_text(text, ids=("a",), max_text=MAX_TEXT)
    lines = text.translate({0: "\ufffd", 0xFDD0: "\ufffd", 0xD800: "\ufffd"}).split("\n")
    for node in walk(document.nodes):
        for word in node.words:
            line, start = lines[word.location.line - 1], word.location.column - 1
            written = line[start : start + word.location.width]
            if "\\" not in written and not {'"', "'"} & set(written):
                assert written == word.text


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_a_file_of_any_bytes_is_read(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".conf") as file:
        file.write(data)
        file.flush()
        document, _ = read(file.name)
        assert shapes(reread(document)) == shapes(document)
