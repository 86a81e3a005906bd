"""The elements of a schema: blocks, keywords and the types of their values; and the reader that parses a tree by them.

A keyword is one line in a block's table. That line alone makes it parsed, checked, suggested and documented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Generic, TypeVar

from pylvs.config.language.lexer import SECRET_KEYWORDS
from pylvs.config.language.tree import Finding, Findings, Node, Severity, Word
from pylvs.model.dataclass import dataclass, field

T_co = TypeVar("T_co", covariant=True)


class BadValue(Exception):
    """A value cannot be accepted; `word` is None where a word is missing."""

    def __init__(
        self,
        text: str,
        advice: str = "",
        word: Word | None = None,
        severity: Severity = Severity.ERROR,
        typo: bool = False,
    ) -> None:
        super().__init__(text)
        self.text, self.advice, self.word, self.severity, self.typo = text, advice, word, severity, typo


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

    def note(self, word: Word, text: str, advice: str = "") -> None:
        """Report a word that keepalived accepts without a message."""
        self._report(Finding(word.location, Severity.NOTE, text, advice))

    def warn(self, word: Word, text: str, advice: str = "") -> None:
        """Report a word that is accepted nevertheless."""
        self._report(Finding(word.location, Severity.WARNING, text, advice))

    def typo(self, word: Word, text: str, advice: str = "") -> None:
        """Report an unknown word that is ignored, as in keepalived."""
        self._report(Finding(word.location, Severity.WARNING, text, advice, typo=True))

    def error(self, word: Word, text: str, advice: str = "") -> None:
        """Report a word that a start accepts as keepalived does, and a reload refuses: probably a typing error."""
        self._report(Finding(word.location, Severity.ERROR, text, advice))


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
    PARSED = "parsed"  # a statement of the language, which the parser obeys
    IGNORED = "ignored"  # always on; or without meaning here, which is a note where `instead` has the reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """The fields that keywords and blocks share."""

    aliases: tuple[str, ...] = ()
    state: State = State.SUPPORTED
    instead: str = ""  # advice unless supported
    is_own: bool = False  # keepalived does not have it


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
    combine: Callable[[Any, Any], object] | None = None  # of several occurrences, this makes one value of two

    @property
    def is_secret(self) -> bool:
        """Whether no finding, log line or listing may show its value."""
        return self.name in SECRET_KEYWORDS


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

    def effective_names(self) -> Iterator[str]:
        """Yield the names and aliases of the entries that have an effect."""
        for entry in self.entries:
            if entry.state in (State.SUPPORTED, State.PARSED):
                yield from (entry.name, *entry.aliases)

    def blocks(self) -> Iterator[Block]:
        """Yield this block and all below it."""
        yield self
        for entry in self.entries:
            if isinstance(entry, Block):
                yield from entry.blocks()


def did_you_mean(text: str, choices: tuple[str, ...] | list[str]) -> str:
    """Return "did you mean 'x'?", or "" if no choice is similar."""
    lowered = {choice.lower(): choice for choice in choices}
    from difflib import get_close_matches  # late: a valid file needs no advice

    near = get_close_matches(text.lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean '{lowered[near[0]]}'?" if near else ""


T = TypeVar("T")

REMOVE = "remove it"
UNNAMED = "a line is not known"  # begins a finding about a line that may be a password
MAX_BLOCKS_NAMED = 4  # in the advice of one finding
UNSUPPORTED = {
    State.LATER: "is not implemented: ignored",
    State.NEVER: "has no effect in pylvs",
    State.DEAD: "has no effect",
}


# Keywords of the keepalived that belongs to DPVS, an LVS on DPDK with full NAT.
DPVS_KEYWORDS = frozenset(
    (
        *("local_address_group", "deny_address_group", "allow_address_group", "snat_rule", "tunnel"),
        *("laddr_group_name", "daddr_group_name", "waddr_group_name", "syn_proxy", "vip_bind_dev", "establish_timeout"),
        *("conn_timeout", "bps", "limit_proportion", "src-range", "dst-range", "iif", "oif", "hash_target"),
        *("expire_quiescent_conn", "proxy_protocol", "quic", "abs_priority"),
    )
)


def blocks_with(root: Block, word: str, beside: Block | None = None) -> list[str]:
    """Return the names of the blocks that know the keyword, in the schema's order.

    With `beside`, only of blocks that are in the same top-level block.
    """
    tops = [root]
    if beside is not None:
        tops = [e for e in root.entries if isinstance(e, Block) and any(block is beside for block in e.blocks())]
    return list(dict.fromkeys(block.name for top in tops for block in top.blocks() if block.find(word)))


def unknown_keyword(root: Block, block: Block, word: str) -> tuple[str, str]:
    """Return the problem and the advice for a keyword that `block` does not know."""
    inside = f"in {block.name}" if block.name else "outside of all blocks"
    ignored = f"{word} is not known {inside} and is ignored"
    if word[:1] == "@":
        return ignored, "as in keepalived, one line has one condition"
    if word in DPVS_KEYWORDS:
        return f"{word} is a keyword of another product, DPVS, and is ignored", REMOVE
    found = blocks_with(root, word, block if block is not root else None)
    near = "" if found else did_you_mean(word, list(block.effective_names()))
    if not near:
        found = found or blocks_with(root, word)
    if found:
        holders = [name or "the top of the file" for name in found[:MAX_BLOCKS_NAMED]]
        return ignored, f"it belongs in {' or '.join(holders)}"
    return ignored, near or REMOVE


@dataclass(frozen=True, slots=True)
class Setting:
    """One parsed line: of a keyword, or (`keyword` None) of a block of lines."""

    keyword: Keyword | None
    value: object
    node: Node
    words: tuple[Word, ...] = ()  # of the value, without the keyword


@dataclass(slots=True, eq=False)
class Section:
    """One parsed block, without the lines that were rejected."""

    block: Block
    node: Node | None  # None: the whole document
    head: object = None
    settings: list[Setting] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    broken: bool = False  # its head was rejected: the whole block is ignored
    _last: dict[str, Setting] = field(default_factory=dict)

    def add(self, setting: Setting) -> None:
        self.settings.append(setting)
        if setting.keyword is not None:
            self._last[setting.keyword.name] = setting

    def setting(self, name: str) -> Setting | None:
        """Return the setting of a keyword (not of an alias); None if it is not given."""
        return self._last.get(name)

    def value(self, name: str, kind: type[T]) -> T | None:
        """Return a keyword's written value; None if it is not given."""
        setting = self.setting(name)
        if setting is None:
            return None
        assert isinstance(setting.value, kind), f"{name} is {type(setting.value).__name__}, not {kind.__name__}"
        return setting.value

    def lines(self, kind: type[T]) -> Iterator[T]:
        """Yield the values of a block of lines."""
        for setting in self.settings:
            if setting.keyword is None:
                assert isinstance(setting.value, kind)
                yield setting.value

    def below(self, *names: str) -> Iterator[Section]:
        """Yield the unbroken blocks of these names, in the order of the text."""
        return (section for section in self.sections if section.block.name in names and not section.broken)

    def first(self, name: str) -> Section | None:
        return next(self.below(name), None)


