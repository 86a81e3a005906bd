"""A line of text that knows where each of its characters was written, also after variables were replaced in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pylvs.config.findings import Place


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the characters from `start` on were written.

    With `width` 0 they stand there one by one; else all of them stand for those `width` characters: a variable's use.
    """

    start: int
    file: str
    line: int
    column: int
    width: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end; the first origin starts at 0."""

    text: str
    origins: tuple[Origin, ...]

    @classmethod
    def written(cls, text: str, file: str, line: int, column: int = 1) -> Line:
        """A line as it stands in a file."""
        return cls(text, (Origin(0, file, line, column),))

    @classmethod
    def joined(cls, parts: Iterable[Line]) -> Line:
        """One line after the other, without anything between; at least one part."""
        texts: list[str] = []
        origins: list[Origin] = []
        length = 0
        for part in parts:
            if part.text or not texts:
                texts.append(part.text)
                origins += [Origin(length + o.start, o.file, o.line, o.column, o.width) for o in part.origins]
                length += len(part.text)
        return cls("".join(texts), tuple(origins))

    def place(self, start: int, end: int) -> Place:
        """Where the characters from `start` to before `end` stand."""
        origin = self._origin(start)
        if origin.width:
            return Place(origin.file, origin.line, origin.column, origin.width)
        width = end - start
        if len(self.origins) > 1:
            last = self._origin(max(start, end - 1))
            column = last.column + (last.width or end - last.start) - origin.column
            if last is not origin and (last.file, last.line) == (origin.file, origin.line) and column > 0:
                width = column - (start - origin.start)
        return Place(origin.file, origin.line, origin.column + start - origin.start, max(1, width))

    def part(self, start: int, end: int) -> Line:
        """The characters from `start` to before `end`."""
        if len(self.origins) == 1:
            origin = self.origins[0]
            moved = 0 if origin.width else start
            only = Origin(0, origin.file, origin.line, origin.column + moved, origin.width)
            return Line(self.text[start:end], (only,))
        kept: list[Origin] = []
        for i, origin in enumerate(self.origins):
            until = self.origins[i + 1].start if i + 1 < len(self.origins) else len(self.text) + 1
            if until <= start or (origin.start >= end and kept):
                continue
            moved = 0 if origin.width else max(0, start - origin.start)
            kept.append(
                Origin(max(0, origin.start - start), origin.file, origin.line, origin.column + moved, origin.width)
            )
        return Line(self.text[start:end], tuple(kept))

    def standing_for(self, place: Place) -> Line:
        """The same characters, all of which stand for what is written at this place."""
        return Line(self.text, (Origin(0, place.file, place.line, place.column, place.width),))

    def _origin(self, at: int) -> Origin:
        """That of the character at `at`."""
        found = self.origins[0]
        for origin in self.origins:
            if origin.start > at:
                break
            found = origin
        return found
