"""How soon the next announcement may leave: garp_interval and gna_interval, shared by devices and routers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum

from pylvs.model.addresses import Address
from pylvs.model.vrrp import Announcements, SendingLimit

LimitKey = tuple[int | str, int]  # which limit, or which device under the limit of all others; and the family
TURN_TIMEOUT_S = 0.01  # for whose turn it is, when he is not there to take it


class GarpRateLimit:
    """All limits of this host. Several may wait for one; then they take turns.

    `bases` names the device below each VMAC: a limit is of the real devices.
    """

    def __init__(self, limits: Iterable[SendingLimit] = (), bases: Mapping[str, str] | None = None) -> None:
        self._limits = tuple(limits)
        self._bases = bases or {}
        self._named = {device: at for at, limit in enumerate(self._limits) for device in limit.devices}
        self._others = next((limit for limit in self._limits if not limit.devices), None)
        self._free_at: dict[LimitKey, float] = {}
        self._waiting: dict[LimitKey, dict[int, None]] = {}  # who has waited longest comes first

    def bound(self, device: str, address: Address) -> LimitKey | None:
        """What an announcement is bound by; None: by nothing."""
        device = self._bases.get(device, device)
        at = self._named.get(device)
        limit = self._others if at is None else self._limits[at]
        if limit is None or not (limit.arp_s if address.version == 4 else limit.neighbour_s):
            return None
        return (device if at is None else at, address.version)

    def wait(self, bound: LimitKey, who: int) -> None:
        """Somebody wants to send."""
        self._waiting.setdefault(bound, {}).setdefault(who)

    def leave(self, bound: LimitKey, who: int) -> None:
        """He has sent all, or will not."""
        self._waiting.get(bound, {}).pop(who, None)

    def ready_at(self, bound: LimitKey, who: int) -> float:
        """When somebody who waits may send."""
        free_at = self._free_at.get(bound, float("-inf"))
        return free_at if next(iter(self._waiting[bound])) == who else free_at + TURN_TIMEOUT_S

    def sent(self, bound: LimitKey, who: int, now: float) -> None:
        """Somebody did; it is the next one's turn."""
        which, family = bound
        limit = self._others if isinstance(which, str) else self._limits[which]
        assert limit is not None
        self._free_at[bound] = now + (limit.arp_s if family == 4 else limit.neighbour_s)
        queue = self._waiting[bound]
        queue.pop(who, None)
        queue[who] = None


# --- announcing ------------------------------------------------------------------------------------------------------
# When a master says where its addresses are: the rounds of gratuitous ARP and neighbour advertisements, pure.
#
# A round says each address a number of times, one after the other and then again from the first, as keepalived does.
# What must wait for a sending limit is kept; a round that begins meanwhile adds nothing to what is still to be said.


DeviceAddress = tuple[str, Address]  # a device, and an address on it
CONFLICT_INTERVAL_S = 1.0  # at least between two rounds that others made necessary: their flood must not become ours
BATCH_SIZE = 64  # announcements
BATCH_PAUSE_S = 0.001  # between two such batches, so that what is due meanwhile (an advertisement) comes first
_numbers = itertools.count()


class _Round(Enum):
    """Why a round is sent at its time."""

    SECOND = "once more after the take-over"
    REFRESH = "again and again"
    EXTRA = "again and again on the other devices"
    AGAIN = "somebody else claimed the addresses, too soon after the last time"
    CONFLICT = "once more after somebody else claimed the addresses"


