"""The types of values that most keywords have. `__str__` describes what may be written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address

from pylvs.config.language.lexer import split_arguments
from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Type, Words
from pylvs.model.addresses import Address
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass

MAX_INTEGER = 0x7FFFFFFF
MAX_U32 = 0xFFFFFFFF
MAX_SECONDS = 4294.0  # keepalived keeps microseconds in 32 bits
MAX_DIGITS = 40  # Python rejects integers of thousands of digits
TRUE = ("on", "true", "yes")
FALSE = ("off", "false", "no")
NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)\Z")
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\Z")
OPENS = re.compile(r"<[ \t]*/")  # "</dev/tcp/127.0.0.1/80" is a redirection, which only a shell can do


def did_you_mean(text: str, choices: tuple[str, ...] | list[str]) -> str:
    """Return "did you mean 'x'?", or "" if no choice is similar."""
    lowered = {choice.lower(): choice for choice in choices}
    near = get_close_matches(text.lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean '{lowered[near[0]]}'?" if near else ""


def plain(number: float) -> str:
    """Format a number without exponent and trailing zeros: 0.000001, 30, 2.5."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def number_of(word: Word) -> int:
    """Parse a whole number, decimal or 0x…; raises BadValue."""
    if not NUMBER.match(word.text):
        raise BadValue(f"'{word.text}' is not a whole number", word=word)
    digits = word.text.lstrip("+-")
    if len(digits) > MAX_DIGITS:
        raise BadValue(f"a number of {len(digits)} digits is too large", word=word)
    value = int(digits, 16 if digits[:2].lower() == "0x" else 10)
    return -value if word.text.startswith("-") else value


def address_of(word: Word) -> Address:
    """Parse an IPv4 or IPv6 address; raises BadValue."""
    for mark, advice in {"/": "write it without a prefix length", "%": "write it without a device"}.items():
        if mark in word.text:
            raise BadValue(f"'{word.text}' is not an IP address", advice, word)
    try:
        return ip_address(word.text)
    except ValueError:
        raise BadValue(f"'{word.text}' is not an IP address", word=word) from None


def port_of(word: Word) -> int:
    """Parse a port; raises BadValue."""
    value = number_of(word)
    if not 1 <= value <= 65535:
        raise BadValue(f"port {word.text} is not between 1 and 65535", word=word)
    return value


@dataclass(frozen=True, slots=True)
class Flag(Type[bool]):
    """The keyword alone, which means yes, or with on, off, true, false, yes or no."""

    def parse(self, words: Words) -> bool:
        return BOOLEAN.parse(words) if words else True

    def __str__(self) -> str:
        return "[on|off]"


@dataclass(frozen=True, slots=True)
class Bare(Type[bool]):
    """The keyword alone, which means yes."""

    def parse(self, words: Words) -> bool:
        return True

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Boolean(Type[bool]):
    """One of on, off, true, false, yes, no."""

    def parse(self, words: Words) -> bool:
        word = words.take(str(self))
        if word.text.lower() not in TRUE + FALSE:
            raise BadValue(f"'{word.text}' is neither yes nor no", f"write one of {', '.join(TRUE + FALSE)}", word)
        return word.text.lower() in TRUE

    def __str__(self) -> str:
        return "on|off"


@dataclass(frozen=True, slots=True)
class Integer(Type[int]):
    """A whole number from `minimum` to `maximum`; `bare` is the value of the keyword alone."""

    minimum: int = 0
    maximum: int = MAX_INTEGER
    bare: int | None = None

    def parse(self, words: Words) -> int:
        if not words and self.bare is not None:
            return self.bare
        word = words.take(str(self))
        value = number_of(word)
        if not self.minimum <= value <= self.maximum:
            raise BadValue(f"{word.text} is not between {self.minimum} and {self.maximum}", word=word)
        return value

    def __str__(self) -> str:
        return f"a whole number, {self.minimum} to {self.maximum}"


@dataclass(frozen=True, slots=True)
class Seconds(Type[float]):
    """Seconds, with an optional fraction."""

    minimum: float = 0.0
    maximum: float = MAX_SECONDS

    def parse(self, words: Words) -> float:
        word = words.take("seconds")
        if not DECIMAL.match(word.text):
            raise BadValue(f"'{word.text}' is not a number of seconds", word=word)
        if not self.minimum <= float(word.text) <= self.maximum:
            raise BadValue(
                f"{word.text} seconds is not between {plain(self.minimum)} and {plain(self.maximum)}", word=word
            )
        return float(word.text)

    def __str__(self) -> str:
        return f"seconds, {plain(self.minimum)} to {plain(self.maximum)}"


