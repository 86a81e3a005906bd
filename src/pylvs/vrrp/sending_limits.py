"""How soon the next announcement may leave: garp_interval and gna_interval, shared by devices and routers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pylvs.model.addresses import Address
from pylvs.model.vrrp import SendingLimit

Bound = tuple[int | str, int]  # which limit, or which device under the limit of all others; and the family
PATIENCE_S = 0.01  # for whose turn it is, when he is not there to take it


class SendingLimits:
    """All limits of this host. Several may wait for one; then they take turns.

    `bases` names the device below each VMAC: a limit is of the real devices.
    """

    def __init__(self, limits: Iterable[SendingLimit] = (), bases: Mapping[str, str] | None = None) -> None:
        self._limits = tuple(limits)
        self._bases = bases or {}
        self._named = {device: at for at, limit in enumerate(self._limits) for device in limit.devices}
        self._others = next((limit for limit in self._limits if not limit.devices), None)
        self._free_at: dict[Bound, float] = {}
        self._waiting: dict[Bound, dict[int, None]] = {}  # who has waited longest comes first

    def bound(self, device: str, address: Address) -> Bound | None:
        """What an announcement is bound by; None: by nothing."""
        device = self._bases.get(device, device)
        at = self._named.get(device)
        limit = self._others if at is None else self._limits[at]
        if limit is None or not (limit.arp_s if address.version == 4 else limit.neighbour_s):
            return None
        return (device if at is None else at, address.version)

    def wait(self, bound: Bound, who: int) -> None:
        """Somebody wants to send."""
        self._waiting.setdefault(bound, {}).setdefault(who)

    def leave(self, bound: Bound, who: int) -> None:
        """He has sent all, or will not."""
        self._waiting.get(bound, {}).pop(who, None)

    def ready_at(self, bound: Bound, who: int) -> float:
        """When somebody who waits may send."""
        free_at = self._free_at.get(bound, float("-inf"))
        return free_at if next(iter(self._waiting[bound])) == who else free_at + PATIENCE_S

    def sent(self, bound: Bound, who: int, now: float) -> None:
        """Somebody did; it is the next one's turn."""
        which, family = bound
        limit = self._others if isinstance(which, str) else self._limits[which]
        assert limit is not None
        self._free_at[bound] = now + (limit.arp_s if family == 4 else limit.neighbour_s)
        queue = self._waiting[bound]
        queue.pop(who, None)
        queue[who] = None