def _instead(entry: Keyword, earlier: Setting | None, node: Node) -> str:
    """Return what counts where a value of a keyword is rejected; "" if there is none, or a block around has one."""
    if earlier is not None:
        return f"that in {earlier.node.location.line_for(node.location)} counts"
    if entry.inherited or entry.global_names or entry.default_of:
        return ""
    default = entry.default_doc
    if isinstance(entry.default, bool):
        default = default or ("on" if entry.default else "off")
    elif isinstance(entry.default, int | float):
        default = default or f"{entry.default:.10g}"
    elif isinstance(entry.default, str):
        default = default or entry.default
    return f"the default counts: {default}" if default else ""


class Reader:
    """Reads blocks by a schema and collects findings, in the order of the text."""

    def __init__(self, root: Block) -> None:
        self.root = root
        self.findings = Findings()
        self._unknown: dict[tuple[str, str], tuple[str, str]] = {}

    def read(self, nodes: tuple[Node, ...]) -> Section:
        section = Section(self.root, None)
        self._fill(section, nodes, quiet=False)
        return section

    def _fill(self, section: Section, nodes: tuple[Node, ...], quiet: bool) -> None:
        """Read the statements of a block; `quiet` if the block is already reported as unsupported."""
        for node in nodes:
            entry = section.block.find(node.keyword)
            if entry is None and section.block.lines is not None:
                self._line(section, node, section.block.lines)
            elif entry is None:
                self._report_unknown(section, node)
            else:
                quiet_below = quiet or self._report_state(entry, node)
                if isinstance(entry, Block):
                    self._block(section, entry, node, quiet_below)
                else:
                    self._keyword(section, self._renamed(section.block, entry, node), node)

    def _report_unknown(self, section: Section, node: Node) -> None:
        key = section.block.name, node.keyword
        if key not in self._unknown:
            self._unknown[key] = unknown_keyword(self.root, section.block, node.keyword)
            text, advice = self._unknown[key]
            if any(isinstance(each, Keyword) and each.is_secret for each in section.block.entries) and advice == REMOVE:
                # It may be a password that begins a line.
                self._unknown[key] = f"{UNNAMED} in {section.block.name} and is ignored", advice
        text, advice = self._unknown[key]
        self.findings.typo(node.location, text, advice)

    def _report_state(self, entry: Keyword | Block, node: Node) -> bool:
        """Report an unsupported entry; return whether it is one."""
        if entry.state is State.IGNORED and entry.instead:
            noted = f"{entry.name} {UNSUPPORTED[State.NEVER]}"
            self.findings.add(Finding(node.location, Severity.NOTE, noted, entry.instead))
            return False
        text = UNSUPPORTED.get(entry.state)
        if text is not None:
            self.findings.warning(node.location, f"{entry.name} {text}", entry.instead)
        return text is not None

    def _renamed(self, block: Block, entry: Keyword, node: Node) -> Keyword:
        """Return the keyword that replaces a deprecated one."""
        if not entry.is_now:
            return entry
        now = block.find(entry.is_now)
        assert isinstance(now, Keyword)
        self.findings.warning(node.location, f"{entry.name} is an old word for {now.name}", f"write {now.name}")
        return now

    def _line(self, section: Section, node: Node, kind: Type[object]) -> None:
        """Read one line of a block of lines."""
        if node.block is not None:
            self.findings.typo(node.location, f"'{node.keyword}' takes no block here; it is ignored")
        read = self._parse(Words(node, node.words, self.findings.add), kind, node)
        if read is not None:
            section.add(read)

    def _keyword(self, section: Section, entry: Keyword, node: Node) -> None:
        if node.block is not None:
            self.findings.typo(node.location, f"{node.keyword} takes no block; what is in it is ignored")
        earlier = section.setting(entry.name)
        given = Words(node, node.arguments, self.findings.add)
        read = self._parse(given, entry.type, node, node.keyword, lambda: _instead(entry, earlier, node))
        if read is None:
            return
        if earlier is not None and entry.combine is not None:
            value, words = entry.combine(earlier.value, read.value), (*earlier.words, *read.words)
            section.add(Setting(entry, value, node, words))
            return
        if earlier is not None:
            winner = "first" if entry.first_wins else "last"
            line = earlier.node.location.line_for(node.location)
            text = f"{node.keyword} was given already in {line}; the {winner} one counts"
            self.findings.warning(node.location, text, "remove one of them")
            if entry.first_wins:
                return
        section.add(Setting(entry, read.value, node, read.words))

    def _block(self, section: Section, entry: Block, node: Node, quiet: bool) -> None:
        earlier = section.first(entry.name) if entry.merged else None
        below = earlier or Section(entry, node)
        words = Words(node, node.arguments, self.findings.add)
        if entry.head is not None:
            read = self._parse(words, entry.head, node)
            below.broken = read is None
            below.head = read.value if read else None
        else:
            self._report_surplus(words)
        if node.block is None:
            self.findings.error(node.location, f"{node.keyword} has no block", "add { ... }")
            below.broken = True
        if earlier is not None:
            assert earlier.node is not None
            line = earlier.node.location.line_for(node.location)
            text = f"{node.keyword} is given a second time, first in {line}; both count together"
            self.findings.warning(node.location, text, "put everything into one block")
        else:
            section.sections.append(below)
        self._fill(below, node.block or (), quiet)

    def _parse(
        self, words: Words, kind: Type[object], node: Node, keyword: str = "", instead: Callable[[], str] = str
    ) -> Setting | None:
        """Parse a value; return it in a Setting because None may be a value, or None if it is rejected.

        A finding that a value is out of range begins with `keyword`. `instead` returns what counts if it is rejected.
        """
        try:
            value = kind.parse(words)
        except BadValue as problem:
            location = problem.word.location if problem.word else node.location
            value = problem.word.text if problem.word else ""
            bare = keyword and problem.text.startswith(
                (f"{value} is not between", " ".join((value, "seconds is not between")))
            )
            text = f"{keyword} {problem.text}" if bare else problem.text
            if problem.word and keyword in SECRET_KEYWORDS:
                text = f"the value of {keyword} cannot be used"
            if ";" not in text and (consequence := instead()):
                text = f"{text}; {consequence}"
            self.findings.add(Finding(location, problem.severity, text, problem.advice, typo=problem.typo))
            return None
        taken = words.taken
        self._report_surplus(words, keyword in SECRET_KEYWORDS)
        return Setting(None, value, node, taken)

    def _report_surplus(self, words: Words, secret: bool = False) -> None:
        """Report the words that a type did not take; those of a `secret` are not shown."""
        if words:
            extra = list(words.rest())
            text = " ".join(word.text for word in extra)
            shown, advice = ("words", 'write " around a value with blanks') if secret else (f"'{text}'", "")
            self.findings.typo(extra[0].location, f"surplus {shown} behind {words.node.keyword} is ignored", advice)
