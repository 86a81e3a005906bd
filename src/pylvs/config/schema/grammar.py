"""The elements of a schema: blocks, keywords, and the types that parse their values.

A keyword is one line in a block's table. That line alone makes it parsed, checked, suggested and documented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, TypeVar

from pylvs.config.findings import Finding, Severity
from pylvs.config.language.tree import Node, Word
from pylvs.model.dataclass import dataclass, field

T_co = TypeVar("T_co", covariant=True)


class BadValue(Exception):
    """A value cannot be accepted; `word` is None where a word is missing."""

    def __init__(self, text: str, advice: str = "", word: Word | None = None, severity: Severity = Severity.ERROR):
        super().__init__(text)
        self.text, self.advice, self.word, self.severity = text, advice, word, severity


class Words:
    """The words of one line, which a type takes from left to right."""

    def __init__(self, node: Node, words: tuple[Word, ...], report: Callable[[Finding], None]) -> None:
        self.node = node
        self._words = words
        self._next = 0
        self._report = report

    def __bool__(self) -> bool:
        return self._next < len(self._words)

    def peek(self) -> Word | None:
        """Return the next word without taking it; None at the end."""
        return self._words[self._next] if self else None

    def take(self, what: str) -> Word:
        """Take the next word; raises BadValue, which names `what`, at the end."""
        if not self:
            raise BadValue(f"{self.node.keyword} lacks {what}", f"write '{self.node.keyword} ...' with {what}")
        self._next += 1
        return self._words[self._next - 1]

    def take_if(self, *texts: str) -> Word | None:
        """Take the next word if it is one of these."""
        word = self.peek()
        if word is None or word.text not in texts:
            return None
        self._next += 1
        return word

    @property
    def taken(self) -> tuple[Word, ...]:
        return self._words[: self._next]

    def rest(self) -> Iterator[Word]:
        """Take the remaining words one by one."""
        while self:
            yield self.take("")

    def warn(self, word: Word, text: str, advice: str = "") -> None:
        """Report a word that is accepted nevertheless."""
        self._report(Finding(word.location, Severity.WARNING, text, advice))


@dataclass(frozen=True, slots=True)
class Type(Generic[T_co]):
    """The arguments that a keyword accepts.

    `syntax` describes them, for findings and the reference: "seconds", "NAT, DR or TUN". `parse` returns their value or
    raises BadValue. The reader reports words that it does not take as surplus.
    """

    syntax: str
    parse: Callable[[Words], T_co]


class State(Enum):
    """Whether pylvs implements a keyword."""

    SUPPORTED = "supported"
    LATER = "later"  # not implemented yet: a finding
    NEVER = "never"  # will not be implemented: a finding
    DEAD = "dead"  # ignored by keepalived too: a finding
    IGNORED = "ignored"  # accepted and ignored: always on, or without meaning here


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """The fields that keywords and blocks share."""

    aliases: tuple[str, ...] = ()
    state: State = State.SUPPORTED
    instead: str = ""  # advice unless supported
    since: str = ""  # first version of pylvs that has it; "" is the first release


@dataclass(frozen=True, slots=True)
class Keyword(_Entry):
    """One keyword with its value on the same line."""

    name: str
    type: Type[object]
    doc: str  # one line
    default: object = None  # a value of the type; None: no default
    default_doc: str = ""  # describes a default that is computed: "the host's name"
    default_of: str = ""  # the default is the value of this keyword of the same block
    first_wins: bool = False  # of several occurrences the first one counts, not the last
    inherited: bool = False  # without a value here, that of the nearest block around counts
    is_now: str = ""  # deprecated: counts as this keyword of the same block, with a finding
    global_names: tuple[str, ...] = ()  # then the first of these that global_defs gives


@dataclass(frozen=True, slots=True)
class Block(_Entry):
    """A keyword with a block of entries, or with `lines`, a block of lines that are one value each."""

    name: str
    doc: str
    entries: tuple[Keyword | Block, ...] = ()
    head: Type[object] | None = None  # type of the words before the brace
    lines: Type[object] | None = None
    merged: bool = False  # several count as one, with a finding
    _by_name: dict[str, Keyword | Block] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            for name in (entry.name, *entry.aliases):
                self._by_name.setdefault(name, entry)

    def find(self, name: str) -> Keyword | Block | None:
        """Return the entry of this name or alias."""
        return self._by_name.get(name)

    def names(self) -> Iterator[str]:
        """Yield the names and aliases of the entries."""
        for entry in self.entries:
            yield entry.name
            yield from entry.aliases

    def blocks(self) -> Iterator[Block]:
        """Yield this block and all below it."""
        yield self
        for entry in self.entries:
            if isinstance(entry, Block):
                yield from entry.blocks()
