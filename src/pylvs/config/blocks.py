"""Lines of words to a tree of blocks; braces that are missing or too many are found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pylvs.config.findings import Findings, Place
from pylvs.config.tree import Node, Word
from pylvs.config.words import Brace

DEEPEST = 32  # blocks within blocks; keepalived's own go six deep


@dataclass(slots=True)
class _Open:
    """A block whose end has not been read: its statement, its opening brace, what stands in it so far."""

    words: tuple[Word, ...]
    brace: Place | None
    nodes: list[Node] = field(default_factory=list)


def tree(lines: Iterable[list[Word | Brace]], findings: Findings) -> tuple[Node, ...]:
    """The statements of these lines.

    A statement ends at the end of its line, at its block's end, and before the end of the block that it stands in; its
    block may open on a later line, with nothing but comments between.
    """
    stack = [_Open((), None)]
    waiting: tuple[Word, ...] = ()  # a statement whose block may still open
    skipped = 0  # blocks that are too deep to be kept

    def finish() -> None:
        nonlocal waiting
        if waiting and not skipped:
            stack[-1].nodes.append(Node(waiting))
        waiting = ()

    for line in lines:
        words: list[Word] = []
        for item in line:
            if isinstance(item, Word):
                words.append(item)
                continue
            if words:
                finish()
                waiting, words = tuple(words), []
            if item.opens:
                if skipped or len(stack) > DEEPEST:
                    if not skipped:
                        findings.error(
                            item.place,
                            f"blocks more than {DEEPEST} deep",
                            "close those that are meant to end",
                            fatal=True,
                        )
                    skipped, waiting = skipped + 1, ()
                else:
                    if not waiting:
                        findings.error(item.place, "'{' without a keyword before it", "remove it, or write its keyword")
                    stack.append(_Open(waiting, item.place))
                    waiting = ()
                continue
            finish()
            if skipped:
                skipped -= 1
            elif len(stack) == 1:
                findings.error(
                    item.place, "'}' closes nothing", "remove it, or look for the block that ended too early"
                )
            else:
                _close(stack)
        if words:
            finish()
            waiting = tuple(words)
    finish()
    for unclosed in reversed(stack[1:]):
        assert unclosed.brace is not None
        what = f"the block of '{unclosed.words[0]}'" if unclosed.words else "the block"
        findings.error(unclosed.brace, f"{what} is never closed", "write its '}'", fatal=True)
    while len(stack) > 1:
        _close(stack)
    return tuple(stack[0].nodes)


def _close(stack: list[_Open]) -> None:
    """The innermost block is complete; what stands in a block without a keyword belongs to the block around it."""
    done = stack.pop()
    if done.words:
        stack[-1].nodes.append(Node(done.words, tuple(done.nodes)))
    else:
        stack[-1].nodes += done.nodes
