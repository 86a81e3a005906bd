"""The effective configuration: the value of every keyword in each block, and its origin."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar, overload

from pylvs.config.language.tree import Findings, Location, Word
from pylvs.config.schema.global_defs import GLOBAL_DEFS
from pylvs.config.schema.grammar import Block, Keyword, Section, Setting, State
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field, field_names, replace

T = TypeVar("T")

# The keywords of the model's fields whose names differ. Changes are described by them; some are those of no block.
FIELD_KEYWORDS = {
    "WantedServer.checks_left_out": "check left out",
    "GlobalSettings.smtp_alert": "smtp_alert_checker",
    "GlobalSettings.checker_nice": "checker_priority",
    "GlobalSettings.fifo": "lvs_notify_fifo",
    "DbusSettings.enabled": "enable_dbus",
    "DbusSettings.service_name": "dbus_service_name",
    "DbusSettings.no_interface_name": "dbus_no_interface_name",
    "Mail.recipients": "notification_email",
    "Mail.sender": "notification_email_from",
    "Mail.server": "smtp_server",
    "Mail.port": "smtp_server's port",
    "Mail.helo_name": "smtp_helo_name",
    "Mail.connect_timeout_s": "smtp_connect_timeout",
    "HttpCheck.sni": "enable_sni",
    "HttpCheck.protocol": "http_protocol",
    "Url.statuses": "status_code",
    "MiscCheck.script": "misc_path",
    "Pace.shared": "checker_share",
    "MiscCheck.dynamic": "misc_dynamic",
    "SmtpCheck.targets": "host",
    "VrrpInstance.vrid": "virtual_router_id",
    "VrrpInstance.advert_interval_s": "advert_int",
    "VrrpInstance.max_interval_s": "max_advert_int",
    "VrrpInstance.starts_as_master": "state MASTER",
    "VrrpInstance.addresses": "virtual_ipaddress",
    "VrrpInstance.excluded": "virtual_ipaddress_excluded",
    "VrrpInstance.routes": "virtual_route",
    "VrrpInstance.rules": "virtual_rule",
    "VrrpInstance.peers": "unicast_peer",
    "VrrpInstance.source": "source address",
    "VrrpInstance.strict": "strict_mode",
    "VrrpConfiguration.addresses": "static_ipaddress",
    "VrrpConfiguration.routes": "static_route",
    "VrrpConfiguration.rules": "static_rule",
    "VrrpGroup.members": "member",
    "Announcements.repeat": "garp_master_repeat",
    "Announcements.delay_s": "garp_master_delay",
    "Announcements.refresh_s": "garp_master_refresh",
    "Announcements.refresh_repeat": "garp_master_refresh_repeat",
    "Announcements.lower_priority_repeat": "garp_lower_prio_repeat",
    "Announcements.lower_priority_delay_s": "garp_lower_prio_delay",
    "Announcements.extra_interval_s": "garp_extra_if",
    "Tracks.interfaces": "track_interface",
    "Tracks.scripts": "track_script",
    "Tracks.files": "track_file",
    "Tracks.processes": "track_process",
    "Tracks.sessions": "track_bfd",
    "BfdSession.neighbor": "neighbor_ip",
    "BfdSession.source": "source_ip",
    "BfdSession.min_ttl": "least ttl",
    "BfdCheck.session": "name",
    "Notify.master": "notify_master",
    "Notify.backup": "notify_backup",
    "Notify.fault": "notify_fault",
    "Notify.stop": "notify_stop",
    "Notify.every": "notify",
    "Notify.deleted": "notify_deleted",
    "Notify.lower_priority_received": "notify_master_rx_lower_pri",
    "Notify.priority_changes": "notify_priority_changes",
    "VrrpSettings.fifos": "notify_fifo",
}


class OriginKind(Enum):
    """How a keyword gets its value."""

    GIVEN = "given"
    INHERITED = "inherited"
    DEFAULT = "default"
    ADJUSTED = "adjusted"  # by a rule, instead of the written value


@dataclass(frozen=True, slots=True)
class ValueOrigin:
    """The origin of a value; a default has no location."""

    how: OriginKind
    location: Location | None = None
    note: str = ""  # INHERITED: the block's name; DEFAULT: its description or the keyword it follows; ADJUSTED: why

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
    """A keyword's value and its origin."""

    keyword: Keyword
    value: object
    origin: ValueOrigin
    words: tuple[Word, ...] = ()  # the keyword and its arguments; none for a default


