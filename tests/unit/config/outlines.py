"""What tests of the language share: trees without positions."""

from __future__ import annotations

from pylvs.config.findings import Finding
from pylvs.config.reading import read_text
from pylvs.config.tree import Document, Node

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
    """What is wrong with a text, each with its place."""
    return [str(finding) for finding in read_text(text, ids=ids)[1]]


def only(findings: tuple[Finding, ...]) -> Finding:
    """The one finding that there is."""
    assert len(findings) == 1, [str(finding) for finding in findings]
    return findings[0]
