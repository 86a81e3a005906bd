"""From the tree to sections: each block's lines read by their types, and everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from pylvs.config.findings import Finding, Findings, Severity
from pylvs.config.language.tree import Node, Word
from pylvs.config.schema.grammar import BadValue, Block, Keyword, State, Twice, Type, Words
from pylvs.config.schema.types import did_you_mean
from pylvs.model.dataclass import dataclass, field

MOST_BLOCKS_NAMED = 4  # blocks that are named at most


def blocks_with(root: Block, word: str, beside: Block | None = None) -> list[str]:
    """The names of the blocks that do know the word, without doubles, in the schema's order.

    With `beside`, only of those that stand in the same block at the top of the file.
    """
    tops = [top for top in root.entries if isinstance(top, Block)]
    if beside is not None:
        tops = [top for top in tops if any(block is beside for block in top.blocks())]
    blocks = [root] if beside is None else []
    found = [block.name for block in (*blocks, *(block for top in tops for block in top.blocks())) if block.find(word)]
    return list(dict.fromkeys(found))


def unknown_keyword(root: Block, block: Block, word: str) -> tuple[str, str]:
    """What is wrong and what to do, for a word that `block` does not know."""
    inside = f"in {block.name}" if block.name else "outside of all blocks"
    ignored = f"{word} is not known {inside} and is ignored"
    found = blocks_with(root, word, block if block is not root else None)
    near = "" if found else did_you_mean(word, list(block.names()))
    if not near:
        found = found or blocks_with(root, word)
    if found:
        holders = [name or "the top of the file" for name in found[:MOST_BLOCKS_NAMED]]
        return ignored, f"it belongs into {' or '.join(holders)}"
    if not near:
        everywhere = sorted({name for each in root.blocks() for name in each.names()})
        near = did_you_mean(word, everywhere)
    return ignored, near or "remove it"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """One line as read; a keyword's, or (`keyword` None) one of a block of lines."""

    keyword: Keyword | None
    value: object
    node: Node
    words: tuple[Word, ...] = ()  # those that made the value, without the keyword


@dataclass(slots=True, eq=False)
class Section:
    """One block as read. Lines that could not be taken are not in it."""

    block: Block
    node: Node | None  # None: the whole document
    head: object = None
    settings: list[Setting] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    broken: bool = False  # its head could not be read: the block as a whole does not count
    _last: dict[str, Setting] = field(default_factory=dict)

    def add(self, setting: Setting) -> None:
        """One more line."""
        self.settings.append(setting)
        if setting.keyword is not None:
            self._last[setting.keyword.name] = setting

    def setting(self, name: str) -> Setting | None:
        """The setting of a keyword (not of an alias); None if it is not given."""
        return self._last.get(name)

    def value(self, name: str, kind: type[T]) -> T | None:
        """A keyword's value if it is given; its default does not count."""
        setting = self.setting(name)
        if setting is None:
            return None
        assert isinstance(setting.value, kind), f"{name} is {type(setting.value).__name__}, not {kind.__name__}"
        return setting.value

    def values(self, name: str, kind: type[T]) -> Iterator[T]:
        """Every value of a keyword that may be given more than once."""
        for setting in self.settings:
            if setting.keyword is not None and setting.keyword.name == name:
                assert isinstance(setting.value, kind)
                yield setting.value

    def lines(self, kind: type[T]) -> Iterator[T]:
        """Every line of a block of lines."""
        for setting in self.settings:
            if setting.keyword is None:
                assert isinstance(setting.value, kind)
                yield setting.value

    def below(self, *names: str) -> Iterator[Section]:
        """The blocks of these names in this one, in the order of the text; the broken ones are left out."""
        return (section for section in self.sections if section.block.name in names and not section.broken)

    def first(self, name: str) -> Section | None:
        """The first block of a name."""
        return next(self.below(name), None)


