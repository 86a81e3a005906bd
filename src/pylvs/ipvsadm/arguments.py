"""Reading a command line's words into options and values, by the habits of the popt library.

Short options bundle; a value follows at once (one `=` between is dropped) or is the next word, whatever that looks
like. Long options are never abbreviated. Words that belong to nothing are set aside, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pylvs.ipvsadm.options import BY_LETTER, BY_NAME, BY_WORD, Option, Takes

UNKNOWN = "unknown option"
MISSING = "missing argument"
UNWANTED = "option does not take an argument"

Read = tuple[Option, str | None]


class Unreadable(Exception):
    """A word that cannot be read; the text says why, `Words.latest` which word it is."""


class Words:
    """The words of one command line, read from left to right.

    `latest` is the word read last, as it was written; `aside` those that belong to no option (complete at the end).
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._next = 0
        self._options = self._read()
        self.latest = ""
        self.aside: list[str] = []

    def __iter__(self) -> Iterator[Read]:
        return self._options

    def __next__(self) -> Read:
        return next(self._options)

    def _read(self) -> Iterator[Read]:
        while self._next < len(self._words):
            word = self._take()
            option = BY_WORD.get(word)
            if option is not None:
                yield option, self._following(option)
            elif word == "--":
                self.aside += self._words[self._next :]
                return
            elif word.startswith("--"):
                yield self._long(word[2:])
            elif word.startswith("-") and word != "-":
                yield from self._bundle(word[1:])
            else:
                self.aside.append(word)

    def _take(self) -> str:
        self.latest = self._words[self._next]
        self._next += 1
        return self.latest

    def _long(self, text: str) -> Read:
        name, equals, value = text.partition("=")
        option = BY_NAME.get(name)
        if option is None:
            raise Unreadable(UNKNOWN)
        if option.takes is Takes.NOTHING and equals:
            raise Unreadable(UNWANTED)
        return option, value if equals else self._following(option)

    def _bundle(self, letters: str) -> Iterator[Read]:
        while letters:
            option = BY_LETTER.get(letters[0])
            rest = letters[1:]
            if option is None:
                raise Unreadable(UNKNOWN)
            if option.takes is Takes.NOTHING:
                if rest.startswith("="):
                    raise Unreadable(UNWANTED)
                yield option, None
                letters = rest
            else:
                yield option, rest.removeprefix("=") if rest else self._following(option)
                return

    def _following(self, option: Option) -> str | None:
        """The next word as the option's value, if it takes one."""
        if option.takes is Takes.NOTHING:
            return None
        at_end = self._next == len(self._words)
        if option.takes is Takes.MAYBE:
            return None if at_end or self._words[self._next].startswith("-") else self._take()
        if at_end:
            raise Unreadable(MISSING)
        return self._take()
