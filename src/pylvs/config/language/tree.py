"""The tree that a configuration's text is read into: lines of words, some with a block of lines below them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping

from pylvs.config.findings import Location
from pylvs.model.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a line, its quotes and escapes undone, variables replaced; `quoted` if it had quotes."""

    text: str
    location: Location
    quoted: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Node:
    """One statement: its words (the first is the keyword) and its block; `block` is None where it has no braces."""

    words: tuple[Word, ...]
    block: tuple[Node, ...] | None = None

    @property
    def keyword(self) -> str:
        """The first word."""
        return self.words[0].text

    @property
    def arguments(self) -> tuple[Word, ...]:
        """The words behind the keyword."""
        return self.words[1:]

    @property
    def location(self) -> Location:
        """Where the keyword stands."""
        return self.words[0].location

    def walk(self) -> Iterator[Node]:
        """This node and all below it, in the order of the text."""
        waiting = [self]
        while waiting:  # not by recursion: nothing limits the depth of a tree
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.block or ()))


@dataclass(frozen=True, slots=True)
class Document:
    """A file with its includes in location, in the order of the text."""

    nodes: tuple[Node, ...]
    files: tuple[str, ...]  # all that were read, the first one first
    texts: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # theirs, as they were read

    def walk(self) -> Iterator[Node]:
        """Every node, in the order of the text."""
        for node in self.nodes:
            yield from node.walk()


# --- lines -----------------------------------------------------------------------------------------------------------
# A line of text that knows where each of its characters was written, also after variables were replaced in it.


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


def _start(origin: Origin) -> int:
    """What origins are sorted by."""
    return origin.start


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end; the first origin starts at 0."""

    text: str
    origins: tuple[Origin, ...]

    @classmethod
    def written(cls, text: str, file: str, line: int) -> Line:
        """A line as it stands in a file."""
        return cls(text, (Origin(0, file, line, 1),))

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

    def location(self, start: int, end: int) -> Location:
        """Where the characters from `start` to before `end` stand; at least one is meant."""
        origin = self._origin(start)
        column = origin.column + (0 if origin.width else start - origin.start)
        width = origin.width or end - start
        if len(self.origins) > 1:
            last = self._origin(max(start, end - 1))
            if last is not origin and (last.file, last.line) == (origin.file, origin.line):
                width = last.column + (last.width or end - last.start) - column
        return Location(origin.file, origin.line, column, max(1, width))

    def part(self, start: int, end: int | None = None) -> Line:
        """The characters from `start` to before `end`."""
        kept: list[Origin] = []
        stop = len(self.text) if end is None else end
        first = bisect_right(self.origins, start, key=_start) - 1
        for origin in self.origins[first:]:
            if origin.start >= stop and kept:
                break
            moved = 0 if origin.width else max(0, start - origin.start)
            at = max(0, origin.start - start)
            kept.append(Origin(at, origin.file, origin.line, origin.column + moved, origin.width))
        return Line(self.text[start:stop], tuple(kept))

    def standing_for(self, location: Location) -> Line:
        """The same characters, all of which stand for what is written at this location."""
        return Line(self.text, (Origin(0, location.file, location.line, location.column, location.width),))

    def _origin(self, at: int) -> Origin:
        """That of the character at `at`."""
        if len(self.origins) == 1:
            return self.origins[0]
        return self.origins[bisect_right(self.origins, at, key=_start) - 1]
