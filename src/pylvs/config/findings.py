"""What is wrong with a configuration, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """An error is something that will not happen as written; a warning is something that will, though odd."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a file; line and column count from 1, the column in characters. `width` characters are meant."""

    file: str
    line: int
    column: int
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, what, and what to do."""

    place: Place
    severity: Severity
    text: str  # what is wrong
    advice: str = ""  # what to do, "did you mean ...?" included
    security: bool = False  # of a script: `pylvs check` then exits with 6
    fatal: bool = False  # no configuration can be made of it: unreadable, a brace or an include is missing

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.place}: {self.severity.value}: {self.text}{advice}"
