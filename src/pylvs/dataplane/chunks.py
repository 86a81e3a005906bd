"""Where the lists of services lie: chunks of a power of two of members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pylvs.dataplane.tables import Tables
from pylvs.dataplane.versions import Versions

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


def list_class(count: int) -> int:
    """The class of chunk that holds so many members."""
    return max(count - 1, 0).bit_length()


def gaps(used: list[tuple[int, int]], classes: int) -> Iterator[tuple[int, int]]:
    """Chunks (first member, size) that fill the places between used ones; these in order."""
    at = 0
    for start, size in used:
        while at < start:
            piece = min(1 << ((start - at).bit_length() - 1), 1 << (classes - 1))
            yield at, piece
            at += piece
        at = start + size


def list_of(tables: Tables, version: dict[str, Any]) -> list[int]:
    """The slots of a service's destinations, in list order."""
    members, count = tables.members, version["count"]
    words = members.elements(version["list"], count).cast("I")
    return list(words[:: members.stride // 4]) if count else []


def chunks(versions: Iterable[dict[str, Any]]) -> list[tuple[int, int]]:
    """The chunks (first member, size) of these services' lists, in order."""
    return sorted((fields["list"], 1 << list_class(fields["count"])) for fields in versions if fields["count"])


def lists_in_force(tables: Tables) -> list[tuple[int, int]]:
    """The chunks (first member, size) that packets may look at if no edit was made for a while, in order."""
    versions = Versions(tables)
    live = versions.live
    found = (versions.version(slot, live) for slot in range(tables.book.get(0, "service_top")))
    return chunks(fields for fields in found if fields["present"])
