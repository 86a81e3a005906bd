"""What a schema is made of: blocks, keywords, and the types that read their words.

A keyword is one line in a block's table. Nothing else needs to know of it for it to be read, checked, suggested and
documented.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, TypeVar

from pylvs.config.findings import Finding, Severity
from pylvs.config.language.tree import Node, Word
from pylvs.model.dataclass import dataclass, field

T_co = TypeVar("T_co", covariant=True)


class BadValue(Exception):
    """A value that cannot be taken as written; `word` is None where one is missing."""

    def __init__(self, text: str, advice: str = "", word: Word | None = None, severity: Severity = Severity.ERROR):
        super().__init__(text)
        self.text, self.advice, self.word, self.severity = text, advice, word, severity


class Words:
    """The words of one line, taken from left to right by a type."""

    def __init__(self, node: Node, words: tuple[Word, ...], complain: Callable[[Finding], None]) -> None:
        self.node = node
        self._words = words
        self._next = 0
        self._complain = complain

    def __bool__(self) -> bool:
        return self._next < len(self._words)

    def peek(self) -> Word | None:
        """The next word, left where it is; None at the end."""
        return self._words[self._next] if self else None

    def take(self, what: str) -> Word:
        """The next word; Wrong says that `what` is missing."""
        if not self:
            raise BadValue(f"{self.node.keyword} lacks {what}", f"write '{self.node.keyword} ...' with {what}")
        self._next += 1
        return self._words[self._next - 1]

    def take_if(self, *texts: str) -> Word | None:
        """The next word if it is one of these."""
        word = self.peek()
        if word is None or word.text not in texts:
            return None
        self._next += 1
        return word

    @property
    def taken(self) -> tuple[Word, ...]:
        """Those taken so far."""
        return self._words[: self._next]

    def rest(self) -> Iterator[Word]:
        """Every word that is left, taken one by one."""
        while self:
            yield self.take("")

    def warn(self, word: Word, text: str, advice: str = "", security: bool = False) -> None:
        """Complain of a word that is taken all the same."""
        self._complain(Finding(word.location, Severity.WARNING, text, advice, security))


class Type(ABC, Generic[T_co]):
    """How the words behind a keyword become a value. What it leaves over is reported as surplus."""

    @abstractmethod
    def parse(self, words: Words) -> T_co:
        """The value; raises Wrong."""

    @abstractmethod
    def __str__(self) -> str:
        """What may be written, for complaints and the reference: "seconds", "NAT, DR or TUN"."""


class State(Enum):
    """What becomes of a keyword that is read."""

    SUPPORTED = "supported"
    LATER = "later"  # known, does not happen yet: a finding says what will not happen
    NEVER = "never"  # known, will not happen in pylvs: likewise
    DEAD = "dead"  # ignored by keepalived too: a finding says so
    NEEDLESS = "needless"  # what it asks for is always so, or has no meaning here: nothing to say


class Twice(Enum):
    """What a second time in the same block means."""

    LAST = "the last one counts"
    FIRST = "the first one counts"
    MANY = ""  # a list: each counts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What keywords and blocks have in common."""

    aliases: tuple[str, ...] = ()
    state: State = State.SUPPORTED
    instead: str = ""  # unless supported: what will not happen, or what to write instead
    twice: Twice = Twice.LAST
    since: str = ""  # the version of pylvs that has it; "" from the first on


@dataclass(frozen=True, slots=True)
class Keyword(_Entry):
    """One keyword with its value on the same line."""

    name: str
    type: Type[object]
    doc: str  # one line
    default: object = None  # of the type's values; None: none
    default_doc: str = ""  # where `default` alone does not say it: "the host's name"
    default_of: str = ""  # the default is what this other keyword of the same block comes to
    inherited: bool = False  # if not given here, the surrounding blocks' counts, the nearest first
    is_now: str = ""  # an old word: it counts as this keyword of the same block, and a finding says so
    global_names: tuple[str, ...] = ()  # then these of global_defs, the first that is given


@dataclass(frozen=True, slots=True)
class Block(_Entry):
    """A keyword with a block of others below it; or, with `lines`, a block whose every line is one value."""

    name: str
    doc: str
    entries: tuple[Keyword | Block, ...] = ()
    head: Type[object] | None = None  # of the words before the brace
    lines: Type[object] | None = None
    optional: bool = False  # the block may be absent, its head then says it all
    _by_name: dict[str, Keyword | Block] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            for name in (entry.name, *entry.aliases):
                self._by_name.setdefault(name, entry)

    def find(self, name: str) -> Keyword | Block | None:
        """The entry of this name or alias."""
        return self._by_name.get(name)

    def names(self) -> Iterator[str]:
        """Every word that this block knows, aliases included."""
        for entry in self.entries:
            yield entry.name
            yield from entry.aliases

    def blocks(self) -> Iterator[Block]:
        """This block and all below it."""
        yield self
        for entry in self.entries:
            if isinstance(entry, Block):
                yield from entry.blocks()
