"""Findings: the problems of a configuration, with location and advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

MAX_FINDINGS = 1000  # of one run


class Severity(Enum):
    """How severe a finding is.

    ERROR: pylvs does not do what is written, and the text names what it does instead.
    WARNING: pylvs does what keepalived does, which is probably unintended: it ignores unknown keywords.
    NOTE: about this machine, not about the file. It does not change the exit status of `pylvs check`.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A position in a file. Line and column count from 1, in characters; `width` is in characters too."""

    file: str
    line: int
    column: int
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: its location, a description, and advice."""

    location: Location
    severity: Severity
    text: str
    advice: str = ""  # includes "did you mean ...?"
    security: bool = False  # about a script: `pylvs check` exits with 6
    fatal: bool = False  # prevents a configuration: an unreadable file, a missing brace or include

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.location}: {self.severity.value}: {self.text}{advice}"

    def encoded(self) -> dict[str, Any]:
        """Return the finding as JSON types."""
        found = asdict(self)
        return {**found.pop("location"), **found, "severity": self.severity.value}


@dataclass(slots=True)
class Findings:
    """Collects findings without duplicates, up to MAX_FINDINGS; one line may be read many times through a variable."""

    _found: dict[tuple[Location, str], Finding] = field(default_factory=dict)

    def error(self, location: Location, text: str, advice: str = "", *, fatal: bool = False) -> None:
        """Add an error; `fatal` prevents a configuration."""
        self.add(Finding(location, Severity.ERROR, text, advice, fatal=fatal))

    def warning(self, location: Location, text: str, advice: str = "") -> None:
        self.add(Finding(location, Severity.WARNING, text, advice))

    def add(self, finding: Finding) -> None:
        """Add a finding. The last one that fits reports the limit instead; fatal findings ignore the limit."""
        key = finding.location, finding.text
        if key in self._found:
            return
        if len(self._found) < MAX_FINDINGS - 1 or finding.fatal:
            self._found[key] = finding
        elif len(self._found) == MAX_FINDINGS - 1:
            location, text = finding.location, f"more than {MAX_FINDINGS - 1} findings"
            self._found[location, text] = Finding(location, finding.severity, text, "repair these first")

    def all(self) -> tuple[Finding, ...]:
        """Return the findings in the order in which they were added."""
        return tuple(self._found.values())
