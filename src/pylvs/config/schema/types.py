"""The types of values that most keywords have. Each says in `__str__` what may be written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address

from pylvs.config.language.lexer import split_arguments
from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Type, Words
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.scripts import Script

MAX_INTEGER = 0x7FFFFFFF
MAX_SECONDS = 4294.0  # keepalived keeps microseconds in 32 bits
MOST_DIGITS = 40  # Python itself refuses thousands
TRUE = ("on", "true", "yes")
FALSE = ("off", "false", "no")
NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)\Z")
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\Z")


def did_you_mean(text: str, choices: tuple[str, ...] | list[str]) -> str:
    """ "did you mean 'x'?", or nothing if no choice is near."""
    lowered = {choice.lower(): choice for choice in choices}
    near = get_close_matches(text.lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean '{lowered[near[0]]}'?" if near else ""


def plain(number: float) -> str:
    """A number without an exponent and without needless zeros: 0.000001, 30, 2.5."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def number_of(word: Word) -> int:
    """A whole number, decimal or 0x…; raises Wrong."""
    if not NUMBER.match(word.text):
        raise BadValue(f"'{word.text}' is not a whole number", word=word)
    digits = word.text.lstrip("+-")
    if len(digits) > MOST_DIGITS:
        raise BadValue(f"a number of {len(digits)} digits is too large", word=word)
    value = int(digits, 16 if digits[:2].lower() == "0x" else 10)
    return -value if word.text.startswith("-") else value


def address_of(word: Word) -> Address:
    """An IPv4 or IPv6 address; raises Wrong."""
    for mark, advice in {"/": "write it without a prefix length", "%": "write it without a device"}.items():
        if mark in word.text:
            raise BadValue(f"'{word.text}' is not an IP address", advice, word)
    try:
        return ip_address(word.text)
    except ValueError:
        raise BadValue(f"'{word.text}' is not an IP address", word=word) from None


def port_of(word: Word) -> int:
    """A port of 1 to 65535; raises Wrong."""
    value = number_of(word)
    if not 1 <= value <= 65535:
        raise BadValue(f"port {word.text} is not between 1 and 65535", word=word)
    return value


@dataclass(frozen=True, slots=True)
class Flag(Type[bool]):
    """The keyword alone, which means yes; or one of on, off, true, false, yes, no behind it."""

    def parse(self, words: Words) -> bool:
        """True without a word."""
        return BOOLEAN.parse(words) if words else True

    def __str__(self) -> str:
        return "[on|off]"


@dataclass(frozen=True, slots=True)
class Bare(Type[bool]):
    """The keyword alone, which means yes."""

    def parse(self, words: Words) -> bool:
        """True."""
        return True

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Boolean(Type[bool]):
    """One of on, off, true, false, yes, no."""

    def parse(self, words: Words) -> bool:
        """The word's truth."""
        word = words.take(str(self))
        if word.text.lower() not in TRUE + FALSE:
            raise BadValue(f"'{word.text}' is neither yes nor no", f"write one of {', '.join(TRUE + FALSE)}", word)
        return word.text.lower() in TRUE

    def __str__(self) -> str:
        return "on|off"


@dataclass(frozen=True, slots=True)
class Integer(Type[int]):
    """A whole number from `least` to `most`; `bare` is its value where no word is written."""

    least: int = 0
    most: int = MAX_INTEGER
    bare: int | None = None

    def parse(self, words: Words) -> int:
        """The number."""
        if not words and self.bare is not None:
            return self.bare
        word = words.take(str(self))
        value = number_of(word)
        if not self.least <= value <= self.most:
            raise BadValue(f"{word.text} is not between {self.least} and {self.most}", word=word)
        return value

    def __str__(self) -> str:
        return f"a whole number, {self.least} to {self.most}"


@dataclass(frozen=True, slots=True)
class Seconds(Type[float]):
    """Seconds, with a fraction if need be."""

    least: float = 0.0
    most: float = MAX_SECONDS

    def parse(self, words: Words) -> float:
        """The seconds."""
        word = words.take("seconds")
        if not DECIMAL.match(word.text):
            raise BadValue(f"'{word.text}' is not a number of seconds", word=word)
        if not self.least <= float(word.text) <= self.most:
            raise BadValue(f"{word.text} seconds is not between {plain(self.least)} and {plain(self.most)}", word=word)
        return float(word.text)

    def __str__(self) -> str:
        return f"seconds, {plain(self.least)} to {plain(self.most)}"


