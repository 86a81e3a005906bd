"""Changes of several services that take effect together."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass
from pylvs.model.service import Destination, DestinationKey, ServiceKey, VirtualService


@dataclass(frozen=True, slots=True)
class ServiceChange:
    """What becomes of one service: it is added (with `is_new`), edited, or deleted (without `service`).

    A deleted service has no further changes: its destinations go with it.
    """

    key: ServiceKey
    service: VirtualService | None
    is_new: bool = False
    deleted: tuple[DestinationKey, ...] = ()
    edited: tuple[Destination, ...] = ()
    added: tuple[Destination, ...] = ()  # in this order, so the last one becomes the head of the list
