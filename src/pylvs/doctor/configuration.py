"""The configuration file, and commands that change one keyword in it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pylvs.model.dataclass import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pylvs.config.language.tree import Document, Finding, Node


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


def read_file(path: str) -> File:
    """Read a file and those that it includes; services of plain text are left out."""
    from pylvs.config.language.parser import read  # late: probes import this module for its type

    document, findings = read(path, services=False)
    return File(path, document, findings)
