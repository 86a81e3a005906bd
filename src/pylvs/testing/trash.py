"""The trash: deleted destinations that come back as they were if they are added again soon (IPVS-SEMANTICS 1.8)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass
from pylvs.model.destination import DestinationKey
from pylvs.model.director import DestinationRow
from pylvs.model.service import ServiceKey

PERIOD_S = 60.0  # between two looks at the trash while there is anything in it
GRACE_S = 120.0  # without references, from one look to a later one, before a destination is forgotten


@dataclass(slots=True)
class Deleted:
    """A deleted destination; `service_id` tells the service object that it belonged to from a later one."""

    row: DestinationRow
    service_id: int
    idle_since_s: float | None = None

    def referred_to(self) -> bool:
        """Whether connections or templates still hold it."""
        return bool(self.row.active or self.row.inactive or self.row.persistent)


class Trash:
    """Deleted destinations by service and key; times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._deleted: dict[tuple[ServiceKey, DestinationKey], Deleted] = {}
        self._next_look_s = 0.0

    def put(self, service: ServiceKey, row: DestinationRow, service_id: int, now_s: float) -> None:
        """Keep a destination that has just been deleted."""
        self._look(now_s)
        if not self._deleted:
            self._next_look_s = now_s + PERIOD_S
        self._deleted[service, row.destination.key] = Deleted(row, service_id)

    def take(self, service: ServiceKey, key: DestinationKey, now_s: float) -> Deleted | None:
        """The destination of this key, which leaves the trash; None if there is none."""
        self._look(now_s)
        return self._deleted.pop((service, key), None)

    def _look(self, now_s: float) -> None:
        while self._deleted and self._next_look_s <= now_s:
            self._look_once(self._next_look_s)
            self._next_look_s += PERIOD_S

    def _look_once(self, at_s: float) -> None:
        for name, each in list(self._deleted.items()):
            if each.referred_to():
                each.idle_since_s = None
            elif each.idle_since_s is None:
                each.idle_since_s = at_s
            elif at_s - each.idle_since_s >= GRACE_S:
                del self._deleted[name]
