"""Text that is safe to print on a terminal: without control characters."""

from __future__ import annotations


def visible(text: str) -> str:
    """Replace control and other unprintable characters except tabs."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in text)


def one_line(text: str) -> str:
    """Do likewise, and replace all white space by single blanks."""
    return visible(" ".join(text.split()))
