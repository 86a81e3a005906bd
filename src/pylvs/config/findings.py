"""What is wrong with a configuration, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MOST_FINDINGS = 1000  # of one run; who has more repairs some and asks again


class Severity(Enum):
    """How bad it is.

    ERROR: a value, a check, a server or a service does not count as written; what is done instead is said. WARNING:
    odd, and what keepalived does with it is done: a word that nobody knows is ignored. NOTE: of this machine, not of
    the file; `pylvs check` prints it, and its exit status is as if it were not there.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A position in a file; line and column count from 1, the column in characters. `width` characters are meant."""

    file: str
    line: int
    column: int
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, what, and what to do."""

    location: Location
    severity: Severity
    text: str  # what is wrong
    advice: str = ""  # what to do, "did you mean ...?" included
    security: bool = False  # of a script: `pylvs check` then exits with 6
    fatal: bool = False  # no configuration can be made of it: unreadable, a brace or an include is missing

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.location}: {self.severity.value}: {self.text}{advice}"

    def encoded(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "file": self.location.file,
            "line": self.location.line,
            "column": self.location.column,
            "width": self.location.width,
            "severity": self.severity.value,
            "text": self.text,
            "advice": self.advice,
            "security": self.security,
            "fatal": self.fatal,
        }


@dataclass(slots=True)
class Findings:
    """Findings as they are made: each once, however often a line is read again through a variable, and not endless."""

    _found: dict[tuple[Location, str], Finding] = field(default_factory=dict)

    def error(self, location: Location, text: str, advice: str = "", *, fatal: bool = False) -> None:
        """Something will not happen as written; with `fatal`, no configuration can be made of the file."""
        self.add(Finding(location, Severity.ERROR, text, advice, fatal=fatal))

    def warning(self, location: Location, text: str, advice: str = "") -> None:
        """Something will happen as written, though it is odd."""
        self.add(Finding(location, Severity.WARNING, text, advice))

    def add(self, finding: Finding) -> None:
        """One more; the last one that has room says so instead, unless it is fatal."""
        key = finding.location, finding.text
        if key in self._found:
            return
        if len(self._found) < MOST_FINDINGS - 1 or finding.fatal:
            self._found[key] = finding
        elif len(self._found) == MOST_FINDINGS - 1:
            text = f"more than {MOST_FINDINGS - 1} findings"
            self._found[finding.location, text] = Finding(
                finding.location, finding.severity, text, "repair these first"
            )

    def all(self) -> tuple[Finding, ...]:
        """Those made so far, in the order in which they were made."""
        return tuple(self._found.values())
