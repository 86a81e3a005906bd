"""How much a configuration may make of itself: includes and variables can grow without end."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from pylvs.config.findings import Findings
from pylvs.config.language.lexer import BANG, HASH, REFERENCE
from pylvs.config.language.tree import Line
from pylvs.model.dataclass import dataclass, field

MOST_TEXT = 32 << 20  # characters: three times what 100,000 real servers with a check each need
MOST_OF_A_LINE = 1 << 16  # characters, before and after variables are replaced in it
MOST_LINES = 1_000_000  # lines: keepalived's manual has an example that makes 65,024 blocks of a dozen


@dataclass(slots=True)
class Budget:
    """What may still be read, and come out of variables, sequences and repeated includes: characters, and lines."""

    findings: Findings
    text: int = MOST_TEXT
    made: int = MOST_LINES

    def spend(self, characters: int, line: Line, made: int = 0) -> bool:
        """True while there is room; the first time that there is none is a finding about this line."""
        if self.text < 0 or self.made < 0:
            return False
        self.text -= characters + 1
        self.made -= made
        if self.text >= 0 and self.made >= 0:
            return True
        self.findings.error(
            line.location(0, max(1, len(line.text))),
            "the configuration grows beyond all bounds here",
            "look for variables, sequences or includes that multiply each other",
            fatal=True,
        )
        return False


# --- sequences -------------------------------------------------------------------------------------------------------
# `~SEQ(var, start, step, end)`, `~SEQx`, `~LST(var, value...)`: the rest of a line once for each value.


SEQUENCE = re.compile(r"~(SEQx?|LST)[ \t]*(?=\()")

# Possessive throughout: a line of a million blanks is looked at once.
_SEQ = re.compile(r"\([ \t]*+([A-Za-z_]\w*+)[ \t]*+((?:,[ \t]*+[^,()\s]++[ \t]*+){1,3}+)\)", re.ASCII)
_NAME = r"[ \t]*+[A-Za-z_]\w*+[ \t]*+"
_VALUE = r"[ \t]*+[^,(){}\s\"]*+[ \t]*+"
_NAMES = rf"{_NAME}|[ \t]*+\{{{_NAME}(?:,{_NAME})*+\}}[ \t]*+"
_VALUES = rf"[ \t]*+\{{{_VALUE}(?:,{_VALUE})*+\}}[ \t]*+|{_VALUE}"
_LST = re.compile(rf"\(({_NAMES})((?:,(?:{_VALUES}))++)\)", re.ASCII)
_ITEM = re.compile(r",[ \t]*(?:\{([^{}]*)\}|([^,{}]*))")


@dataclass(frozen=True, slots=True)
class Repetition:
    """The variables of a sequence and how their values are found."""

    names: tuple[str, ...]
    numbers: range = range(0)
    hexadecimal: bool = False
    listed: tuple[tuple[str, ...], ...] = ()

    def values(self) -> Iterator[tuple[str, ...]]:
        """The variables' values, round after round."""
        for number in self.numbers:
            yield (f"{number:x}" if self.hexadecimal else str(number),)
        yield from self.listed


def parse_repetition(kind: str, text: str) -> tuple[Repetition | None, int, str]:
    """A sequence of this kind ("SEQ", "SEQx", "LST") whose parentheses begin the text, and where they end.

    Without a sequence the last word says what is wrong with it.
    """
    if kind == "LST":
        match = _LST.match(text)
        if match is None:
            return None, 0, "~LST needs a variable and its values without blanks or quotes in them"
        names = tuple(name.strip() for name in match[1].strip(" \t{}").split(","))
        listed = tuple(
            tuple(value.strip() for value in item[1].split(",")) if item[1] is not None else (item[2].strip(),)
            for item in _ITEM.finditer(match[2])
        )
        wrong = next((values for values in listed if len(values) != len(names)), None)
        if wrong is not None:
            return None, 0, f"~LST has {len(names)} variables, but the value {{{','.join(wrong)}}}"
        return Repetition(names, listed=listed), match.end(), ""
    match = _SEQ.match(text)
    if match is None:
        return None, 0, f"~{kind} needs a variable and one to three numbers"
    words = [word.strip() for word in match[2].split(",")[1:]]
    numbers = [_number(word) for word in words]
    for word, number in zip(words, numbers, strict=True):
        if number is None:
            return None, 0, f"'{word}' is no whole number"
    known = [number for number in numbers if number is not None]
    end = known[-1]
    start = known[0] if len(known) > 1 else (1 if end > 0 else -1)
    step = known[1] if len(known) == 3 else (1 if end >= start else -1)
    if not step or (end - start) * step < 0:
        return None, 0, f"no steps of {step} lead from {start} to {end}"
    return Repetition((match[1],), range(start, end + (1 if step > 0 else -1), step), kind == "SEQx"), match.end(), ""


def _number(word: str) -> int | None:
    """A number as C's strtol() reads it: decimal, 0x hexadecimal, 0 octal; None if it is none of 32 bits."""
    match = re.fullmatch(
        r"([+-]?)(?:0x([0-9a-f]{1,8})|0([0-7]{0,11})|([1-9][0-9]{0,9}))", word, re.ASCII | re.IGNORECASE
    )
    if match is None:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(decimal) if decimal else int(octal or "0", 8)
    return -value if sign == "-" else value


