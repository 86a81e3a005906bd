"""Findings for people, on a terminal with the line that each is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pylvs.config.findings import Finding, Severity
from pylvs.config.tree import Document
from pylvs.model.dataclass import dataclass, field
from pylvs.model.printing import visible

WIDEST = 100  # characters of a source line that are shown

_COLOURS = {Severity.ERROR: "\x1b[1;31m", Severity.WARNING: "\x1b[1;33m", Severity.NOTE: "\x1b[1;36m"}
_PLAIN = "\x1b[0m"


@dataclass(slots=True)
class Report:
    """Findings as lines of text; with `pictures` each is followed by the source line and a caret below the place."""

    document: Document
    pictures: bool = False
    colours: bool = False
    _lines: dict[str, Sequence[str]] = field(default_factory=dict)

    def text(self, findings: Iterable[Finding]) -> str:
        """All of them, one after the other."""
        return "".join(f"{line}\n" for finding in findings for line in self.lines(finding))

    def lines(self, finding: Finding) -> list[str]:
        """One finding: `file:line:column: error|warning: what; what to do`, and its picture."""
        text = visible(str(finding))
        if self.colours:
            word = f"{finding.severity.value}:"
            text = text.replace(f" {word} ", f" {_COLOURS[finding.severity]}{word}{_PLAIN} ", 1)
        return [text, *(self._picture(finding) if self.pictures else ())]

    def _picture(self, finding: Finding) -> list[str]:
        """The source line and a caret; nothing if the line is not known or empty."""
        place = finding.place
        if place.file not in self._lines:
            self._lines[place.file] = self.document.texts.get(place.file, "").split("\n")
        lines = self._lines[place.file]
        line = lines[place.line - 1].rstrip() if place.line <= len(lines) else ""
        if not line:
            return []
        # A long line is shown from shortly before the place on.
        first = max(0, place.column - 1 - WIDEST // 2) if len(line) > WIDEST else 0
        shown = line[first : first + WIDEST]
        before = place.column - 1 - first
        blanks = "".join("\t" if character == "\t" else " " for character in shown[:before])
        carets = "^" + "~" * (min(place.width, max(1, len(shown) - before)) - 1)
        if self.colours:
            carets = f"{_COLOURS[finding.severity]}{carets}{_PLAIN}"
        return [f"    {visible(shown)}", f"    {blanks}{carets}"]
