"""Variables: `$NAME=value`, of one line or several, `${NAME}`, and those that are always there."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping, Sequence

from pylvs.config.budget import MOST_OF_A_LINE, Budget
from pylvs.config.findings import Findings
from pylvs.config.lines import Line
from pylvs.config.words import BANG, HASH, REFERENCE
from pylvs.model.dataclass import dataclass, field

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
        place = line.place(match.start(), match.end()) if match else line.place(0, 1)
        what = f"'{match[0]}'" if match else "a variable"
        self.findings.error(
            place, f"{what} stands for itself, over {MOST_ROUNDS} values deep", "define it without itself", fatal=True
        )
        return Expansion(line.part(0, 0))

    def _once(self, result: Expansion, directory: str, active: Sequence[str]) -> None:
        """Replace each variable of the line by its value as it was defined; the same line if there is none."""
        line, at, length = result.line, 0, 0
        parts: list[Line] = []
        for match in REFERENCE.finditer(line.text):
            name, *words = match[0].strip("${}").split()
            place = line.place(match.start(), match.end())
            value = self.values.get(name) if not words else None
            if value is None or not value.several:
                text = value.lines[0] if value else self._predefined(name, words, directory)
                if text is not None:
                    known = Line(text, line.origins) if isinstance(text, str) else text
                    length += match.start() - at + len(known.text)
                    if length > MOST_OF_A_LINE:
                        self.findings.error(
                            place,
                            f"the line grows beyond {MOST_OF_A_LINE} characters here",
                            "look for variables that multiply each other",
                            fatal=True,
                        )
                        self.budget.spend(length, line)
                        result.line = line.part(0, 0)
                        return
                    parts += [line.part(at, match.start()), known.standing_for(place)]
                    at = match.end()
            elif not _NOTHING_FOLLOWS.match(line.text, match.end()):
                self.findings.error(
                    place, f"'{name}' has several lines and can only end a line", "write what follows on the next line"
                )
            elif name in active:
                self.findings.error(
                    place, f"the lines of '{name}' hold '{name}'", "define it without itself", fatal=True
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
