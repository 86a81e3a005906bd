"""What the page shows of the time before it was opened: rings of numbers in memory, of a bounded size.

| series | steps | reach |
|---|---|---|
| the director, and the first 200 services | each sample; 10 s | 600 samples; 6 h |
| the first 1,000 real servers | 30 s | 6 h |
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

from pylvs.model.dataclass import dataclass

RATES = ("connections", "in_packets", "out_packets", "in_bits", "out_bits")
OF_SERVICE = (*RATES, "active", "inactive", "servers_up", "weight_up")
OF_SERVER = (*RATES, "active", "inactive", "weight", "latency_ms", "up")
REACH_S = 6 * 3600
FINE, SERVICE_STEP_S, SERVER_STEP_S = 600, 10, 30
MOST_SERVICES, MOST_SERVERS = 200, 1000
_GAP = 3.5  # steps without a sample

Key = tuple[str, str]  # service and server; "" for all
Values = Sequence[float | None]


class Ring:
    """The last `size` rows of numbers with their times."""

    def __init__(self, fields: Sequence[str], size: int) -> None:
        self.fields, self._size, self._next = fields, size, 0
        self._times = array("d")
        self._columns = [array("f") for _ in fields]

    def put(self, at: float, values: Values) -> None:
        numbers = [math.nan if each is None else each for each in values]
        if len(self._times) < self._size:
            self._times.append(at)
            for column, number in zip(self._columns, numbers, strict=True):
                column.append(number)
            return
        self._times[self._next] = at
        for column, number in zip(self._columns, numbers, strict=True):
            column[self._next] = number
        self._next = (self._next + 1) % self._size

    def columns(self, since: float, step_s: float) -> tuple[list[float], dict[str, list[float | None]]]:
        """Return times and columns, with an empty row where samples are missing."""
        order = [*range(self._next, len(self._times)), *range(self._next)]
        order = [each for each in order if self._times[each] > since]
        rows: list[int | None] = []
        times: list[float] = []
        for row in order:
            at = self._times[row]
            if times and at - times[-1] > _GAP * step_s:
                rows.append(None)
                times.append(times[-1] + step_s)
            rows.append(row)
            times.append(at)
        series = {
            name: [None if each is None or math.isnan(column[each]) else round(column[each], 2) for each in rows]
            for name, column in zip(self.fields, self._columns, strict=True)
        }
        return [round(each, 1) for each in times], series


class Averaged:
    """A ring of averages over steps."""

    def __init__(self, fields: Sequence[str], step_s: int) -> None:
        self.step_s = step_s
        self.ring = Ring(fields, REACH_S // step_s)
        self._begin: float | None = None
        self._sums, self._counts = [0.0] * len(fields), [0] * len(fields)

    def put(self, at: float, values: Values) -> None:
        if self._begin is not None and at - self._begin >= self.step_s:
            averages = [total / count if count else None for total, count in zip(self._sums, self._counts, strict=True)]
            self.ring.put(self._begin, averages)
            self._begin = None
        if self._begin is None:
            self._begin = at
            self._sums, self._counts = [0.0] * len(values), [0] * len(values)
        for number, value in enumerate(values):
            if value is not None:
                self._sums[number] += value
                self._counts[number] += 1


@dataclass(slots=True)
class _Series:
    fine: Ring | None
    coarse: Averaged


class History:
    """The rings of the director, its services and its servers."""

    def __init__(self) -> None:
        self._series: tuple[dict[Key, _Series], dict[Key, _Series]] = {}, {}  # of services, and of servers

    def put(self, at: float, rows: Mapping[Key, Values]) -> None:
        """Keep a sample."""
        gone = [[key for key in kept if key not in rows] for kept in self._series]
        for key, values in rows.items():
            series = self._of(key) or self._make(key, gone[bool(key[1])])
            if series is not None:
                if series.fine is not None:
                    series.fine.put(at, values)
                series.coarse.put(at, values)

    def _of(self, key: Key) -> _Series | None:
        return self._series[bool(key[1])].get(key)

    def _make(self, key: Key, gone: list[Key]) -> _Series | None:
        """Make a series, without space in place of one that is gone; without one of these, None."""
        server = bool(key[1])
        kept = self._series[server]
        if len(kept) >= (MOST_SERVERS if server else MOST_SERVICES + 1):
            if not gone:
                return None
            del kept[gone.pop(0)]
        fields, step_s = (OF_SERVER, SERVER_STEP_S) if server else (OF_SERVICE, SERVICE_STEP_S)
        kept[key] = made = _Series(None if server else Ring(fields, FINE), Averaged(fields, step_s))
        return made

    def reply(self, key: Key, fine: bool, since: float, period_s: float) -> dict[str, object]:
        """Return what the page draws."""
        series = self._of(key)
        if series is None:
            kept = f"the first {MOST_SERVERS} servers" if key[1] else f"the first {MOST_SERVICES} services"
            return {"step_s": 0, "t": [], "series": {}, "kept": f"nothing is kept of it: there is space for {kept}"}
        if fine and series.fine is not None:
            step_s = max(1.0, period_s)
            times, columns = series.fine.columns(since, step_s)
        else:
            step_s = max(float(series.coarse.step_s), period_s)
            times, columns = series.coarse.ring.columns(since, step_s)
        return {"step_s": step_s, "t": times, "series": columns, "kept": ""}
