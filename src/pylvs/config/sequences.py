"""`~SEQ(var, start, step, end)`, `~SEQx`, `~LST(var, value...)`: the rest of a line once for each value."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pylvs.model.dataclass import dataclass

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
