"""The effective configuration: every keyword of each block that is there, its value, and where that comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from pylvs.config.findings import Location
from pylvs.config.language.tree import Word
from pylvs.config.schema.global_defs import GLOBAL_DEFS
from pylvs.config.schema.grammar import Block, Keyword, State, Twice
from pylvs.config.schema.reader import Section, Setting
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field

T = TypeVar("T")


class OriginKind(Enum):
    """Why a keyword has its value."""

    GIVEN = "given"
    INHERITED = "inherited"
    DEFAULT = "default"
    ADJUSTED = "adjusted"  # what is written cannot be: another rule decided


@dataclass(frozen=True, slots=True)
class ValueOrigin:
    """Where a value comes from; `location` is None for a default."""

    how: OriginKind
    location: Location | None = None
    note: str = ""  # of INHERITED the block's name, of DEFAULT the keyword it follows, of ADJUSTED the reason

    def __str__(self) -> str:
        where = f"{self.location.file}:{self.location.line}" if self.location else ""
        match self.how:
            case OriginKind.GIVEN:
                return where
            case OriginKind.INHERITED:
                return f"from {self.note}, {where}"
            case OriginKind.DEFAULT:
                return f"default: {self.note}" if self.note else "default"
            case OriginKind.ADJUSTED:
                return ", ".join(filter(None, (self.note, where)))


@dataclass(frozen=True, slots=True)
class EffectiveValue:
    """A keyword's value and where it comes from."""

    keyword: Keyword
    value: object
    origin: ValueOrigin
    words: tuple[Word, ...] = ()  # the keyword and those that made the value; none for a default


@dataclass(slots=True, eq=False)
class EffectiveBlock:
    """A block with its keywords filled in, each when it is first asked for."""

    block: Block
    section: Section
    outer: tuple[Section, ...]  # the blocks around it, the nearest first
    settings: Section  # global_defs
    head: object = None  # what stands behind the block's name
    blocks: list[EffectiveBlock] = field(default_factory=list)
    _known: dict[str, EffectiveValue] = field(default_factory=dict)

    @property
    def word(self) -> Word:
        """The block's name, as written."""
        assert self.section.node is not None, "the whole file has no name"
        return self.section.node.words[0]

    def effective(self, name: str) -> EffectiveValue:
        """A keyword with its value; KeyError if this block knows no such word."""
        if name not in self._known:
            entry = self.block.find(name)
            if not isinstance(entry, Keyword) or entry.name != name or not _has_value(entry):
                raise KeyError(name)
            self._known[name] = self._value(entry)
        return self._known[name]

    def all(self) -> Iterator[EffectiveValue]:
        """Every keyword in the schema's order; those that may be given often, once for each time."""
        for entry in self.block.entries:
            if isinstance(entry, Keyword) and _has_value(entry):
                if entry.twice is Twice.MANY:
                    yield from (_given(entry, each) for each in self.section.settings if each.keyword is entry)
                else:
                    yield self.effective(entry.name)

    def _value(self, entry: Keyword) -> EffectiveValue:
        """What is given here; else what is inherited; else what global_defs says; else the default."""
        given = self.section.setting(entry.name)
        if given is not None:
            return _given(entry, given)
        if entry.inherited:
            for source in self.outer:
                setting = source.setting(entry.name)
                if setting is not None:
                    return _given(entry, setting, source.block.name)
        for name in entry.global_names:
            setting = self.settings.setting(name)
            if setting is not None:
                return _given(entry, setting, self.settings.block.name)
        if entry.default_of:
            return EffectiveValue(
                entry, self.effective(entry.default_of).value, ValueOrigin(OriginKind.DEFAULT, note=entry.default_of)
            )
        return EffectiveValue(entry, entry.default, ValueOrigin(OriginKind.DEFAULT, note=entry.default_doc))

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
        return self.effective(name).origin.how in (OriginKind.GIVEN, OriginKind.INHERITED)

    def location(self, name: str) -> Location:
        """Where complaints of a keyword's value stand: at its first word, else at the keyword, else at the block."""
        words = self.effective(name).words
        return words[min(1, len(words) - 1)].location if words else self.word.location

    def fill(self, name: str, value: object) -> None:
        """A default that only the surrounding blocks know."""
        self._known[name] = replace(self.effective(name), value=value)

    def adjust(self, name: str, value: object, note: str) -> None:
        """Another value than the written one, and why."""
        each = self.effective(name)
        self._known[name] = replace(
            each, value=value, origin=ValueOrigin(OriginKind.ADJUSTED, each.origin.location, note)
        )

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
    """The effective configuration; blocks whose head is broken are left out, and global_defs is always there."""
    settings = document.first(GLOBAL_DEFS.name) or Section(GLOBAL_DEFS, None)
    found = _resolve(document, (), settings)
    if settings.node is None:
        found.blocks.insert(0, _resolve(settings, (document,), settings))
    return found


def _resolve(section: Section, outer: tuple[Section, ...], settings: Section) -> EffectiveBlock:
    found = EffectiveBlock(section.block, section, outer, settings, section.head)
    outer = (section, *outer)
    for below in section.sections:
        if not below.broken and below.block.state is State.SUPPORTED:
            found.blocks.append(_resolve(below, outer, settings))
    return found


def _has_value(entry: Keyword) -> bool:
    return entry.state is State.SUPPORTED and not entry.is_now


def _given(entry: Keyword, setting: Setting, inherited_from: str = "") -> EffectiveValue:
    how = OriginKind.INHERITED if inherited_from else OriginKind.GIVEN
    origin = ValueOrigin(how, setting.node.location, inherited_from)
    return EffectiveValue(entry, setting.value, origin, (setting.node.words[0], *setting.words))
