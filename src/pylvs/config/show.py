"""What `pylvs check` prints: findings, and the effective configuration as JSON or as text that pylvs parses again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pylvs.config.compile.effective import EffectiveBlock, EffectiveValue, OriginKind
from pylvs.config.language.lexer import SECRET_KEYWORDS, format_arguments, format_statement, format_word
from pylvs.config.language.preprocessor import DEFINITION
from pylvs.config.language.tree import Document, Finding, Severity
from pylvs.config.repeats import folded
from pylvs.config.schema.grammar import UNNAMED
from pylvs.config.schema.service_types import Server
from pylvs.config.schema.types import plain
from pylvs.model.checks import LoadSource
from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import HIDDEN
from pylvs.system.logs import visible

INDENT = "    "
COLUMN = 48  # where the comment with a value's origin begins
MAX_WIDTH = 100  # characters of a source line that a report shows

_VISIBLE, _VISIBLE_WORDS = re.compile(r"\S"), re.compile(r"[^\s{}]+")
_SECRET_STATEMENT = re.compile(rf"\b(?:{'|'.join(SECRET_KEYWORDS)})\b.*")
_VARIABLE = re.compile(r"\$\{?(\w+)")
_COLOURS = {Severity.ERROR: "\x1b[1;31m", Severity.WARNING: "\x1b[1;33m", Severity.NOTE: "\x1b[1;36m"}
_PLAIN = "\x1b[0m"


def shown(effective: EffectiveBlock) -> str:
    """Return the whole configuration as text, with the origin of each value in a comment."""
    return "".join(f"{line}\n" for each in effective.blocks for line in _block(each, ""))


def as_json(block: EffectiveBlock) -> dict[str, Any]:
    """Return blocks with their values; each value has its text and origin."""
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
    """Return whether a keyword has a value or a default."""
    return setting.value is not None or bool(setting.origin.note)


def text_of(setting: EffectiveValue) -> str:
    """Return a value in keepalived's syntax; "" for a flag, and for a default that has only a description."""
    if setting.keyword.is_secret and setting.value:
        return HIDDEN
    if setting.words and setting.origin.how is not OriginKind.ADJUSTED:
        return " ".join(format_arguments(setting.words))
    text = value_text(setting.value)
    return format_word(setting.keyword.name, text) if text and isinstance(setting.value, str) else text


def value_text(value: object) -> str:
    """Return a default or adjusted value in keepalived's syntax."""
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
    name = getattr(value, "name", None)  # of an enumeration
    return name if isinstance(name, str) else str(value)


def _head(block: EffectiveBlock) -> str:
    node = block.section.node
    if isinstance(block.head, Server):
        return value_text(block.head)
    return " ".join(format_arguments(node.words)) if node else ""


def _block(block: EffectiveBlock, indent: str) -> Iterator[str]:
    location = block.section.node.location if block.section.node else None
    opening = " ".join(filter(None, (block.block.name, _head(block), "{")))
    yield _with_origin(indent + opening, f"{location.file}:{location.line}" if location else "default")
    for setting in block.all():
        if is_shown(setting):
            yield _setting(setting, indent + INDENT)
    for line in block.section.settings:
        if line.keyword is None:
            text = indent + INDENT + format_statement(line.words)
            yield _with_origin(text, f"{line.node.location.file}:{line.node.location.line}")
    for each in block.blocks:
        yield from _block(each, indent + INDENT)
    yield indent + "}"


def _setting(setting: EffectiveValue, indent: str) -> str:
    """Return one line, commented out where the parser would reject it: no value, or an unset flag without "off"."""
    name, text = setting.keyword.name, text_of(setting)
    absent = text == HIDDEN and setting.keyword.is_secret
    absent |= setting.value is None or (setting.origin.how is OriginKind.DEFAULT and not text and setting.value != "")
    if not setting.keyword.type.syntax:  # the keyword alone is its value
        text, absent = "", not setting.value
    line = " ".join(filter(None, (name, text if setting.value != "" else '""')))
    return _with_origin(f"{indent}{'# ' if absent or setting.value == '' else ''}{line}", str(setting.origin))


def _with_origin(text: str, origin: str) -> str:
    return f"{text:{COLUMN}} # {origin}" if origin else text


@dataclass(slots=True)
class Report:
    """Formats findings; with `pictures`, the source line and a caret follow each."""

    document: Document
    pictures: bool = False
    colours: bool = False
    _lines: dict[str, Sequence[str]] = field(default_factory=dict)

    def text(self, findings: Iterable[Finding]) -> str:
        """Return the lines of all findings; those that one cause repeats are folded."""
        return "".join(
            f"{line}\n"
            for finding, more in folded(findings)
            for line in (*self.lines(finding), *([visible(more)] if more else ()))
        )

    def lines(self, finding: Finding) -> list[str]:
        """Return `file:line:column: severity: text; advice`, and the picture."""
        text = visible(str(finding))
        if self.colours:
            label = f"{finding.severity.value}:"
            text = text.replace(f" {label} ", f" {_COLOURS[finding.severity]}{label}{_PLAIN} ", 1)
        return [text, *(self._picture(finding) if self.pictures else ())]

    def _without_secrets(self, line: str) -> str:
        """Return the line with stars behind a word like a secret keyword, and in a variable of such a statement."""
        if (definition := DEFINITION.search(line)) and definition[1] in self._secret_variables():
            return line[: definition.end()] + _VISIBLE.sub("*", line[definition.end() :])
        from difflib import get_close_matches  # late: a valid file needs no advice

        for word in _VISIBLE_WORDS.finditer(line):
            if get_close_matches(word[0], SECRET_KEYWORDS, 1, 0.75):
                return line[: word.end()] + _VISIBLE.sub("*", line[word.end() :])
        return line

    def _secret_variables(self) -> set[str]:
        """Return the names of the variables that statements with a secret refer to."""
        statements = (match for text in self.document.texts.values() for match in _SECRET_STATEMENT.finditer(text))
        return {name for statement in statements for name in _VARIABLE.findall(statement[0])}

    def _picture(self, finding: Finding) -> list[str]:
        """Return the source line and carets below the location; nothing if the line is unknown or empty."""
        location = finding.location
        if location.file not in self._lines:
            self._lines[location.file] = self.document.texts.get(location.file, "").split("\n")
        lines = self._lines[location.file]
        line = self._without_secrets(lines[location.line - 1].rstrip()) if location.line <= len(lines) else ""
        if not line or finding.text.startswith(UNNAMED):
            return []
        first = max(0, location.column - 1 - MAX_WIDTH // 2) if len(line) > MAX_WIDTH else 0
        shown = line[first : first + MAX_WIDTH]
        before = location.column - 1 - first
        blanks = "".join("\t" if character == "\t" else " " for character in shown[:before])
        carets = "^" + "~" * (min(location.width, max(1, len(shown) - before)) - 1)
        if self.colours:
            carets = f"{_COLOURS[finding.severity]}{carets}{_PLAIN}"
        return [f"    {visible(shown)}", f"    {blanks}{carets}"]
