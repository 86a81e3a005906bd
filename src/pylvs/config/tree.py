"""The tree that a configuration's text is read into: lines of words, some with a block of lines below them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pylvs.config.findings import Location
from pylvs.model.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a line, its quotes and escapes undone, variables replaced; `quoted` if it had quotes."""

    text: str
    place: Location
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
    def place(self) -> Location:
        """Where the keyword stands."""
        return self.words[0].place

    def walk(self) -> Iterator[Node]:
        """This node and all below it, in the order of the text."""
        waiting = [self]
        while waiting:  # not by recursion: nothing limits the depth of a tree
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.block or ()))


@dataclass(frozen=True, slots=True)
class Document:
    """A file with its includes in place, in the order of the text."""

    nodes: tuple[Node, ...]
    files: tuple[str, ...]  # all that were read, the first one first
    texts: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # theirs, as they were read

    def walk(self) -> Iterator[Node]:
        """Every node, in the order of the text."""
        for node in self.nodes:
            yield from node.walk()
