"""The lines that `-R` reads: each a command line, split at blanks, without quoting or comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import IO

PROGRAM = "ipvsadm"  # this word is skipped wherever it stands


def command_lines(lines: Iterable[str]) -> Iterator[list[str]]:
    """The words of each line that has any."""
    for line in lines:
        words = [word for word in line.replace("\t", " ").replace("\r", " ").rstrip("\n").split(" ") if word]
        words = [word for word in words if word != PROGRAM]
        if words:
            yield words


def input_lines(stdin: IO[str]) -> Iterable[str]:
    """The lines of the input: all at once from a pipe or a file, so that a slow writer never holds up the tables.

    Lines end at line feeds only.
    """
    if stdin.isatty():
        return stdin
    return stdin.read().split("\n")


def without_comments(text: str) -> str:
    """The text without the lines that `ipvsadm-restore` drops."""
    return "\n".join(line for line in text.split("\n") if not line.startswith("#"))
