"""Processes of other programs in this network namespace, by /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pylvs.daemon import DEFAULT_FILE
from pylvs.model.dataclass import dataclass

_ROUTERS_ALONE, _CHECKS_ALONE = ("-P", "--vrrp"), ("-C", "--check")


@dataclass(frozen=True, slots=True)
class Keepalived:
    """A keepalived: its process, its file, and whether it runs virtual routers and virtual servers."""

    process: int
    file: str
    routers: bool
    services: bool


def keepaliveds() -> list[Keepalived]:
    """Return the keepaliveds of this network namespace, without their children."""
    return list(_found())


def _found() -> Iterator[Keepalived]:
    own = os.stat("/proc/self/ns/net")
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[0].rpartition("/")[2] != "keepalived" or not os.path.samestat(os.stat(folder / "ns/net"), own):
                continue
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            if Path(f"/proc/{parent}/comm").read_text().strip() == "keepalived":
                continue
            yield parsed(int(folder.name), words[1:])


def parsed(process: int, words: list[str]) -> Keepalived:
    """Return what a command line of keepalived has."""
    file, at = DEFAULT_FILE, 0
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--use-file":
            file = value if equals else "".join(words[at + 1 : at + 2])
        elif word.startswith("-f") and not word.startswith("--"):
            file = word[2:] or "".join(words[at + 1 : at + 2])
    alone = [word for word in words if word in (*_ROUTERS_ALONE, *_CHECKS_ALONE)]
    routers = not alone or any(word in _ROUTERS_ALONE for word in alone)
    services = not alone or any(word in _CHECKS_ALONE for word in alone)
    return Keepalived(process, file, routers, services)
