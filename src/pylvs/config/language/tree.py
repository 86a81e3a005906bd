"""Lines, words and the tree of statements, each with its location in the files; findings about them."""

from __future__ import annotations

import contextlib
import gc
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from operator import attrgetter
from typing import Any

from pylvs.model.dataclass import dataclass, field

MAX_FINDINGS = 1000  # of one run


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Disable the cyclic collector within the block: a large configuration is a million objects without cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a line after quotes, escapes and variables are resolved."""

    text: str
    location: Location
    quoted: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Node:
    """One statement: the keyword, its arguments, and its block; `block` is None without braces."""

    words: tuple[Word, ...]
    block: tuple[Node, ...] | None = None
    closed: bool = True  # False: the end of the file ended its block

    @property
    def keyword(self) -> str:
        return self.words[0].text

    @property
    def arguments(self) -> tuple[Word, ...]:
        return self.words[1:]

    @property
    def location(self) -> Location:
        """Location of the keyword."""
        return self.words[0].location


@dataclass(frozen=True, slots=True)
class Document:
    """The statements of a file and of the files that it includes, in the order of the text."""

    nodes: tuple[Node, ...]
    files: tuple[str, ...]  # in the order in which they were opened
    texts: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # by file


@dataclass(frozen=True, slots=True)
class Origin:
    """Location of the characters from `start` on.

    With `width` 0, each character has its own column. Else all of them replace `width` characters: a variable's use.
    """

    start: int
    file: str
    line: int
    column: int
    width: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its newline. It knows the location of each character, also after variables are replaced."""

    text: str
    origins: tuple[Origin, ...]  # the first starts at 0

    @classmethod
    def of_file(cls, text: str, file: str, line: int) -> Line:
        """Make a line of a file."""
        return cls(text, (Origin(0, file, line, 1),))

    @classmethod
    def joined(cls, parts: Iterable[Line]) -> Line:
        """Concatenate one or more lines."""
        texts: list[str] = []
        origins: list[Origin] = []
        length = 0
        for part in parts:
            if part.text or not texts:
                texts.append(part.text)
                origins += [Origin(length + o.start, o.file, o.line, o.column, o.width) for o in part.origins]
                length += len(part.text)
        return cls("".join(texts), tuple(origins))

    def location(self, start: int, end: int) -> Location:
        """Return the location of the characters from `start` to before `end`, at least one."""
        origin = self._origin(start)
        column = origin.column + (0 if origin.width else start - origin.start)
        width = origin.width or end - start
        if len(self.origins) > 1:
            last = self._origin(max(start, end - 1))
            if last is not origin and (last.file, last.line) == (origin.file, origin.line):
                width = last.column + (last.width or end - last.start) - column
        return Location(origin.file, origin.line, column, max(1, width))

    def part(self, start: int, end: int | None = None) -> Line:
        kept: list[Origin] = []
        stop = len(self.text) if end is None else end
        first = bisect_right(self.origins, start, key=attrgetter("start")) - 1
        for origin in self.origins[first:]:
            if origin.start >= stop and kept:
                break
            moved = 0 if origin.width else max(0, start - origin.start)
            at = max(0, origin.start - start)
            kept.append(Origin(at, origin.file, origin.line, origin.column + moved, origin.width))
        return Line(self.text[start:stop], tuple(kept))

    def located_at(self, location: Location) -> Line:
        """Return the same characters, all located at `location`, to replace a variable there."""
        return Line(self.text, (Origin(0, location.file, location.line, location.column, location.width),))

    def _origin(self, at: int) -> Origin:
        if len(self.origins) == 1:
            return self.origins[0]
        return self.origins[bisect_right(self.origins, at, key=attrgetter("start")) - 1]


class Severity(Enum):
    """How severe a finding is.

    ERROR: pylvs does not do what is written, and the text names what it does instead.
    WARNING: pylvs does what keepalived does, which is probably unintended: it ignores unknown keywords. A reload
    refuses a new `typo` all the same.
    NOTE: about this machine, or of what keepalived accepts without a message. It does not change the exit status of
    `pylvs check`.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Location:
    """A position in a file. Line and column count from 1, in characters; `width` is in characters too."""

    file: str
    line: int
    column: int
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def line_for(self, reader: Location) -> str:
        """Return "line 7", or "line 7 of FILE" for a finding in another file."""
        return f"line {self.line}" + (f" of {self.file}" if self.file != reader.file else "")


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: its location, a description, and advice."""

    location: Location
    severity: Severity
    text: str
    advice: str = ""  # includes "did you mean ...?"
    security: bool = False  # about a script: `pylvs check` exits with 6
    fatal: bool = False  # prevents a configuration: an unreadable file, a missing brace or include
    may_pass: bool = False  # the next attempt to read the files may succeed
    typo: bool = False  # an unknown or surplus word, which has no effect, as in keepalived
    absent_device: str = ""  # that the text names, and this machine does not have

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.location}: {self.severity.value}: {self.text}{advice}"

    @property
    def refuses_reload(self) -> bool:
        """Return whether a part of the file has no effect because of it. A start ignores that part."""
        return self.severity is Severity.ERROR or self.typo

    def encoded(self) -> dict[str, Any]:
        """Return the finding as JSON types."""
        from dataclasses import asdict  # late: a start without findings does not need it

        found = asdict(self)
        del found["may_pass"], found["typo"], found["absent_device"]
        return {**found.pop("location"), **found, "severity": self.severity.value}


@dataclass(slots=True)
class Findings:
    """Collects findings without duplicates, up to MAX_FINDINGS; one line may be read many times through a variable."""

    _found: dict[tuple[Location, str], Finding] = field(default_factory=dict)
    latest: str = ""  # the text of the last finding, also of one that was there already

    def error(
        self, location: Location, text: str, advice: str = "", *, fatal: bool = False, may_pass: bool = False
    ) -> None:
        """Add an error; `fatal` prevents a configuration, for now if it `may_pass`."""
        self.add(Finding(location, Severity.ERROR, text, advice, fatal=fatal, may_pass=may_pass))

    def warning(self, location: Location, text: str, advice: str = "") -> None:
        self.add(Finding(location, Severity.WARNING, text, advice))

    def typo(self, location: Location, text: str, advice: str = "") -> None:
        """Add a warning of an unknown or surplus word. A reload refuses a new one."""
        self.add(Finding(location, Severity.WARNING, text, advice, typo=True))

    def add(self, finding: Finding) -> None:
        """Add a finding. The last one that fits reports the limit instead; fatal findings ignore the limit."""
        key, self.latest = (finding.location, finding.text), finding.text
        if key in self._found:
            return
        if len(self._found) < MAX_FINDINGS - 1 or finding.fatal:
            self._found[key] = finding
        elif len(self._found) == MAX_FINDINGS - 1:
            location, text = finding.location, f"more than {MAX_FINDINGS - 1} findings"
            advice = "repair these first"
            self._found[location, text] = Finding(location, finding.severity, text, advice, typo=finding.typo)

    def all(self) -> tuple[Finding, ...]:
        """Return the findings in the order in which they were added."""
        return tuple(self._found.values())
