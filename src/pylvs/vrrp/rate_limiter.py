"""Rate limits by kinds of events, which other hosts can cause at any rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable


class RateLimiter:
    """Allow one event of each kind in `interval_s`, such as a log line; in this time at most `max_kinds` kinds."""

    def __init__(self, interval_s: float = 60.0, max_kinds: int = 1024) -> None:
        self.surplus = 0  # suppressed events of further kinds
        self._interval_s = interval_s
        self._max_kinds = max_kinds
        self._allowed_at: dict[Hashable, float] = {}
        self._suppressed: Counter[Hashable] = Counter()

    def allow(self, kind: Hashable, now: float) -> int | None:
        """Return how many events were suppressed since the last one of this kind; None: suppress this one, too."""
        if kind in self._allowed_at and now - self._allowed_at[kind] < self._interval_s:
            self._suppressed[kind] += 1
            return None
        if kind not in self._allowed_at and len(self._allowed_at) >= self._max_kinds:
            self._allowed_at = {each: at for each, at in self._allowed_at.items() if now - at < self._interval_s}
            suppressed = {each: count for each, count in self._suppressed.items() if each in self._allowed_at}
            self._suppressed = Counter(suppressed)
            if len(self._allowed_at) >= self._max_kinds:
                self.surplus += 1
                return None
        self._allowed_at[kind] = now
        return self._suppressed.pop(kind, 0)
