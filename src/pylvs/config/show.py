"""The effective configuration as text that can be read again, with the origin of each value behind it; and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pylvs.config.effective import EffectiveBlock, EffectiveValue, OriginKind
from pylvs.config.schema.servers import Server
from pylvs.config.schema.types import plain
from pylvs.config.words import format_arguments, format_statement, format_word
from pylvs.model.checks import LoadSource

INDENT = "    "
COLUMN = 48  # of the origins


def shown(effective: EffectiveBlock) -> str:
    """The text of the whole configuration."""
    return "".join(f"{line}\n" for each in effective.blocks for line in _block(each, ""))


def as_json(block: EffectiveBlock) -> dict[str, Any]:
    """The same for programs: blocks with their values, and of each the text and the origin."""
    return {
        "block": block.block.name,
        "head": _head(block),
        "values": [
            {"name": each.keyword.name, "value": text_of(each), "how": each.origin.how.value, "from": str(each.origin)}
            for each in block.all()
            if is_shown(each)
        ],
        "lines": [" ".join(map(str, each.words)) for each in block.section.settings if each.keyword is None],
        "blocks": [as_json(each) for each in block.blocks],
    }


def is_shown(setting: EffectiveValue) -> bool:
    """Whether there is anything to show: a keyword that has neither a value nor a default is not there."""
    return setting.value is not None or bool(setting.origin.note)


def text_of(setting: EffectiveValue) -> str:
    """A value as it may be written; "" where the keyword alone says it, or where its default has only a description."""
    if setting.words and setting.origin.how is not OriginKind.ADJUSTED:
        return " ".join(format_arguments(setting.words))
    text = value_text(setting.value)
    return format_word(setting.keyword.name, text) if text and isinstance(setting.value, str) else text


def value_text(value: object) -> str:
    """A value that nobody wrote, in the words of the configuration."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, LoadSource):
        return str(value.value)
    if isinstance(value, Server):
        return f"{value.address} {value.table_port}" if value.table_port else str(value.address)
    if isinstance(value, tuple) and value and all(isinstance(each, tuple) for each in value):
        return " ".join(f"{first}-{last}" for first, last in value)
    if isinstance(value, tuple):
        return " ".join(filter(None, map(value_text, value)))
    name = getattr(value, "name", None)  # of an enumeration: its word
    return name if isinstance(name, str) else str(value)


def _head(block: EffectiveBlock) -> str:
    node = block.section.node
    if isinstance(block.head, Server):
        return value_text(block.head)
    return " ".join(format_arguments(node.words)) if node else ""


def _block(block: EffectiveBlock, indent: str) -> Iterator[str]:
    place = block.section.node.place if block.section.node else None
    opening = " ".join(filter(None, (block.block.name, _head(block), "{")))
    yield _with_origin(indent + opening, f"{place.file}:{place.line}" if place else "default")
    for setting in block.all():
        if is_shown(setting):
            yield _setting(setting, indent + INDENT)
    for line in block.section.settings:
        if line.keyword is None:
            text = indent + INDENT + format_statement(line.words)
            yield _with_origin(text, f"{line.node.place.file}:{line.node.place.line}")
    for each in block.blocks:
        yield from _block(each, indent + INDENT)
    yield indent + "}"


def _setting(setting: EffectiveValue, indent: str) -> str:
    """One line; a comment where it could not be read again: no value, or a flag that is not set and knows no "off"."""
    name, text = setting.keyword.name, text_of(setting)
    if str(setting.keyword.type) == "":  # the keyword alone is its value
        text = ""
        absent = not setting.value
    else:
        absent = setting.value is None or (
            setting.origin.how is OriginKind.DEFAULT and text == "" and setting.value != ""
        )
    line = " ".join(filter(None, (name, text if setting.value != "" else '""')))
    return _with_origin(f"{indent}{'# ' if absent or setting.value == '' else ''}{line}", str(setting.origin))


def _with_origin(text: str, origin: str) -> str:
    return f"{text:{COLUMN}} # {origin}" if origin else text
