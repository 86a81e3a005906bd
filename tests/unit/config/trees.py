"""Trees for tests: walk, compare, outline and print them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pylvs.config.language.lexer import format_statement
from pylvs.config.language.parser import read_text
from pylvs.config.language.tree import Document, Finding, Node

INDENT = "    "
Shape = tuple[tuple[tuple[str, bool], ...], tuple["Shape", ...] | None]


def walk(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield these nodes and all below them, in the order of the text."""
    for node in nodes:
        yield node
        yield from walk(node.block or ())


def shape(node: Node) -> Shape:
    """Return a node's words and block without locations."""
    words = tuple((word.text, word.quoted) for word in node.words)
    return words, None if node.block is None else tuple(map(shape, node.block))


def shapes(document: Document) -> tuple[Shape, ...]:
    """Return a document's nodes without locations."""
    return tuple(map(shape, document.nodes))


def outline(document: Document) -> list[str]:
    """Return one line a statement: words between bars, blocks indented."""

    def lines(node: Node, indent: str) -> list[str]:
        text = indent + "|".join(word.text for word in node.words)
        if node.block is None:
            return [text]
        return [text + " {", *(line for inner in node.block for line in lines(inner, indent + "  ")), indent + "}"]

    return [line for node in document.nodes for line in lines(node, "")]


def parsed_outline(text: str, *ids: str) -> list[str]:
    """Return the outline of a text without findings."""
    document, findings = read_text(text, ids=ids)
    assert not findings, [str(finding) for finding in findings]
    return outline(document)


def findings_of(text: str, *ids: str) -> list[str]:
    """Return the findings of a text, each with its location."""
    return [str(finding) for finding in read_text(text, ids=ids)[1]]


def single(findings: tuple[Finding, ...]) -> Finding:
    """Return the single finding."""
    assert len(findings) == 1, [str(finding) for finding in findings]
    return findings[0]


def printed(document: Document) -> str:
    """Return a document as text that parses to the same document: one statement a line, blocks indented."""
    return "".join(f"{line}\n" for node in document.nodes for line in _lines(node, ""))


def _lines(node: Node, indent: str) -> Iterator[str]:
    text = indent + format_statement(node.words)
    if node.block is None:
        yield text
        return
    yield text + " {"
    for inner in node.block:
        yield from _lines(inner, indent + INDENT)
    yield indent + "}"