@dataclass(frozen=True, slots=True)
class Real(Type[float]):
    """A number with a fraction."""

    least: float
    most: float

    def parse(self, words: Words) -> float:
        """The number."""
        word = words.take(str(self))
        if not DECIMAL.match(word.text):
            raise BadValue(f"'{word.text}' is not a number", word=word)
        if not self.least <= float(word.text) <= self.most:
            raise BadValue(f"{word.text} is not between {plain(self.least)} and {plain(self.most)}", word=word)
        return float(word.text)

    def __str__(self) -> str:
        return f"a number, {plain(self.least)} to {plain(self.most)}"


@dataclass(frozen=True, slots=True)
class Text(Type[str]):
    """One word, or one string in quotes; `most` characters are kept where keepalived cuts the rest."""

    what: str = "a string"
    most: int = 0

    def parse(self, words: Words) -> str:
        """The text."""
        word = words.take(self.what)
        if self.most and len(word.text) > self.most:
            words.warn(word, f"'{word.text}' is longer than {self.most} characters; the rest is cut")
            return word.text[: self.most]
        return word.text

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class OptionalText(Type[str]):
    """One word, or none."""

    what: str = "a string"

    def parse(self, words: Words) -> str:
        """The text, "" without a word."""
        return words.take(self.what).text if words else ""

    def __str__(self) -> str:
        return f"[{self.what}]"


@dataclass(frozen=True, slots=True)
class Texts(Type[tuple[str, ...]]):
    """All words of the line."""

    what: str = "words"
    least: int = 0

    def parse(self, words: Words) -> tuple[str, ...]:
        """Their texts; Wrong if there are fewer than `least`."""
        found = tuple(word.text for word in words.rest())
        if len(found) < self.least:
            words.take(self.what)
        return found

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Choice(Type[object]):
    """One word of a table, and what it stands for. Case counts, as it does to keepalived, unless `any_case`."""

    table: Mapping[str, object]
    any_case: bool = False

    def parse(self, words: Words) -> object:
        """What the word stands for."""
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
    """A choice between words that stand for themselves."""
    return Choice({word: word for word in words}, any_case)


@dataclass(frozen=True, slots=True)
class IpAddress(Type[Address]):
    """An address; `version` 4 or 6 allows only that family."""

    version: int = 0

    def parse(self, words: Words) -> Address:
        """The address."""
        word = words.take(str(self))
        address = address_of(word)
        if self.version and address.version != self.version:
            raise BadValue(f"'{word.text}' is not an IPv{self.version} address", word=word)
        return address

    def __str__(self) -> str:
        return f"an IPv{self.version} address" if self.version else "an IP address"


@dataclass(frozen=True, slots=True)
class Endpoint(Type[tuple[Address, int]]):
    """An address and, if written, a port; port 0 is none."""

    port_needed: bool = False

    def parse(self, words: Words) -> tuple[IPv4Address | IPv6Address, int]:
        """Address and port."""
        address = address_of(words.take("an IP address"))
        if not words and not self.port_needed:
            return address, 0
        return address, port_of(words.take("a port"))

    def __str__(self) -> str:
        return "an IP address and a port" if self.port_needed else "an IP address [and a port]"


FLAG = Flag()
BARE = Bare()
BOOLEAN = Boolean()
SECONDS = Seconds()
TEXT = Text()
ADDRESS = IpAddress()
PORT = Integer(1, 65535)
MARK = Integer(1, 0xFFFFFFFF)


OPENS = re.compile(r"<[ \t]*/")  # "</dev/tcp/127.0.0.1/80": no program, but a redirection, which a shell must make


@dataclass(frozen=True, slots=True)
class WrittenScript:
    """A script as written; `word` is where complaints of it stand."""

    script: Script
    word: Word


@dataclass(frozen=True, slots=True)
class ScriptType(Type[WrittenScript]):
    """Program and arguments in one word, quoted if there are arguments; `with_user` if user and group may follow."""

    with_user: bool = True

    def parse(self, words: Words) -> WrittenScript:
        """The script; Wrong if its quotes do not match or there is no program."""
        word = words.take("a program")
        program = arguments_of(word)
        user = words.take("").text if self.with_user and words else ""
        group = words.take("").text if self.with_user and words else ""
        return WrittenScript(Script(program, user, group), word)

    def __str__(self) -> str:
        return "a program with its arguments in quotes" + (" [user [group]]" if self.with_user else "")


def arguments_of(word: Word) -> tuple[str, ...]:
    """The arguments in a word: split at blanks, except within quotes inside of it. Raises Wrong."""
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
    """A user, and a group if it is not the user's own."""

    def parse(self, words: Words) -> tuple[str, str]:
        """User and group; "" for no group."""
        user = words.take("a user").text
        return user, words.take("").text if words else ""

    def __str__(self) -> str:
        return "user [group]"


SCRIPT = ScriptType()
SCRIPT_ALONE = ScriptType(with_user=False)
USER = UserType()
