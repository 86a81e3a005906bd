"""The configuration file, and commands that change one keyword in it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pylvs.model.dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pylvs.config.language.tree import Document, Finding, Node
    from pylvs.model.wanted import Configuration, WantedService


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is on disk, with the parser's findings."""

    path: str
    document: Document
    findings: tuple[Finding, ...]

    def setting(self, block: str, name: str, keyword: str, value: str) -> str | None:
        """Return the command that writes this value behind a keyword of a block, such as vrrp_instance VI_1.

        None if the keyword shares its line with others, or a variable or an included file of another name has it.
        """
        for node in self.document.nodes:
            if (
                node.keyword == block
                and [str(each) for each in node.arguments[:1]] == [name]
                and node.block is not None
            ):
                return self._setting(node, node.block, keyword, value)
        return None

    def _setting(self, node: Node, block: Sequence[Node], keyword: str, value: str) -> str | None:
        for statement in block:
            if statement.keyword == keyword:
                at = statement.location
                if not self._is_plain(at.file, at.line, keyword):
                    return None
                indent = self._text(at.file, at.line).partition(keyword)[0]
                return _sed(f"{at.line}s/.*/{indent}{keyword} {value}/", at.file)
        at = node.location
        if not self._text(at.file, at.line).rstrip().endswith("{"):
            return None
        return _sed(f"{at.line}a\\    {keyword} {value}", at.file)

    def _text(self, file: str, line: int) -> str:
        lines = self.document.texts.get(file, "").split("\n")  # as the parser counts them
        return lines[line - 1] if line <= len(lines) else ""

    def _is_plain(self, file: str, line: int, keyword: str) -> bool:
        """Return whether a line has this statement alone, as it is written."""
        text = self._text(file, line).strip()
        return text.startswith(f"{keyword} ") and not set(text) & set("{}$@")


def _sed(script: str, file: str) -> str:
    return f"sed -i {shlex.quote(script)} {shlex.quote(file)}"


def read_file(path: str, services: bool = False) -> File:
    """Read a file and those that it includes; `services`: with services of plain text."""
    from pylvs.config.language.parser import read  # late: probes import this module for its type

    document, findings = read(path, services=services)
    return File(path, document, findings)


def services_of(path: str) -> Sequence[WantedService]:
    """Return the services of a file."""
    return compiled(read_file(path, services=True).document).services


def compiled(document: Document) -> Configuration:
    """Return the configuration that a file means."""
    from pylvs.config.compile.document import compile_document  # late: only hosts with a file that matters

    return compile_document(document).configuration
