"""What happens to text before it is parsed: variables are replaced, sequences repeated, included files read.

A budget limits the output.
"""

from __future__ import annotations

import errno
import os
import random
import re
import stat
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from itertools import pairwise

from pylvs.config.language.lexer import BANG, HASH, REFERENCE
from pylvs.config.language.tree import Finding, Findings, Line, Location, Severity
from pylvs.model.dataclass import dataclass, field

MAX_TEXT = 32 << 20  # characters: three times the size of a file with 100,000 real servers and a check each
MAX_LINE = 1 << 16  # characters, before and after variables are replaced in it
MAX_LINES = 1_000_000  # lines: an example in keepalived's manual makes 65,024 blocks of a dozen lines


@dataclass(slots=True)
class Budget:
    """The characters that may still be read, and the lines that variables and sequences may still produce."""

    findings: Findings
    text: int = MAX_TEXT
    made: int = MAX_LINES

    def spend(self, characters: int, line: Line, made: int = 0) -> bool:
        """Return whether the budget lasts; the first failure is a finding about this line."""
        if self.text < 0 or self.made < 0:
            return False
        self.text -= characters + 1
        self.made -= made
        if self.text >= 0 and self.made >= 0:
            return True
        advice = "look for variables, sequences or includes that multiply each other"
        location = line.location(0, max(1, len(line.text)))
        self.findings.error(location, "the configuration grows without limit here", advice, fatal=True)
        return False


# Sequences: `~SEQ(var, start, step, end)`, `~SEQx`, `~LST(var, value...)` repeat the rest of a line for each value.
SEQUENCE = re.compile(r"~(SEQx?|LST)[ \t]*(?=\()")

# Possessive quantifiers keep a line of a million blanks linear.
_SEQ = re.compile(r"\([ \t]*+([A-Za-z_]\w*+)[ \t]*+((?:,[ \t]*+[^,()\s]++[ \t]*+){1,3}+)\)", re.ASCII)
_NAME = r"[ \t]*+[A-Za-z_]\w*+[ \t]*+"
_VALUE = r"[ \t]*+[^,(){}\s\"]*+[ \t]*+"
_NAMES = rf"{_NAME}|[ \t]*+\{{{_NAME}(?:,{_NAME})*+\}}[ \t]*+"
_VALUES = rf"[ \t]*+\{{{_VALUE}(?:,{_VALUE})*+\}}[ \t]*+|{_VALUE}"
_LST = re.compile(rf"\(({_NAMES})((?:,(?:{_VALUES}))++)\)", re.ASCII)
_ITEM = re.compile(r",[ \t]*(?:\{([^{}]*)\}|([^,{}]*))")


def parse_repetition(kind: str, text: str) -> tuple[tuple[str, ...], Iterable[tuple[str, ...]]]:
    """Parse the parentheses of a "SEQ", "SEQx" or "LST" at the beginning of `text`; raises ValueError.

    Return the names of the variables, and their values for each repetition.
    """
    if kind == "LST":
        match = _LST.match(text)
        if match is None:
            raise ValueError("~LST needs a variable and its values without blanks or quotes in them")
        names = tuple(name.strip() for name in match[1].strip(" \t{}").split(","))
        listed = tuple(
            tuple(value.strip() for value in item[1].split(",")) if item[1] is not None else (item[2].strip(),)
            for item in _ITEM.finditer(match[2])
        )
        wrong = next((values for values in listed if len(values) > len(names)), None)
        if wrong is not None:
            raise ValueError(f"~LST has {len(names)} variables, but the value {{{','.join(wrong)}}}")
        return names, tuple(values + ("",) * (len(names) - len(values)) for values in listed)  # missing ones are blank
    match = _SEQ.match(text)
    if match is None:
        raise ValueError(f"~{kind} needs a variable and one to three numbers")
    words = [word.strip() for word in match[2].split(",")[1:]]
    numbers = [_number(word) for word in words]
    end = numbers[-1]
    start = numbers[0] if len(numbers) > 1 else (1 if end > 0 else -1)
    step = numbers[1] if len(numbers) == 3 else (1 if end >= start else -1)
    if not step or (end - start) * step < 0:
        raise ValueError(f"no steps of {step} lead from {start} to {end}")
    steps = range(start, end + (1 if step > 0 else -1), step)
    return (match[1],), ((f"{number:x}" if kind == "SEQx" else str(number),) for number in steps)


def _number(word: str) -> int:
    """Parse a 32-bit number as C's strtol() does: decimal, 0x hexadecimal, 0 octal; raises ValueError."""
    match = re.fullmatch(
        r"([+-]?)(?:0x([0-9a-f]{1,8})|0([0-7]{0,11})|([1-9][0-9]{0,9}))", word, re.ASCII | re.IGNORECASE
    )
    if match is None:
        raise ValueError(f"'{word}' is no whole number")
    sign, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(decimal) if decimal else int(octal or "0", 8)
    return -value if sign == "-" else value


