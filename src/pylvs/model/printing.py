"""Text for people: whatever is in it, a terminal shows it and obeys nothing."""

from __future__ import annotations


def visible(text: str) -> str:
    """The text without characters that a terminal would obey, and those that are of no text; tabs stay."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in text)


def one_line(text: str) -> str:
    """Likewise, on one line: whatever is between words is a blank."""
    return visible(" ".join(text.split()))
