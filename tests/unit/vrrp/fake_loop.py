"""The event loop in simulated time."""

from __future__ import annotations

import heapq
import selectors

from pylvs.vrrp.loop import Loop


class FakeTimeLoop(Loop):
    """Time passes only by `pass_`; descriptors that are ready are handled first."""

    def __init__(self) -> None:
        super().__init__(self._raise)
        self._now = 1000.0

    @property
    def now(self) -> float:
        return self._now

    @staticmethod
    def _raise(error: Exception) -> None:
        raise error

    def pass_(self, seconds: float) -> None:
        """Run all timers of the next `seconds`."""
        end = self._now + seconds
        while True:
            ready = self._selector.select(0)
            if ready:
                for key, events in ready:
                    for event, which in ((selectors.EVENT_READ, 0), (selectors.EVENT_WRITE, 1)):
                        known = self._selector.get_map().get(key.fd)
                        if events & event and known is not None and known.data[which]:
                            known.data[which]()
            elif self._timers and self._timers[0][0] <= end:
                self._now, _, timer = heapq.heappop(self._timers)
                call, timer.call = timer.call, None
                if call is not None:
                    call()
            else:
                self._now = end
                return
