"""Read the files of a configuration, and find those that an `include` names."""

from __future__ import annotations

import errno
import os
import re
import stat
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from enum import Flag
from fnmatch import translate
from itertools import pairwise

from pylvs.config.findings import Findings, Location
from pylvs.config.language.variables import MAX_TEXT
from pylvs.model.dataclass import dataclass

MAX_NAMES = 10_000  # of one include
MAX_ENTRIES = 100_000  # directory entries for one include

_WILD = re.compile(r"[*?\[]")


class Unreadable(Exception):
    """A file cannot be read as text; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file's text. `identity` is its device and inode; `directory` is absolute."""

    path: str
    text: str
    identity: tuple[int, int]
    directory: str
    marked: bool = False  # began with a byte order mark


def read_source(path: str, pipes: bool = False) -> Source:
    """Read a file; with `pipes` also a pipe, and standard input as "-". Raises Unreadable.

    Bytes that are not UTF-8 become U+FFFD.
    """
    try:
        if pipes and path == "-":
            status = os.fstat(0)
            with open(0, "rb", closefd=False) as file:
                data = file.read(MAX_TEXT + 1)
        else:
            status = os.stat(path)
            if not (stat.S_ISREG(status.st_mode) or (pipes and stat.S_ISFIFO(status.st_mode))):
                raise Unreadable("is a directory" if stat.S_ISDIR(status.st_mode) else "is no file but a device")
            with open(path, "rb") as file:
                # read() allocates its whole argument at once, so limit it to the size of the file.
                data = file.read(min(status.st_size or MAX_TEXT, MAX_TEXT) + 1)
        directory = os.path.realpath(os.path.dirname(path) or ".")
    except OSError as error:
        raise Unreadable(f"cannot be read: {os.strerror(error.errno or errno.EIO)}") from error
    except ValueError as error:  # a NUL character or half a surrogate in the name
        raise Unreadable("is no name that a file can have") from error
    if len(data) > MAX_TEXT:
        raise Unreadable(f"is longer than {MAX_TEXT >> 20} MiB")
    line = data.count(b"\n", 0, data.find(b"\0")) + 1
    if b"\0" in data:
        raise Unreadable(f"is no text: its line {line} holds a NUL character")
    text = data.decode("utf-8-sig", "replace")
    return Source(path, text, (status.st_dev, status.st_ino), directory, data.startswith(BOM_UTF8))


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the pattern for each choice of its {a,b} braces, at most MAX_NAMES."""
    pending, count = [pattern], 0
    while pending and count < MAX_NAMES:
        text = pending.pop()
        choice = _first_choice(text)
        if choice is None:
            count += 1
            yield text
        elif len(pending) < MAX_NAMES:
            before, choices, after = choice
            pending += [before + one + after for one in reversed(choices[:MAX_NAMES])]


def _first_choice(text: str) -> tuple[str, list[str], str] | None:
    """Split a pattern into the text before the first {a,b}, the choices, and the text after it."""
    start = text.find("{")
    commas: list[int] = []
    depth = 0
    for at in range(start, len(text)) if start >= 0 else ():
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                bounds = [start, *commas, at]
                choices = [text[a + 1 : b] for a, b in pairwise(bounds)]
                return text[:start], choices, text[at + 1 :]
        elif text[at] == "," and depth == 1:
            commas.append(at)
    return None


def has_wildcard(name: str) -> bool:
    return _WILD.search(name) is not None


def expand_wildcards(pattern: str) -> list[str]:
    """Return the sorted names that a pattern matches, as glob(3) does."""
    found, entries = [pattern[: len(pattern) - len(pattern.lstrip("/"))]], 0
    for part in pattern.strip("/").split("/"):
        if not has_wildcard(part):
            found = [os.path.join(directory, part) for directory in found]
            continue
        matcher, matches = re.compile(translate(part.replace("[^", "[!"))), []
        for directory in found:
            try:
                names = sorted(os.listdir(directory or "."))
            except (OSError, ValueError):
                continue
            entries += len(names)
            hidden = part.startswith(".")
            matches += [os.path.join(directory, n) for n in names if (hidden or n[0] != ".") and matcher.match(n)]
            if entries > MAX_ENTRIES or len(matches) > MAX_NAMES:
                break
        found = matches[:MAX_NAMES]
    return [name for name in found if os.path.lexists(name)]


INCLUDE = re.compile(r"include([rmwba]?)(?![^ \t\v\f\r{}\"#!])")
MAX_NAME = 4096


class IncludeChecks(Flag):
    """The conditions for the files of an include. A name without wildcards must always exist."""

    READABLE = 1
    MATCH = 2
    WILDCARD_MATCH = 4
    BRACE_MATCH = 8

    def changed(self, words: Iterable[str]) -> IncludeChecks:
        """Apply `include_check`: without words all checks, "+" adds those that follow, "-" removes them."""
        names = {check.name.lower(): check for check in IncludeChecks if check.name}
        given = list(words)
        if not given:
            return IncludeChecks(15)
        result = self if given[0][:1] in ("+", "-") else IncludeChecks(0)
        adds = True
        for word in given:
            if word[:1] in ("+", "-"):
                adds = word[0] == "+"
            check = names.get(word.lstrip("+-"), IncludeChecks(0))
            result = result | check if adds else result & ~check
        return result


NO_CHECKS = IncludeChecks(0)
CHECKS_OF_LETTER = {
    "": NO_CHECKS,
    "r": IncludeChecks.READABLE,
    "m": IncludeChecks.MATCH,
    "w": IncludeChecks.WILDCARD_MATCH,
    "b": IncludeChecks.BRACE_MATCH,
    "a": IncludeChecks(15),
}


def included_sources(
    name: str, letter: str, source: Source, checks: IncludeChecks, location: Location, findings: Findings
) -> Iterator[Source]:
    """Yield the files that an include in `source` names; report those that cannot be read."""
    checks |= CHECKS_OF_LETTER[letter]
    if not name or len(name) > MAX_NAME:
        findings.error(location, "include needs a file's name", "write it behind", fatal=True)
        return
    if name[0] in "\"'":
        findings.error(location, f"no file is named {name}", "write the name without quotes", fatal=True)
        return
    directory = os.path.dirname(source.path)
    for choice in expand_braces(name):
        pattern = os.path.join(directory, choice)
        wild = has_wildcard(choice)
        paths = expand_wildcards(pattern) if wild else [pattern]
        if not paths and IncludeChecks.WILDCARD_MATCH in checks:
            findings.error(location, f"no file matches '{choice}'", "make one, or use include", fatal=True)
        for path in paths:
            try:
                yield read_source(path)
            except Unreadable as error:
                if (
                    choice != name
                    and not wild
                    and IncludeChecks.BRACE_MATCH not in checks
                    and not os.path.lexists(path)
                ):
                    findings.warning(location, f"'{path}' {error}", "remove it from the braces, or make the file")
                elif wild and os.path.isdir(path):
                    findings.warning(location, f"'{path}' {error} and is left out", "use a pattern such as *.conf")
                else:
                    findings.error(location, f"'{path}' {error}", "correct the name, or make the file", fatal=True)
