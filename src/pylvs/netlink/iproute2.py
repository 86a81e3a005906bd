"""iproute2's names for numbers of rtnetlink, from its files too: tables, protocols, scopes."""

from __future__ import annotations

import functools
from enum import Enum
from pathlib import Path

FOLDERS = (Path("/usr/share/iproute2"), Path("/etc/iproute2"))  # of a package; of the operator, which override them


class Names(Enum):
    """A file of names, and those of rtnetlink.h."""

    TABLES = "rt_tables", {"unspec": 0, "default": 253, "main": 254, "local": 255}
    SCOPES = "rt_scopes", {"global": 0, "universe": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
    PROTOCOLS = "rt_protos", {"unspec": 0, "redirect": 1, "kernel": 2, "boot": 3, "static": 4, "keepalived": 18}
    SERVICES = "rt_dsfield", {"default": 0}
    REALMS = "rt_realms", {"cosmos": 0}

    def __init__(self, file: str, known: dict[str, int]) -> None:
        self.file, self.known = file, known


@functools.cache
def numbers(names: Names, folders: tuple[Path, ...] = FOLDERS) -> dict[str, int]:
    """Return every name with its number; ignore missing files and lines of another form."""
    found = dict(names.known)
    for folder in folders:
        for path in (folder / names.file, *sorted((folder / f"{names.file}.d").glob("*.conf"))):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            for line in text.split("\n"):
                words = line.partition("#")[0].split()
                if len(words) == 2 and (number := number_of(words[0])) is not None:
                    found[words[1]] = number
    return found


def number_of(text: str) -> int | None:
    """Parse a decimal or hexadecimal (0x) number; None for another text."""
    try:
        return int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        return None


def named(names: Names, text: str, most: int) -> int | None:
    """Return the number of a name, or a number up to `most` itself; None for another text."""
    number = number_of(text)
    if number is None:
        return numbers(names).get(text)
    return number if 0 <= number <= most else None
