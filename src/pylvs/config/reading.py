"""keepalived's configuration language: text to a tree with positions, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection

from pylvs.config.blocks import tree
from pylvs.config.findings import Finding, Findings, Place
from pylvs.config.lines import Line
from pylvs.config.tree import Document
from pylvs.config.words import words


def read(path: str, ids: Collection[str] = ()) -> tuple[Document, tuple[Finding, ...]]:
    """The configuration in a file and what it includes; `ids` are those that lines beginning with @ ask for.

    Never raises: whatever is wrong is a finding, and the document is what could be read.
    """
    findings = Findings()
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as error:
        findings.error(Place(path, 1, 1), f"cannot be read: {error.strerror}", "name a file that can", fatal=True)
        return Document((), (path,)), findings.all()
    return read_text(text, path, ids)


def read_text(text: str, file: str = "-", ids: Collection[str] = ()) -> tuple[Document, tuple[Finding, ...]]:
    """The same of a text that stands for this file."""
    findings = Findings()
    lines = (Line.written(line, file, number) for number, line in enumerate(text.split("\n"), 1))
    nodes = tree((words(line, findings) for line in lines), findings)
    return Document(nodes, (file,)), findings.all()
