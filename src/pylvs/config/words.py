"""A line's words: comments, quotes and escapes, and the braces between them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pylvs.config.findings import Findings, Place
from pylvs.config.lines import Line
from pylvs.config.tree import Word

SPACE = " \t\v\f\r\n"  # as C's isspace() has it; a no-break space is no space
ESCAPES = {"a": "\a", "b": "\b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

_PLAIN = re.compile(r"""[^ \t\v\f\r\n{}"'#!\\]+""")
_SPACES = re.compile(r"[ \t\v\f\r\n]+")
_IN_QUOTES = {'"': re.compile(r'[^"\\]+'), "'": re.compile(r"[^'\\]+")}
_ESCAPE = re.compile(r"\\(?:(x)([0-9a-fA-F]+)|([0-7]{1,3})|c(.)|(.))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Brace:
    """A brace that opens or closes a block."""

    opens: bool
    place: Place


def words(line: Line, findings: Findings) -> list[Word | Brace]:
    """The line's words and braces; a comment ends it."""
    found: list[Word | Brace] = []
    text, at, length = line.text, 0, len(line.text)
    while at < length:
        character = text[at]
        if character in SPACE:
            match = _SPACES.match(text, at)
            assert match is not None
            at = match.end()
        elif character in "#!":
            break
        elif character in "{}":
            found.append(Brace(character == "{", line.place(at, at + 1)))
            at += 1
        else:
            word, at = _word(line, at, findings)
            found.append(word)
    return found


def _word(line: Line, start: int, findings: Findings) -> tuple[Word, int]:
    """The word that begins at `start`, and where it ends."""
    text, at, length, quoted = line.text, start, len(line.text), False
    parts: list[str] = []
    while at < length:
        match = _PLAIN.match(text, at)
        if match:
            parts.append(match[0])
            at = match.end()
        elif text[at] == "\\":
            part, at = _escape(line, at, findings)
            parts.append(part)
        elif text[at] in "\"'":
            quoted = True
            part, at = _quotes(line, at, findings)
            parts.append(part)
        else:
            break
    return Word("".join(parts), line.place(start, at), quoted), at


def _quotes(line: Line, start: int, findings: Findings) -> tuple[str, int]:
    """What stands between the quote at `start` and the next of its kind, and where that ends."""
    text, quote, at = line.text, line.text[start], start + 1
    parts: list[str] = []
    plain = _IN_QUOTES[quote]
    while at < len(text):
        match = plain.match(text, at)
        if match:
            parts.append(match[0])
            at = match.end()
        elif text[at] == "\\":
            part, at = _escape(line, at, findings)
            parts.append(part)
        else:
            return "".join(parts), at + 1
    findings.error(
        line.place(start, start + 1),
        f"the quote {quote} is not closed on its line",
        f"write the other {quote}, or \\{quote} for the character itself",
        fatal=True,
    )
    return "".join(parts), at


def _escape(line: Line, at: int, findings: Findings) -> tuple[str, int]:
    """The character that the escape at `at` means, and where the escape ends."""
    match = _ESCAPE.match(line.text, at)
    if match is None:
        findings.warning(line.place(at, at + 1), "nothing follows the backslash", "remove it, or write \\\\")
        return "", at + 1
    _, hexadecimal, octal, control, other = match.groups()
    if hexadecimal or octal:
        value = int(hexadecimal[-2:], 16) if hexadecimal else int(octal, 8) & 0xFF
        if not value:
            findings.error(line.place(at, match.end()), "a NUL character cannot be in a word", "remove it")
            return "", match.end()
        return chr(value), match.end()
    if control:
        return chr(ord(control) & 0x1F), match.end()
    return ESCAPES.get(other, other), match.end()


def quoted(word: Word) -> str:
    """The word as it is written, so that reading it gives the same word again."""
    escape: Callable[[re.Match[str]], str] = lambda match: _written(match[0])  # noqa: E731
    if word.quoted:
        return '"' + re.sub(r'[\x00-\x1f\x7f"\\]|\$(?=\{|[A-Za-z_])', escape, word.text) + '"'
    return re.sub(r"""[\x00-\x20\x7f{}"'#!\\]|\$(?=\{|[A-Za-z_])|^[@$~]""", escape, word.text)


def _written(character: str) -> str:
    """An escape that means this character."""
    if character < " " or character in "\x7f$":
        return f"\\{ord(character):03o}"
    return f"\\{character}"
