"""Which rows are shown, and in which order: sort, filter, and folded services."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pylvs.top.rows import Ident, Row

UNFOLDED = 100  # rows, of a table that is small enough to show all servers at first
_DIGITS = re.compile(r"(\d+)")


def natural(text: str) -> list[Any]:
    """Return a key by which 10.0.0.9 comes before 10.0.0.10."""
    return [(0, int(each), "") if each.isdigit() else (1, 0, each) for each in _DIGITS.split(text) if each]


Key = Callable[[Row], Any]
# By column; numbers are sorted from the greatest to the least.
_KEYS: Mapping[str, Key] = {
    "name": lambda row: natural(row.name),
    "state": lambda row: -row.severity,
    "weight": lambda row: -row.weight,
    "conn": lambda row: -row.rates.connections,
    "active": lambda row: -row.active,
    "inactive": lambda row: -row.inactive,
    "in packets": lambda row: -row.rates.in_packets,
    "out packets": lambda row: -row.rates.out_packets,
    "in bits": lambda row: -row.rates.in_bytes,
    "out bits": lambda row: -row.rates.out_bytes,
    "handshakes": lambda row: 1.0 if not row.begun else (row.completed or 0) / row.begun,  # the worst first
    "how": lambda row: row.how,
}
SORTS = tuple(_KEYS)


def ordered(rows: Iterable[Row], sort: str, inverted: bool = False) -> list[Row]:
    """Return the rows in an order of SORTS. Rows that are equal in it are by name."""
    if sort == "name":
        return sorted(rows, key=_KEYS["name"], reverse=inverted)
    found = list(rows)
    if len({_KEYS[sort](each) for each in found}) < len(found):  # the natural order of many names takes long
        found.sort(key=_KEYS["name"])
    return sorted(found, key=_KEYS[sort], reverse=inverted)


def matches(row: Row, words: Sequence[str]) -> bool:
    """Whether a row has all words in its name, state, reason or method; `!word` must not be there."""
    text = f"{row.service} {row.server} {row.state} {row.reason} {row.how}".casefold()
    return all((word[1:] not in text) if word.startswith("!") and word[1:] else word in text for word in words)


def filtered(rows: Iterable[Row], text: str) -> list[tuple[Row, tuple[Row, ...]]]:
    """Return the services that match, with the servers to show: those that match, or all if only the service does."""
    words = text.casefold().split()
    if not words:
        return [(row, row.servers) for row in rows]
    found = []
    for row in rows:
        servers = tuple(each for each in row.servers if matches(each, words))
        if servers or matches(row, words):
            found.append((row, servers or row.servers))
    return found


class Folds:
    """Which services show their servers: small tables all, large ones those with something wrong; then as commanded."""

    def __init__(self) -> None:
        self._chosen: dict[str, bool] = {}
        self._all: bool | None = None

    def is_open(self, row: Row, small: bool) -> bool:
        """Whether the servers of a service are shown."""
        default = small or row.severity > 0 if self._all is None else self._all
        return self._chosen.get(row.service, default)

    def choose(self, service: str, is_open: bool) -> None:
        """Open or fold one service."""
        self._chosen[service] = is_open

    def choose_all(self, is_open: bool) -> None:
        """Open or fold all."""
        self._all = is_open
        self._chosen.clear()


def listed(rows: Sequence[Row], sort: str, inverted: bool, text: str, folds: Folds) -> list[Row]:
    """Return the lines of the list from top to bottom: services, and behind each the servers that are shown."""
    small = sum(1 + len(row.servers) for row in rows) <= UNFOLDED
    shown = dict[Ident, tuple[Row, ...]]()
    services = []
    for row, servers in filtered(rows, text):
        services.append(row)
        shown[row.ident] = servers
    lines = []
    for row in ordered(services, sort, inverted):
        lines.append(row)
        if text.strip() or folds.is_open(row, small):
            lines += ordered(shown[row.ident], sort, inverted)
    return lines