# Variables: `$NAME=value` on one line or several, `${NAME}`, and keepalived's own.
DEFINITION = re.compile(r"\$([A-Za-z_]\w*)=[ \t]*", re.ASCII)
MAX_ROUNDS = 64  # of nested values

_NOTHING_FOLLOWS = re.compile(r"[ \t\v\f\r]*(?:[#!]|$)")
_COMMENT = re.compile(r"""\\[#!]|"[^"]*(?:"|$)|([#!])""")
_RANDOM_MIN, _RANDOM_MAX = 0, 32767


@dataclass(frozen=True, slots=True)
class Value:
    """The lines of a variable; none is the empty value. One that was defined on several lines may only end a line."""

    lines: tuple[Line, ...]
    several: bool = False


@dataclass(slots=True)
class Expansion:
    """A line after variables are replaced, and the lines that follow it, by the variable's name."""

    line: Line
    following: list[tuple[str, tuple[Line, ...]]] = field(default_factory=list)  # the outermost first


@dataclass(slots=True)
class Variables:
    """The variables defined so far. `instance` is the value of ${_INSTANCE}."""

    findings: Findings
    budget: Budget
    instance: str = ""
    values: dict[str, Value] = field(default_factory=dict)
    random_numbers: random.Random = field(default_factory=random.Random)

    def replace(self, line: Line, directory: str, active: Sequence[str] = ()) -> Expansion:
        """Replace each variable of the line once; the values may have variables again.

        As in keepalived, those behind a value that begins with "~" stay: a sequence repeats them. Without a variable
        the same line is returned. `directory` is the file's. `active` are the variables whose lines contain this one.
        """
        result, at, length = Expansion(line), 0, 0
        parts: list[Line] = []
        for match in REFERENCE.finditer(line.text):
            name, *words = match[0].strip("${}").split()
            location = line.location(match.start(), match.end())
            value = self.values.get(name) if not words else None
            if value is not None and value.several:
                if not _NOTHING_FOLLOWS.match(line.text, match.end()):
                    text = f"'{name}' has several lines and can only end a line"
                    self.findings.error(location, text, "write what follows on the next line")
                    continue
                if name in active:
                    text = f"the lines of '{name}' hold '{name}'"
                    self.findings.error(location, text, "define it without itself", fatal=True)
                    return Expansion(line.part(0, 0))
                first, *others = value.lines or (line.part(0, 0),)
                blank_before = not line.text[: match.start()].strip(" \t\v\f\r")
                parts = [first] if blank_before else [*parts, line.part(at, match.start()), first]
                at = len(line.text)
                result.following.append((name, tuple(others)))
                break
            replacement = value.lines[0] if value else self._predefined(name, words, directory, line)
            if replacement is None:
                continue
            length += match.start() - at + len(replacement.text)
            if length > MAX_LINE:
                text = f"the line grows beyond {MAX_LINE} characters here"
                self.findings.error(location, text, "look for variables that multiply each other", fatal=True)
                self.budget.spend(length, line)
                return Expansion(line.part(0, 0))
            parts += [line.part(at, match.start()), replacement.located_at(location)]
            at = match.end()
            if replacement.text[:1] == "~":
                break
        if parts:
            result.line = Line.joined([*parts, line.part(at)])
            if not self.budget.spend(max(0, len(result.line.text) - len(line.text)), result.line):
                return Expansion(line.part(0, 0))
        return result

    def endless(self, line: Line) -> None:
        """Report a line whose variables are still there after MAX_ROUNDS replacements."""
        match = REFERENCE.search(line.text)
        location = line.location(match.start(), match.end()) if match else line.location(0, 1)
        what = f"'{match[0]}'" if match else "a variable"
        text = f"{what} stands for itself, over {MAX_ROUNDS} values deep"
        self.findings.error(location, text, "define it without itself", fatal=True)

    def _predefined(self, name: str, words: Sequence[str], directory: str, line: Line) -> Line | None:
        """Return the value of one of keepalived's own variables, else None."""
        text: str | None = None
        if name == "_RANDOM" and len(words) <= 2 and all(word.isascii() and word.isdigit() for word in words):
            minimum, maximum = (*(int(word[:9]) for word in words), *(_RANDOM_MIN, _RANDOM_MAX)[len(words) :])
            text = str(self.random_numbers.randint(min(minimum, maximum), max(minimum, maximum)))
        elif name == "_ENV" and len(words) == 1:
            text = os.environ.get(words[0])
        elif not words:
            text = {"_PWD": directory, "_INSTANCE": self.instance, "_HASH": HASH, "_BANG": BANG}.get(name)
        return None if text is None else Line(text, line.origins)