# --- variables -------------------------------------------------------------------------------------------------------
# Variables: `$NAME=value`, of one line or several, `${NAME}`, and those that are always there.


DEFINITION = re.compile(r"\$([A-Za-z_]\w*)=[ \t]*", re.ASCII)
MOST_ROUNDS = 64  # values within values within values

_NOTHING_FOLLOWS = re.compile(r"[ \t\v\f\r]*(?:[#!]|$)")
_COMMENT = re.compile(r"""\\[#!]|"[^"]*(?:"|$)|([#!])""")
_RANDOM_LEAST, _RANDOM_MOST = 0, 32767


@dataclass(frozen=True, slots=True)
class Value:
    """What a variable stands for: lines. One that was defined on several may only end a line."""

    lines: tuple[Line, ...]
    several: bool = False


@dataclass(slots=True)
class Expansion:
    """A line in which variables were replaced, and the lines that follow it by the name of whom they belong to."""

    line: Line
    following: list[tuple[str, tuple[Line, ...]]] = field(default_factory=list)  # the outermost first


@dataclass(slots=True)
class Variables:
    """The variables defined so far. `instance` is what ${_INSTANCE} gives."""

    findings: Findings
    budget: Budget
    instance: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    values: dict[str, Value] = field(default_factory=dict)
    dice: random.Random = field(default_factory=random.Random)

    def define(self, name: str, line: Line) -> None:
        """Give a variable a value of one line."""
        self.values[name] = Value((line,))

    def define_lines(self, name: str, lines: Sequence[Line]) -> None:
        """Give a variable several lines; none is the empty value."""
        self.values[name] = Value(tuple(lines), several=True)

    def replace(self, line: Line, directory: str, active: Sequence[str] = ()) -> Expansion:
        """The line with its variables replaced, and theirs, until none is left.

        `directory` is the file's; `active` are the variables whose lines this one is among.
        """
        result = Expansion(line)
        for _ in range(MOST_ROUNDS):
            if "$" not in result.line.text:
                return result
            before = result.line
            self._once(result, directory, [*active, *(name for name, _ in result.following)])
            if result.line is before:
                return result
            if not self.budget.spend(max(0, len(result.line.text) - len(before.text)), result.line):
                return Expansion(line.part(0, 0))
        match = REFERENCE.search(line.text)
        location = line.location(match.start(), match.end()) if match else line.location(0, 1)
        what = f"'{match[0]}'" if match else "a variable"
        self.findings.error(
            location,
            f"{what} stands for itself, over {MOST_ROUNDS} values deep",
            "define it without itself",
            fatal=True,
        )
        return Expansion(line.part(0, 0))

    def _once(self, result: Expansion, directory: str, active: Sequence[str]) -> None:
        """Replace each variable of the line by its value as it was defined; the same line if there is none."""
        line, at, length = result.line, 0, 0
        parts: list[Line] = []
        for match in REFERENCE.finditer(line.text):
            name, *words = match[0].strip("${}").split()
            location = line.location(match.start(), match.end())
            value = self.values.get(name) if not words else None
            if value is None or not value.several:
                text = value.lines[0] if value else self._predefined(name, words, directory)
                if text is not None:
                    known = Line(text, line.origins) if isinstance(text, str) else text
                    length += match.start() - at + len(known.text)
                    if length > MOST_OF_A_LINE:
                        self.findings.error(
                            location,
                            f"the line grows beyond {MOST_OF_A_LINE} characters here",
                            "look for variables that multiply each other",
                            fatal=True,
                        )
                        self.budget.spend(length, line)
                        result.line = line.part(0, 0)
                        return
                    parts += [line.part(at, match.start()), known.standing_for(location)]
                    at = match.end()
            elif not _NOTHING_FOLLOWS.match(line.text, match.end()):
                self.findings.error(
                    location,
                    f"'{name}' has several lines and can only end a line",
                    "write what follows on the next line",
                )
            elif name in active:
                self.findings.error(
                    location, f"the lines of '{name}' hold '{name}'", "define it without itself", fatal=True
                )
                result.line = line.part(0, 0)
                return
            else:
                first, *others = value.lines or (line.part(0, 0),)
                parts += [line.part(at, match.start()), first]
                if not line.text[: match.start()].strip(" \t\v\f\r"):
                    parts = [first]
                at = len(line.text)
                result.following.append((name, tuple(others)))
        if parts:
            result.line = Line.joined([*parts, line.part(at)])

    def _predefined(self, name: str, words: Sequence[str], directory: str) -> str | None:
        """The value of a variable that keepalived defines; None if it defines none of this name."""
        if name == "_RANDOM" and len(words) <= 2 and all(word.isascii() and word.isdigit() for word in words):
            least, most = (*(int(word[:9]) for word in words), *(_RANDOM_LEAST, _RANDOM_MOST)[len(words) :])
            return str(self.dice.randint(min(least, most), max(least, most)))
        if name == "_ENV" and len(words) == 1:
            return self.environment.get(words[0])
        if words:
            return None
        simple = {"_PWD": directory, "_INSTANCE": self.instance, "_HASH": HASH, "_BANG": BANG}
        return simple.get(name)


def strip_comment(text: str) -> str:
    """A line's text up to where a comment begins, and without the blanks before."""
    for match in _COMMENT.finditer(text):
        if match[1]:
            text = text[: match.start()]
            break
    return text.rstrip(" \t\v\f\r")
