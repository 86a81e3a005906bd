"""The effective configuration: every keyword of each block that is there, its value, and where that comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from pylvs.config.findings import Place
from pylvs.config.schema.global_defs import GLOBAL_DEFS
from pylvs.config.schema.nouns import Block, Keyword, State, Twice
from pylvs.config.schema.reading import Section
from pylvs.config.tree import Word
from pylvs.model.addresses import Address

T = TypeVar("T")


class How(Enum):
    """Why a keyword has its value."""

    GIVEN = "given"
    INHERITED = "inherited"
    DEFAULT = "default"
    ADJUSTED = "adjusted"  # what is written cannot be: another rule decided


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from; `place` is None for a default."""

    how: How
    place: Place | None = None
    note: str = ""  # of INHERITED the block's name, of DEFAULT the keyword it follows, of ADJUSTED the reason

    def __str__(self) -> str:
        where = f"{self.place.file}:{self.place.line}" if self.place else ""
        match self.how:
            case How.GIVEN:
                return where
            case How.INHERITED:
                return f"from {self.note}, {where}"
            case How.DEFAULT:
                return f"default: {self.note}" if self.note else "default"
            case How.ADJUSTED:
                return ", ".join(filter(None, (self.note, where)))


@dataclass(frozen=True, slots=True)
class Effective:
    """A keyword's value and where it comes from."""

    keyword: Keyword
    value: object
    origin: Origin
    words: tuple[Word, ...] = ()  # the keyword and those that made the value; none for a default


@dataclass(slots=True)
class EffectiveBlock:
    """A block with all its keywords filled in. Those that may be given often have one entry for each time."""

    block: Block
    section: Section
    head: object = None  # what stands behind the block's name
    settings: list[Effective] = field(default_factory=list)
    blocks: list[EffectiveBlock] = field(default_factory=list)

    @property
    def word(self) -> Word:
        """The block's name, as written."""
        assert self.section.node is not None, "the whole file has no name"
        return self.section.node.words[0]

    def effective(self, name: str) -> Effective:
        """A keyword with its value; KeyError if this block knows no such word."""
        for each in self.settings:
            if each.keyword.name == name:
                return each
        raise KeyError(name)

    def get(self, name: str, kind: type[T]) -> T:
        """A keyword's value, of which it is known that there is one."""
        value = self.effective(name).value
        assert isinstance(value, kind), f"{name} of {self.block.name} is {value!r}"
        return value

    def maybe(self, name: str, kind: type[T]) -> T | None:
        """A keyword's value; None if there is neither one written nor a default."""
        value = self.effective(name).value
        assert value is None or isinstance(value, kind), f"{name} of {self.block.name} is {value!r}"
        return value

    def seconds(self, name: str) -> float:
        """A keyword's value as seconds, whole or not."""
        value = self.effective(name).value
        assert isinstance(value, int | float), f"{name} of {self.block.name} is {value!r}"
        return float(value)

    def address(self, name: str) -> Address | None:
        """A keyword's value as an address; None if there is none."""
        value = self.effective(name).value
        assert value is None or isinstance(value, IPv4Address | IPv6Address)
        return value

    def is_written(self, name: str) -> bool:
        """Whether the value stands in the file: in this block, or in one that it is inherited from."""
        return self.effective(name).origin.how in (How.GIVEN, How.INHERITED)

    def place(self, name: str) -> Place:
        """Where complaints of a keyword's value stand: at its first word, else at the keyword, else at the block."""
        words = self.effective(name).words
        return words[min(1, len(words) - 1)].place if words else self.word.place

    def fill(self, name: str, value: object) -> None:
        """A default that only the surrounding blocks know."""
        for at, each in enumerate(self.settings):
            if each.keyword.name == name:
                self.settings[at] = replace(each, value=value)

    def adjust(self, name: str, value: object, note: str) -> None:
        """Another value than the written one, and why."""
        for at, each in enumerate(self.settings):
            if each.keyword.name == name:
                origin = Origin(How.ADJUSTED, each.origin.place, note)
                self.settings[at] = replace(each, value=value, origin=origin)

    def leave_out(self, block: EffectiveBlock) -> None:
        """Without this one of its blocks: another one may say the same."""
        self.blocks = [each for each in self.blocks if each is not block]

    def below(self, *names: str) -> Iterator[EffectiveBlock]:
        """The blocks of these names in this one."""
        return (each for each in self.blocks if each.block.name in names)

    def walk(self) -> Iterator[EffectiveBlock]:
        """This block and all below it."""
        yield self
        for each in self.blocks:
            yield from each.walk()


def resolve(document: Section) -> EffectiveBlock:
    """Everything filled in; blocks whose head is broken are left out, and global_defs is always there."""
    settings = document.first(GLOBAL_DEFS.name) or Section(GLOBAL_DEFS, None)
    found = _resolve(document, (), settings)
    if settings.node is None:
        found.blocks.insert(0, _resolve(settings, (document,), settings))
    return found


def _resolve(section: Section, outer: tuple[Section, ...], settings: Section) -> EffectiveBlock:
    found = EffectiveBlock(section.block, section, section.head)
    for entry in section.block.entries:
        if isinstance(entry, Keyword) and entry.state is State.SUPPORTED and not entry.is_now:
            found.settings += _values(entry, section, outer, settings)
    for at, each in enumerate(found.settings):
        if each.keyword.default_of and each.origin.how is How.DEFAULT:
            source = found.effective(each.keyword.default_of)
            found.settings[at] = replace(each, value=source.value, origin=Origin(How.DEFAULT, note=source.keyword.name))
    for below in section.sections:
        if not below.broken and below.block.state is State.SUPPORTED:
            found.blocks.append(_resolve(below, (section, *outer), settings))
    return found


def _values(entry: Keyword, section: Section, outer: tuple[Section, ...], settings: Section) -> Iterator[Effective]:
    """What is given here; else what is inherited; else what global_defs says; else the default."""
    given = [each for each in section.settings if each.keyword is entry]
    for each in given if entry.twice is Twice.MANY else given[-1:]:
        yield Effective(entry, each.value, Origin(How.GIVEN, each.node.place), (each.node.words[0], *each.words))
    if given or entry.twice is Twice.MANY:
        return
    inherited = [(each, entry.name) for each in outer] if entry.inherited else []
    inherited += [(settings, name) for name in entry.global_names]
    for source, name in inherited:
        setting = source.setting(name)
        if setting is not None:
            origin = Origin(How.INHERITED, setting.node.place, source.block.name)
            yield Effective(entry, setting.value, origin, (setting.node.words[0], *setting.words))
            return
    yield Effective(entry, entry.default, Origin(How.DEFAULT, note=entry.default_doc))
