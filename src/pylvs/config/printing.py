"""A document as text: one statement a line, blocks indented, read again as the same document."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.config.tree import Document, Node
from pylvs.config.words import format_statement

INDENT = "    "


def printed(document: Document) -> str:
    """The whole document; includes, conditions and variables are in place already."""
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