@dataclass(slots=True, eq=False)
class EffectiveBlock:
    """A block that computes the effective value of each keyword at its first use."""

    block: Block
    section: Section
    outer: tuple[Section, ...]  # the surrounding blocks, the nearest first
    settings: Section  # global_defs
    findings: Findings
    head: object = None  # the value of the words before the brace
    blocks: list[EffectiveBlock] = field(default_factory=list)
    _values: dict[str, EffectiveValue] = field(default_factory=dict)

    @property
    def word(self) -> Word:
        """The block's keyword."""
        assert self.section.node is not None, "the whole file has no name"
        return self.section.node.words[0]

    def effective(self, name: str) -> EffectiveValue:
        """Return a keyword's value with its origin; raises KeyError for a keyword that the block does not have."""
        if name not in self._values:
            entry = self.block.find(name)
            if not isinstance(entry, Keyword) or entry.name != name or not _has_value(entry):
                raise KeyError(name)
            self._values[name] = self._value(entry)
        return self._values[name]

    def all(self) -> Iterator[EffectiveValue]:
        """Yield the values of all keywords in the schema's order."""
        for entry in self.block.entries:
            if isinstance(entry, Keyword) and _has_value(entry):
                yield self.effective(entry.name)

    def _value(self, entry: Keyword) -> EffectiveValue:
        """Return the value of this block, or a surrounding one, or global_defs, or the default."""
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
        value, note = entry.default, entry.default_doc
        if entry.default_of:
            value, note = self.effective(entry.default_of).value, entry.default_of
        return EffectiveValue(entry, value, ValueOrigin(OriginKind.DEFAULT, note=note))

    def get(self, name: str, kind: type[T]) -> T:
        """Return the value of a keyword that always has one."""
        value = self.effective(name).value
        assert isinstance(value, kind), f"{name} of {self.block.name} is {value!r}"
        return value

    @overload
    def maybe(self, name: str, kind: type[T]) -> T | None: ...
    @overload
    def maybe(self, name: str, kind: type[T], default: T) -> T: ...
    def maybe(self, name: str, kind: type[T], default: T | None = None) -> T | None:
        """Return a keyword's value; `default` if none is written and the schema has no default."""
        value = self.effective(name).value
        assert value is None or isinstance(value, kind), f"{name} of {self.block.name} is {value!r}"
        return default if value is None else value

    def seconds(self, name: str) -> float:
        """Return an int or float value as seconds."""
        value = self.effective(name).value
        assert isinstance(value, int | float), f"{name} of {self.block.name} is {value!r}"
        return float(value)

    def address(self, name: str) -> Address | None:
        """Return a keyword's address, or None."""
        value = self.effective(name).value
        assert value is None or isinstance(value, IPv4Address | IPv6Address)
        return value

    def make(self, cls: type[T], **given: Any) -> T:
        """Make an object of the model: a field that is not `given` has the value of its keyword.

        A keyword without a value leaves the field's default. Raises KeyError for a field without a keyword here.
        """
        for name in field_names(cls):
            if name not in given:
                value = self.effective(keyword_of(cls.__name__, name)).value
                if value is not None:
                    given[name] = value
        return cls(**given)

    def is_written(self, name: str) -> bool:
        """Return whether the value is written in this block or in one from which it is inherited."""
        return self.effective(name).origin.how in (OriginKind.GIVEN, OriginKind.INHERITED)

    def has_line(self, *keywords: str) -> bool:
        """Return whether the block has a line of these keywords, perhaps with a value that is rejected and reported."""
        node = self.section.node
        return node is not None and any(each.keyword in keywords for each in node.block or ())

    def location(self, name: str) -> Location:
        """Return where findings about a value belong: its first word, else the keyword, else the block."""
        words = self.effective(name).words
        return words[min(1, len(words) - 1)].location if words else self.word.location

    def error(self, at: str | Word, text: str, advice: str = "", *, fatal: bool = False) -> None:
        """Report an error at a word, at the value of a keyword by name, or for "" at the block.

        A `fatal` one prevents the whole configuration.
        """
        self.findings.error(self._location(at), text, advice, fatal=fatal)

    def warning(self, at: str | Word, text: str, advice: str = "") -> None:
        """Report a warning at a word, at the value of a keyword by name, or for "" at the block."""
        self.findings.warning(self._location(at), text, advice)

    def _location(self, at: str | Word) -> Location:
        if isinstance(at, Word):
            return at.location
        return self.location(at) if at else self.word.location

    def fill(self, name: str, value: object) -> None:
        """Set a default that depends on other blocks."""
        self._values[name] = replace(self.effective(name), value=value)

    def adjust(self, name: str, value: object, note: str) -> None:
        """Replace the written value, for a reason."""
        written = self.effective(name)
        origin = ValueOrigin(OriginKind.ADJUSTED, written.origin.location, note)
        self._values[name] = replace(written, value=value, origin=origin)

    def leave_out(self, block: EffectiveBlock) -> None:
        """Remove a block, by identity because another may be equal."""
        self.blocks = [each for each in self.blocks if each is not block]

    def below(self, *names: str) -> Iterator[EffectiveBlock]:
        """Yield the blocks of these names."""
        return (each for each in self.blocks if each.block.name in names)

    def lines(self, name: str, kind: type[T]) -> Iterator[T]:
        """Yield the lines of all blocks of this name."""
        return (line for each in self.below(name) for line in each.section.lines(kind))

    def walk(self) -> Iterator[EffectiveBlock]:
        """Yield this block and all below it."""
        yield self
        for each in self.blocks:
            yield from each.walk()


@cache
def keyword_of(owner: str, field: str) -> str:
    """Return the keyword of a field of a class of the model: by default its name, without the unit."""
    return FIELD_KEYWORDS.get(f"{owner}.{field}") or field.removesuffix("_us").removesuffix("_s")


def resolve(document: Section, findings: Findings) -> EffectiveBlock:
    """Return the effective configuration, without broken blocks and always with global_defs."""
    settings = document.first(GLOBAL_DEFS.name) or Section(GLOBAL_DEFS, None)
    found = _resolve(document, (), settings, findings)
    if settings.node is None:
        found.blocks.insert(0, _resolve(settings, (document,), settings, findings))
    return found


def _resolve(section: Section, outer: tuple[Section, ...], settings: Section, findings: Findings) -> EffectiveBlock:
    found = EffectiveBlock(section.block, section, outer, settings, findings, section.head)
    outer = (section, *outer)
    for below in section.sections:
        if not below.broken and below.block.state is State.SUPPORTED:
            found.blocks.append(_resolve(below, outer, settings, findings))
    return found


def _has_value(entry: Keyword) -> bool:
    return entry.state is State.SUPPORTED and not entry.is_now


def _given(entry: Keyword, setting: Setting, inherited_from: str = "") -> EffectiveValue:
    how = OriginKind.INHERITED if inherited_from else OriginKind.GIVEN
    origin = ValueOrigin(how, setting.node.location, inherited_from)
    return EffectiveValue(entry, setting.value, origin, (setting.node.words[0], *setting.words))
