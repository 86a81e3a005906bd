"""The names that iproute2 has for rtnetlink's numbers, its configuration's own included: tables, protocols, scopes."""

from __future__ import annotations

import functools
from enum import Enum
from pathlib import Path

FOLDERS = (Path("/usr/share/iproute2"), Path("/etc/iproute2"))  # what a package brings; what an operator says instead


class Names(Enum):
    """A file of names, and those that rtnetlink.h itself gives."""

    TABLES = "rt_tables", {"unspec": 0, "default": 253, "main": 254, "local": 255}
    SCOPES = "rt_scopes", {"global": 0, "universe": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
    PROTOCOLS = "rt_protos", {"unspec": 0, "redirect": 1, "kernel": 2, "boot": 3, "static": 4, "keepalived": 18}
    SERVICES = "rt_dsfield", {"default": 0}
    REALMS = "rt_realms", {"cosmos": 0}

    def __init__(self, file: str, known: dict[str, int]) -> None:
        self.file, self.known = file, known


@functools.cache
def numbers(names: Names, folders: tuple[Path, ...] = FOLDERS) -> dict[str, int]:
    """Every name with its number. A file that is missing or has lines of another kind says nothing."""
    found = dict(names.known)
    for folder in folders:
        for path in (folder / names.file, *sorted((folder / f"{names.file}.d").glob("*.conf"))):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            for line in text.splitlines():
                words = line.partition("#")[0].split()
                if len(words) == 2 and (number := number_of(words[0])) is not None:
                    found[words[1]] = number
    return found


def number_of(text: str) -> int | None:
    """A number, decimal or 0x…; None if it is none."""
    try:
        return int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        return None


def named(names: Names, text: str, most: int) -> int | None:
    """The number of a name, or a number up to `most` as it is; None if it is neither."""
    number = number_of(text)
    if number is None:
        return numbers(names).get(text)
    return number if 0 <= number <= most else None
