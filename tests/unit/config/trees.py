"""Trees without the reader: a configuration of one statement a line, for tests of what comes after reading."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pylvs.config.findings import Finding, Location
from pylvs.config.language.lexer import format_statement
from pylvs.config.language.parser import read_text
from pylvs.config.language.tree import Document, Node, Word

# --- outlines --------------------------------------------------------------------------------------------------------
# What tests of the language share: trees without positions.


Shape = tuple[tuple[tuple[str, bool], ...], tuple["Shape", ...] | None]


def shape(node: Node) -> Shape:
    """A node's words and block, wherever they stand."""
    words = tuple((word.text, word.quoted) for word in node.words)
    return words, None if node.block is None else tuple(map(shape, node.block))


def shapes(document: Document) -> tuple[Shape, ...]:
    """A document's nodes, wherever they stand."""
    return tuple(map(shape, document.nodes))


def outline(document: Document) -> list[str]:
    """A document as one line a statement, words between bars, blocks indented."""

    def lines(node: Node, indent: str) -> list[str]:
        text = indent + "|".join(word.text for word in node.words)
        if node.block is None:
            return [text]
        return [text + " {", *(line for inner in node.block for line in lines(inner, indent + "  ")), indent + "}"]

    return [line for node in document.nodes for line in lines(node, "")]


def understood(text: str, *ids: str) -> list[str]:
    """The outline of a text in which nothing is wrong."""
    document, findings = read_text(text, ids=ids)
    assert not findings, [str(finding) for finding in findings]
    return outline(document)


def findings_of(text: str, *ids: str) -> list[str]:
    """What is wrong with a text, each with its location."""
    return [str(finding) for finding in read_text(text, ids=ids)[1]]


def only(findings: tuple[Finding, ...]) -> Finding:
    """The one finding that there is."""
    assert len(findings) == 1, [str(finding) for finding in findings]
    return findings[0]


# --- trees -----------------------------------------------------------------------------------------------------------


def document(text: str, file: str = "test.conf") -> Document:
    """The tree of a text whose braces stand at the end of a line, or alone on one."""
    lines = iter(enumerate(text.splitlines(), 1))
    return Document(tuple(_nodes(lines, file)), (file,))


def _nodes(lines: Iterator[tuple[int, str]], file: str) -> Iterator[Node]:
    for number, line in lines:
        stripped = line.split(" #")[0].strip()
        if stripped == "}":
            return
        if not stripped:
            continue
        opens = stripped.endswith("{")
        words = tuple(_words(line, stripped.removesuffix("{"), number, file))
        yield Node(words, tuple(_nodes(lines, file)) if opens else None)


def _words(line: str, statement: str, number: int, file: str) -> Iterator[Word]:
    column = 0
    for text in shlex.split(statement):
        column = line.find(text, column)
        yield Word(text, Location(file, number, column + 1, len(text)))
        column += len(text)


# --- printing --------------------------------------------------------------------------------------------------------
# A document as text: one statement a line, blocks indented, read again as the same document.


INDENT = "    "


def printed(document: Document) -> str:
    """The whole document; includes, conditions and variables are already resolved."""
    return "".join(f"{line}\n" for node in document.nodes for line in _lines(node, ""))


def _lines(node: Node, indent: str) -> Iterator[str]:
    """A statement's lines."""
    text = indent + format_statement(node.words)
    if node.block is None:
        yield text
        return
    yield text + " {"
    for inner in node.block:
        yield from _lines(inner, indent + INDENT)
    yield indent + "}"