def strip_comment(text: str) -> str:
    """Return the text before a comment, without trailing blanks."""
    for match in _COMMENT.finditer(text):
        if match[1]:
            text = text[: match.start()]
            break
    return text.rstrip(" \t\v\f\r")


def continued(text: str) -> int | None:
    """Return where a line of a definition ends before the backslash that continues it; None without one.

    As in keepalived, a comment may be behind the backslash or before it.
    """
    for line in (text.rstrip(" \t\v\f\r"), strip_comment(text)):
        if line.endswith("\\"):
            return len(line) - 1
    return None


MAX_NAMES = 10_000  # of one include
MAX_ENTRIES = 100_000  # directory entries for one include
ANY_EXECUTES = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH

_WILD = re.compile(r"[*?\[]")
_SHORTAGES = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
)  # another attempt may succeed


class Unreadable(Exception):
    """A file is not read as text; the message gives the reason."""

    def __init__(self, text: str, may_pass: bool = False, advice: str = "correct the name, or make the file") -> None:
        """With `may_pass`, another attempt may succeed with the same file."""
        super().__init__(text)
        self.may_pass, self.advice = may_pass, advice


@dataclass(frozen=True, slots=True)
class Source:
    """A file's text. `identity` is its device and inode; `directory` is absolute."""

    path: str
    text: str
    identity: tuple[int, int]
    directory: str
    marked: bool = False  # began with a byte order mark


def read_source(path: str, main: bool = False) -> Source:
    """Read a file; the `main` one may be a pipe, or "-" for standard input. Raises Unreadable.

    As in keepalived, an included file must not be executable. Bytes that are not UTF-8 become U+FFFD.
    """
    try:
        if main and path == "-":
            status = os.fstat(0)
            with open(0, "rb", closefd=False) as file:
                data = file.read(MAX_TEXT + 1)
        else:
            status = os.stat(path)
            if not (stat.S_ISREG(status.st_mode) or (main and stat.S_ISFIFO(status.st_mode))):
                raise Unreadable("is a directory" if stat.S_ISDIR(status.st_mode) else "is no file but a device")
            if not main and status.st_mode & ANY_EXECUTES:
                raise Unreadable("is executable", advice="remove its x bits: chmod a-x")
            with open(path, "rb") as file:
                # read() allocates its whole argument at once, so limit it to the size of the file.
                data = file.read(min(status.st_size or MAX_TEXT, MAX_TEXT) + 1)
        directory = os.path.realpath(os.path.dirname(path) or ".")
    except OSError as error:
        text = f"cannot be read: {os.strerror(error.errno or errno.EIO)}"
        raise Unreadable(text, error.errno in _SHORTAGES) from error
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


# The conditions for the files of an include, by the letter behind the word.
CHECKS = {"r": "readable", "m": "match", "w": "wildcard_match", "b": "brace_match"}
ALL_CHECKS = frozenset(CHECKS.values())


def changed_checks(checks: frozenset[str], words: Sequence[str]) -> frozenset[str]:
    """Apply `include_check`: without words all checks, "+" adds those that follow, "-" removes them."""
    if not words:
        return ALL_CHECKS
    result, adds = set(checks if words[0][:1] in ("+", "-") else ()), True
    for word in words:
        if word[:1] in ("+", "-"):
            adds = word[0] == "+"
        (result.add if adds else result.discard)(word.lstrip("+-"))
    return frozenset(result)


def included_sources(
    name: str, letter: str, source: Source, checks: frozenset[str], location: Location, findings: Findings
) -> Iterator[Source]:
    """Yield the files that an include in `source` names; report those that cannot be read."""
    checks |= ALL_CHECKS if letter == "a" else {CHECKS.get(letter, "")}
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
        must_match = ("match" if choice == name else "brace_match") in checks
        if not paths and "wildcard_match" in checks:
            findings.error(location, f"no file matches '{choice}'", "make one, or use include", fatal=True)
        elif not paths:
            text, advice = f"no file matches '{choice}'", "nothing is included"
            findings.add(Finding(location, Severity.NOTE, text, advice))
        for path in paths:
            try:
                yield read_source(path)
            except Unreadable as error:
                missing = not os.path.lexists(path)
                if choice != name and not wild and missing and not must_match:
                    findings.warning(location, f"'{path}' {error}", "remove it from the braces, or make the file")
                elif wild and os.path.isdir(path):
                    findings.warning(location, f"'{path}' {error}; it is left out", "use a pattern such as *.conf")
                else:  # keepalived starts without a file that a plain include names
                    fatal = must_match if missing else bool(checks & ALL_CHECKS)
                    left_out = "" if fatal else "; it is left out"
                    findings.error(
                        location, f"'{path}' {error}{left_out}", error.advice, fatal=fatal, may_pass=error.may_pass
                    )
