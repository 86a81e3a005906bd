"""Numbers over time: the history of rates for sparklines, and drops a second from two readings of their counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from pylvs.model.dataclass import dataclass, field
from pylvs.model.rows import DROPPED
from pylvs.top.rows import Ident, Row

LENGTH = 60  # readings that a history keeps
TOTAL: Ident = ("", "")  # the history of the sum of all services
SERIES = ("connections", "in_packets", "out_packets", "in_bytes", "out_bytes", "active")  # of each reading
Reading = tuple[int, ...]


class History:
    """The last readings of each row. A row that never had any traffic has none, so idle rows take no memory."""

    def __init__(self) -> None:
        self._readings: dict[Ident, deque[Reading]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """Keep one reading of each row, and forget rows that are gone."""
        there: dict[Ident, Reading] = {}
        total = [0] * len(SERIES)
        for row in rows:
            total = [one + other for one, other in zip(total, _reading(row), strict=True)]
            for each in (row, *row.servers):
                there[each.ident] = _reading(each)
        there[TOTAL] = tuple(total)
        for ident in [each for each in self._readings if each not in there]:
            del self._readings[ident]
        for ident, reading in there.items():
            kept = self._readings.get(ident)
            if kept is None and any(reading):
                kept = self._readings[ident] = deque(maxlen=LENGTH)
            if kept is not None:
                kept.append(reading)

    def of(self, ident: Ident, series: str = "connections") -> list[int]:
        """Return one of SERIES of a row, the latest last; empty for a row without traffic."""
        at = SERIES.index(series)
        return [each[at] for each in self._readings.get(ident, ())]


def _reading(row: Row) -> Reading:
    rates = row.rates
    return rates.connections, rates.in_packets, rates.out_packets, rates.in_bytes, rates.out_bytes, row.active


@dataclass(frozen=True, slots=True)
class End:
    """How packets ended for one reason: their number so far, and a second between the last two readings."""

    reason: str
    verdict: str
    count: int
    rate: float
    sentence: str
    services: Mapping[str, int] = field(default_factory=dict)  # counts by the key of a service


class EndRates:
    """Computes rates from the counts of GET /v1/drops; the first reading, and one that starts anew, have none."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._at: float | None = None

    def add(self, report: Mapping[str, Any], at: float) -> tuple[End, ...]:
        """Return the reasons that have counts, the most frequent first; `at` is a monotonic time."""
        seconds = 0.0 if self._at is None else at - self._at
        found = []
        for reason in report["reasons"]:
            grown = reason["count"] - self._before.get(reason["reason"], reason["count"])
            rate = grown / seconds if seconds > 0 and grown > 0 else 0.0
            services = {service["service"]: service["count"] for service in reason["services"]}
            if reason["count"]:
                found.append(
                    End(reason["reason"], reason["verdict"], reason["count"], rate, reason["sentence"], services)
                )
        self._before = {each["reason"]: each["count"] for each in report["reasons"]}
        self._at = at
        return tuple(sorted(found, key=lambda end: (-end.rate, -end.count)))


def dropped(ends: Iterable[End]) -> list[End]:
    """Return the ends that are drops."""
    return [each for each in ends if each.verdict == DROPPED]


def dropped_of(ends: Iterable[End], keys: Iterable[str]) -> int:
    """Return how many packets of these services were dropped so far."""
    wanted = set(keys)
    return sum(count for end in dropped(ends) for key, count in end.services.items() if key in wanted)