@dataclass(frozen=True, slots=True)
class Real(Type[float]):
    """A number with a fraction."""

    minimum: float
    maximum: float

    def parse(self, words: Words) -> float:
        word = words.take(str(self))
        if not DECIMAL.match(word.text):
            raise BadValue(f"'{word.text}' is not a number", word=word)
        if not self.minimum <= float(word.text) <= self.maximum:
            raise BadValue(f"{word.text} is not between {plain(self.minimum)} and {plain(self.maximum)}", word=word)
        return float(word.text)

    def __str__(self) -> str:
        return f"a number, {plain(self.minimum)} to {plain(self.maximum)}"


@dataclass(frozen=True, slots=True)
class Text(Type[str]):
    """One word or quoted string."""

    what: str = "a string"

    def parse(self, words: Words) -> str:
        return words.take(self.what).text

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Texts(Type[tuple[str, ...]]):
    """All words of the line, at least `minimum`."""

    what: str = "words"
    minimum: int = 0

    def parse(self, words: Words) -> tuple[str, ...]:
        found = tuple(word.text for word in words.rest())
        if len(found) < self.minimum:
            words.take(self.what)
        return found

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Choice(Type[object]):
    """A key of a table, whose value it gives. Case is significant, as in keepalived, unless `any_case`."""

    table: Mapping[str, object]
    any_case: bool = False

    def parse(self, words: Words) -> object:
        word = words.take(str(self))
        table = {key.lower(): value for key, value in self.table.items()} if self.any_case else self.table
        text = word.text.lower() if self.any_case else word.text
        if text not in table:
            near = did_you_mean(word.text, list(self.table))
            raise BadValue(f"'{word.text}' is not one of {', '.join(self.table)}", near, word)
        return table[text]

    def __str__(self) -> str:
        return "|".join(self.table)


def choice(*words: str, any_case: bool = False) -> Choice:
    """Make a choice between words that are their own values."""
    return Choice({word: word for word in words}, any_case)


@dataclass(frozen=True, slots=True)
class IpAddress(Type[Address]):
    """An IPv4 or IPv6 address."""

    def parse(self, words: Words) -> Address:
        return address_of(words.take(str(self)))

    def __str__(self) -> str:
        return "an IP address"


@dataclass(frozen=True, slots=True)
class Endpoint(Type[tuple[Address, int]]):
    """An address and a port."""

    def parse(self, words: Words) -> tuple[Address, int]:
        return address_of(words.take("an IP address")), port_of(words.take("a port"))

    def __str__(self) -> str:
        return "an IP address and a port"


FLAG = Flag()
BARE = Bare()
BOOLEAN = Boolean()
SECONDS = Seconds()
TEXT = Text()
ADDRESS = IpAddress()
PORT = Integer(1, 65535)
MARK = Integer(1, MAX_U32)


@dataclass(frozen=True, slots=True)
class WrittenScript:
    """A script, and the word that findings refer to."""

    script: Script
    word: Word


@dataclass(frozen=True, slots=True)
class ScriptType(Type[WrittenScript]):
    """Program and arguments in one word; with `with_user`, a user and a group may follow."""

    with_user: bool = True

    def parse(self, words: Words) -> WrittenScript:
        word = words.take("a program")
        program = arguments_of(word)
        user = words.take("").text if self.with_user and words else ""
        group = words.take("").text if self.with_user and words else ""
        return WrittenScript(Script(program, user, group), word)

    def __str__(self) -> str:
        return "a program with its arguments in quotes" + (" [user [group]]" if self.with_user else "")


def arguments_of(word: Word) -> tuple[str, ...]:
    """Split a word at blanks outside of quotes into program and arguments; raises BadValue."""
    if OPENS.match(word.text):
        return "/bin/sh", "-c", word.text
    try:
        found = split_arguments(word.text)
    except ValueError:
        raise BadValue(f"a quote in '{word.text}' is not closed", "close it", word) from None
    if not found or not found[0]:
        raise BadValue("no program is named", "name one", word)
    return found


@dataclass(frozen=True, slots=True)
class UserType(Type[tuple[str, str]]):
    """A user, and an optional group; "" for the user's own."""

    def parse(self, words: Words) -> tuple[str, str]:
        user = words.take("a user").text
        return user, words.take("").text if words else ""

    def __str__(self) -> str:
        return "user [group]"


SCRIPT = ScriptType()
SCRIPT_ALONE = ScriptType(with_user=False)
USER = UserType()
