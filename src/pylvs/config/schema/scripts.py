"""The type of a script: a program with its arguments in one word, then a user and a group."""

from __future__ import annotations

import re

from pylvs.config.schema.nouns import BadValue, Type, Words
from pylvs.config.tree import Word
from pylvs.config.words import split_arguments
from pylvs.model.dataclass import dataclass
from pylvs.model.scripts import Script

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
