"""Lines of words to a tree of blocks; braces that are missing or too many are found."""

from __future__ import annotations

from collections.abc import Iterable

from pylvs.config.findings import Findings, Location
from pylvs.config.tree import Node, Word
from pylvs.config.words import Brace
from pylvs.model.dataclass import dataclass, field

DEEPEST = 32  # blocks within blocks; keepalived's own go six deep


def build_tree(lines: Iterable[list[Word | Brace]], findings: Findings) -> tuple[Node, ...]:
    """The statements of these lines.

    A statement ends at the end of its line, at its block's end, and before the end of the block that it stands in; its
    block may open on a later line, with nothing but comments between.
    """
    builder = _Builder(findings)
    for line in lines:
        words = tuple(item for item in line if isinstance(item, Word))
        if words:
            builder.statement(words)
        for item in line:
            if not isinstance(item, Brace):
                builder.before = item.place
            elif item.opens:
                builder.open(item.place)
            else:
                builder.close(item.place)
    return builder.end()


@dataclass(slots=True)
class _Open:
    """A block whose end has not been read: its statement, its opening brace, what stands in it so far."""

    words: tuple[Word, ...]
    brace: Location
    nodes: list[Node] = field(default_factory=list)

    @property
    def column(self) -> int:
        """Where its statement begins."""
        return self.words[0].place.column if self.words else self.brace.column

    def __str__(self) -> str:
        return f"the block of '{self.words[0]}'" if self.words else "the block"


@dataclass(slots=True)
class _Builder:
    """The blocks around the place that is being read."""

    findings: Findings
    nodes: list[Node] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    waiting: tuple[Word, ...] = ()  # a statement whose block may still open
    skipped: int = 0  # blocks that are too deep to be kept
    before: Location | None = None  # the word or brace before
    lacking: tuple[_Open, Location] | None = None  # by its indentation, this block's brace is missing before that place
    early: tuple[_Open, Location] | None = None  # by its indentation, this brace was not meant to end that block

    def statement(self, words: tuple[Word, ...]) -> None:
        """Words that are one statement, with or without a block."""
        self._finish()
        self.waiting = words

    def open(self, brace: Location) -> None:
        """A block begins."""
        if self.skipped or len(self.stack) >= DEEPEST:
            if not self.skipped:
                self.findings.error(
                    brace, f"blocks within blocks, over {DEEPEST} deep", "close those that should end", fatal=True
                )
            self.skipped += 1
        else:
            if not self.waiting:
                self.findings.error(brace, "'{' without a keyword before it", "write its keyword, or remove it")
            self.stack.append(_Open(self.waiting, brace))
        self.waiting, self.before = (), brace

    def close(self, brace: Location) -> None:
        """A block ends."""
        self._finish()
        if self.skipped:
            self.skipped -= 1
        elif not self.stack:
            advice = "remove it"
            if self.early:
                block, place = self.early
                advice = f"remove it, or that at line {place.line}, indented unlike {block} at line {block.brace.line}"
            self.findings.error(brace, "'}' closes nothing", advice)
        else:
            self._compare(brace)
            self._close()
        self.before = brace

    def end(self) -> tuple[Node, ...]:
        """All statements, once the text has ended."""
        self._finish()
        for block in reversed(self.stack):
            advice = "write its '}'"
            if self.lacking and self.lacking[0] is not block:
                other, place = self.lacking
                advice = (
                    f"write its '}}'; by indentation, {other} at line {other.brace.line} lacks one at line {place.line}"
                )
            self.findings.error(block.brace, f"{block} is never closed", advice, fatal=True)
        while self.stack:
            self._close()
        return tuple(self.nodes)

    def _finish(self) -> None:
        """The statement that waited has no block."""
        if self.waiting and not self.skipped:
            (self.stack[-1].nodes if self.stack else self.nodes).append(Node(self.waiting))
        self.waiting = ()

    def _close(self) -> None:
        """The innermost block is complete; what stands in a block without a keyword belongs to the block around it."""
        done = self.stack.pop()
        around = self.stack[-1].nodes if self.stack else self.nodes
        if done.words:
            around.append(Node(done.words, tuple(done.nodes)))
        else:
            around += done.nodes

    def _compare(self, brace: Location) -> None:
        """Look at the indentation of a brace that begins its line and ends the innermost block."""
        block = self.stack[-1]
        begins = self.before is None or (self.before.file, self.before.line) != (brace.file, brace.line)
        if not begins or block.brace.file != brace.file or brace.column == block.column:
            return
        if not self.lacking and any(other.column == brace.column for other in self.stack[:-1]):
            self.lacking = block, brace
        elif not self.early and brace.column > block.column:
            self.early = block, brace