class GarpScheduler:
    """Of one virtual router. Times are seconds of any clock that only goes forward; wake it when `due`.

    `device` is where the virtual router speaks; `vmacs` are devices whose addresses are announced again and again even
    where no other than a VMAC's are (garp_extra_if).
    """

    def __init__(
        self, announcements: Announcements, limits: GarpRateLimit, device: str = "", vmacs: Collection[str] = ()
    ) -> None:
        self._told = announcements
        self._limits = limits
        self._device = device
        self._vmacs = frozenset(vmacs)
        self._who = next(_numbers)
        self._targets: tuple[DeviceAddress, ...] = ()
        self._ready_at = 0.0  # before that, nothing is sent
        self._quiet_until = float("-inf")  # before that, others make no round necessary
        self._rounds: dict[_Round, float] = {}
        self._left: dict[DeviceAddress, int] = {}  # how often each is still to be said
        self._queues: dict[LimitKey | None, deque[DeviceAddress]] = {}  # those of _left, by what binds them
        self.reason = ""  # of the last round that was not due by time

    # --- what happens ---

    def begin(self, now: float, targets: Sequence[DeviceAddress]) -> None:
        """It became master, and this is what it holds: now, once more, and then again and again."""
        self.stop()
        self._ready_at = now
        self.reason = "became master"
        self._targets = tuple(targets)
        told = self._told
        self._round(self._targets, told.repeat)
        if told.delay_s:
            self._rounds[_Round.SECOND] = now + told.delay_s
        if told.refresh_s:
            self._rounds[_Round.REFRESH] = now + told.refresh_s
        if told.extra_interval_s and self._extra():
            self._rounds[_Round.EXTRA] = now + told.extra_interval_s

    def change(self, now: float, targets: Sequence[DeviceAddress]) -> None:
        """It holds other addresses now: those that are new are announced as after a take-over."""
        self._ready_at = max(self._ready_at, now)
        before, self._targets = set(self._targets), tuple(targets)
        for target in before.difference(self._targets):
            self._forget(target)
        new = [target for target in self._targets if target not in before]
        if new:
            self.reason = "new addresses"
            self._round(new, self._told.repeat)
            if self._told.delay_s:
                self._rounds[_Round.SECOND] = now + self._told.delay_s
        if not (self._told.extra_interval_s and self._extra()):
            self._rounds.pop(_Round.EXTRA, None)
        else:
            self._rounds.setdefault(_Round.EXTRA, now + self._told.extra_interval_s)

    def again(self, now: float, reason: str) -> bool:
        """Somebody else said that the addresses are his: now, and once more after a delay.

        False if nothing came of it: it holds nothing, is told to be silent, or a round for such a reason was just
        sent or is waiting already.
        """
        told = self._told
        if not self._targets or not told.lower_priority_repeat:
            return False
        if told.lower_priority_delay_s:
            self._rounds[_Round.CONFLICT] = now + told.lower_priority_delay_s
        if _Round.AGAIN in self._rounds:
            return False
        self._ready_at = max(self._ready_at, now)
        self.reason = reason
        if now < self._quiet_until:
            self._rounds[_Round.AGAIN] = self._quiet_until
            return True
        self._answer(now)
        return True

    def stop(self) -> None:
        """It is master no more: not one more is sent."""
        for bound in self._queues:
            if bound is not None:
                self._limits.leave(bound, self._who)
        self._targets = ()
        self._rounds.clear()
        self._left.clear()
        self._queues.clear()
        self._quiet_until = float("-inf")

    # --- what is to be sent ---

    @property
    def due(self) -> float | None:
        """When `wake` should be called; None: never. Others that send under the same limit move it."""
        times = list(self._rounds.values())
        for bound in self._queues:
            bound_until = 0.0 if bound is None else self._limits.ready_at(bound, self._who)
            times.append(max(self._ready_at, bound_until))
        return min(times, default=None)

    def wake(self, now: float) -> list[DeviceAddress]:
        """What is to be announced now, in this order: MOST_AT_ONCE at most, the rest when it is woken again."""
        self._begin_rounds(now)
        found: list[DeviceAddress] = []
        for bound in list(self._queues):
            while bound in self._queues and len(found) < BATCH_SIZE:
                if bound is not None:
                    if now < self._limits.ready_at(bound, self._who):
                        break
                    self._limits.sent(bound, self._who, now)
                found.append(self._next(bound))
        self._ready_at = now + BATCH_PAUSE_S if len(found) == BATCH_SIZE else now
        return found

    # --- how ---

    def _begin_rounds(self, now: float) -> None:
        told = self._told
        for kind, at in list(self._rounds.items()):
            if now < at:
                continue
            del self._rounds[kind]
            if kind is _Round.SECOND:
                self._round(self._targets, told.repeat)
            elif kind is _Round.REFRESH:
                self._round(self._targets, told.refresh_repeat)
                self._rounds[kind] = _following(at, told.refresh_s, now)
            elif kind is _Round.EXTRA:
                self._round(self._extra(), 1)
                self._rounds[kind] = _following(at, told.extra_interval_s, now)
            else:
                self._answer(now)

    def _answer(self, now: float) -> None:
        self._quiet_until = now + CONFLICT_INTERVAL_S
        self._round(self._targets, self._told.lower_priority_repeat)

    def _extra(self) -> list[DeviceAddress]:
        """One of each device but the virtual router's own: what keeps the switches' tables fresh."""
        first: dict[str, DeviceAddress] = {}
        for target in self._targets:
            device = target[0]
            if device != self._device and (self._told.extra_everywhere or device in self._vmacs):
                first.setdefault(device, target)
        return list(first.values())

    def _round(self, targets: Sequence[DeviceAddress], repeat: int) -> None:
        for target in targets if repeat > 0 else ():
            if target not in self._left:
                bound = self._limits.bound(*target)
                self._queues.setdefault(bound, deque()).append(target)
                if bound is not None:
                    self._limits.wait(bound, self._who)
            self._left[target] = max(self._left.get(target, 0), repeat)

    def _next(self, bound: LimitKey | None) -> DeviceAddress:
        queue = self._queues[bound]
        target = queue.popleft()
        self._left[target] -= 1
        if self._left[target]:
            queue.append(target)
        else:
            del self._left[target]
            self._tidy(bound)
        return target

    def _forget(self, target: DeviceAddress) -> None:
        if self._left.pop(target, 0):
            bound = self._limits.bound(*target)
            self._queues[bound].remove(target)
            self._tidy(bound)

    def _tidy(self, bound: LimitKey | None) -> None:
        if not self._queues[bound]:
            del self._queues[bound]
            if bound is not None:
                self._limits.leave(bound, self._who)


def _following(at: float, every_s: float, now: float) -> float:
    """The next time after `at`; of a late process, times that have passed are left out."""
    return at + every_s if at + every_s > now else now + every_s