class Reader:
    """Reads blocks by a schema and collects the findings, in the order of the text."""

    def __init__(self, root: Block) -> None:
        self.root = root
        self.findings = Findings()
        self._strangers: dict[tuple[str, str], tuple[str, str]] = {}

    def read(self, nodes: tuple[Node, ...]) -> Section:
        """A whole document."""
        section = Section(self.root, None)
        self._fill(section, nodes, quiet=False)
        return section

    def complain(self, word: Word, severity: Severity, text: str, advice: str = "") -> None:
        """One more finding, at a word."""
        self.findings.add(Finding(word.location, severity, text, advice))

    def _fill(self, section: Section, nodes: tuple[Node, ...], quiet: bool) -> None:
        """Read a block's inside; `quiet` if it was already said that the block does not happen."""
        for node in nodes:
            entry = section.block.find(node.keyword)
            if entry is None and section.block.lines is not None:
                self._line(section, node, section.block.lines)
            elif entry is None:
                self._stranger(section, node)
            else:
                told = quiet or self._state(entry, node)
                if isinstance(entry, Block):
                    self._block(section, entry, node, told)
                else:
                    self._keyword(section, self._renamed(section.block, entry, node), node)

    def _stranger(self, section: Section, node: Node) -> None:
        key = section.block.name, node.keyword
        if key not in self._strangers:
            self._strangers[key] = unknown_keyword(self.root, section.block, node.keyword)
        text, advice = self._strangers[key]
        self.complain(node.words[0], Severity.WARNING, text, advice)

    def _state(self, entry: Keyword | Block, node: Node) -> bool:
        """Say what will not happen; True if something was said."""
        texts = {
            State.LATER: f"{entry.name} is known but does not happen yet",
            State.NEVER: f"{entry.name} does not happen in pylvs",
            State.DEAD: f"{entry.name} has no effect",
        }
        text = texts.get(entry.state)
        if text is not None:
            self.complain(node.words[0], Severity.WARNING, text, entry.instead)
        return text is not None

    def _renamed(self, block: Block, entry: Keyword, node: Node) -> Keyword:
        """What an old word is now."""
        if not entry.is_now:
            return entry
        now = block.find(entry.is_now)
        assert isinstance(now, Keyword)
        self.complain(
            node.words[0], Severity.WARNING, f"{entry.name} is an old word for {now.name}", f"write {now.name}"
        )
        return now

    def _line(self, section: Section, node: Node, kind: Type[object]) -> None:
        """One line of a block whose lines have no keywords."""
        if node.block is not None:
            self.complain(node.words[0], Severity.WARNING, f"'{node.keyword}' takes no block here; it is ignored")
        read = self._parse(Words(node, node.words, self.findings.add), kind, node)
        if read is not None:
            section.add(read)

    def _keyword(self, section: Section, entry: Keyword, node: Node) -> None:
        if node.block is not None:
            self.complain(node.words[0], Severity.WARNING, f"{node.keyword} takes no block; what is in it is ignored")
        read = self._parse(Words(node, node.arguments, self.findings.add), entry.type, node)
        earlier = section.setting(entry.name)
        if read is not None and earlier is not None and entry.twice is not Twice.MANY:
            text = f"{node.keyword} was given already in line {earlier.node.location.line}; {entry.twice.value}"
            self.complain(node.words[0], Severity.WARNING, text, "remove one of them")
            if entry.twice is Twice.FIRST:
                return
        if read is not None:
            section.add(Setting(entry, read.value, node, read.words))

    def _block(self, section: Section, entry: Block, node: Node, quiet: bool) -> None:
        earlier = section.first(entry.name) if entry.twice is not Twice.MANY else None
        below = earlier or Section(entry, node)
        words = Words(node, node.arguments, self.findings.add)
        if entry.head is not None:
            read = self._parse(words, entry.head, node)
            below.broken = read is None
            below.head = read.value if read else None
        else:
            self._surplus(words)
        if node.block is None and not entry.optional:
            self.complain(node.words[0], Severity.ERROR, f"{node.keyword} has no block", "add { ... }")
            below.broken = True
        if earlier is not None:
            text = f"{node.keyword} is given a second time; both count together"
            self.complain(node.words[0], Severity.WARNING, text, "put everything into one block")
        else:
            section.sections.append(below)
        self._fill(below, node.block or (), quiet)

    def _parse(self, words: Words, kind: Type[object], node: Node) -> Setting | None:
        """A value in a Setting, so that None can be a value; None itself if it could not be taken."""
        try:
            value = kind.parse(words)
        except BadValue as wrong:
            self.complain(wrong.word or node.words[0], wrong.severity, wrong.text, wrong.advice)
            return None
        taken = words.taken
        self._surplus(words)
        return Setting(None, value, node, taken)

    def _surplus(self, words: Words) -> None:
        """Say that words were left over."""
        if words:
            extra = list(words.rest())
            text = " ".join(word.text for word in extra)
            self.complain(extra[0], Severity.WARNING, f"surplus '{text}' behind {words.node.keyword} is ignored")
