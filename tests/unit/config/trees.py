"""Trees without the reader: a configuration of one statement a line, for tests of what comes after reading."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pylvs.config.findings import Location
from pylvs.config.tree import Document, Node, Word


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
