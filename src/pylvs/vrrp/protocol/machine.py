"""One virtual router's state machine (RFC 9568, 6.4), pure: events go in, the next state and actions come out.

Times are seconds of a monotonic clock. The caller passes the time and calls `wake` at `due`. The machine holds no
addresses, sends nothing and waits for nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from enum import Enum
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.vrrp import OWNER, VrrpInstance
from pylvs.vrrp.protocol.adverts import Advertisement, address_order

PRIORITY_STOP = 0  # in the last advertisement of a master (RFC 9568, 5.2.4)
HISTORY_LENGTH = 64  # transitions
# Without copies of connections, a take-over from a master that lives resets all of them. So one whose advertisements
# are late, as on a busy machine, is not taken for dead before so much silence.
LEAST_SILENCE_S = 1.0
LEARNT_TIMES = 10  # its own interval: the longest that one advertisement sets, without max_advert_int


class State(Enum):
    """The states of RFC 9568, with keepalived's FAULT for Initialize."""

    FAULT = "FAULT"  # also before the start and after the end
    BACKUP = "BACKUP"
    MASTER = "MASTER"


class TransitionReason(Enum):
    """The values appear in status, events and the documentation."""

    START = "start"
    TIMER = "no advertisement came in time"
    BETTER = "it is better than the present master"
    OWNER = "it owns the addresses"
    RELEASED = "the master gave up"
    HIGHER = "an advertisement of higher priority came"
    GREATER_ADDRESS = "an advertisement of the same priority came from a greater address"
    FAULT = "something that is tracked failed"
    RECOVERED = "everything that is tracked is up again"
    YIELD = "yielded by the operator"
    GROUP = "its group"
    REMOVED = "the configuration has it no more"
    STOP = "the end"


@dataclass(frozen=True, slots=True)
class Advertise:
    """Send an advertisement with this priority."""

    priority: int


@dataclass(frozen=True, slots=True)
class Become:
    """Enter a state: MASTER adds the addresses, leaving it removes them."""

    state: State
    before: State
    why: TransitionReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reannounce:
    """Send gratuitous ARP or neighbour advertisements again, because another master advertises, or `released`.

    The other master may have announced the addresses, too.
    """

    detail: str = ""
    released: bool = False  # it has just given up


Action = Advertise | Become | Reannounce
Step = tuple["Machine", list[Action]]
Rank = tuple[int, tuple[int, int]]  # priority, and the order of the address: the greater one becomes master
NONE: Rank = (0, (0, 0))


def rank_of(advert: Advertisement, source: Address) -> Rank:
    """Return what decides between two masters (RFC 9568, 6.4.3)."""
    return advert.priority, address_order(source)


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual router at one moment; every method returns the next moment and the actions.

    `priority` is the effective one. `due` is when to call `wake`; None is never.
    """

    instance: VrrpInstance
    address: Address  # the primary address, which breaks ties
    state: State = State.FAULT
    priority: int = 100
    due: float | None = None
    master_interval_s: float = 0.0  # advertised by the master; version 3 adopts it
    best: Rank = NONE  # the highest that this backup has received since its last master left
    preempt_at: float | None = None  # when this router may take over from a master of lower priority
    held_until: float | None = None  # no take-over before this time, by `pylvs vrrp yield`
    delayed_until: float = 0.0  # a backup's timers begin at this time, by vrrp_startup_delay
    released_by: Address | None = None  # the last advertisement had priority 0
    outranked: str = ""  # the last advertised master, where this router has the higher priority and may take over
    over_limit: tuple[Address, float, float] | None = None  # sender and interval of an advertisement, and its time
    answered_at: float = float("-inf")  # when this master last answered another router's advertisement
    copy_wait_s: float = 0.0  # how long it may wait for copies of connections before it preempts; 0: never
    copied: bool = False  # since it last became backup, all connections of the other director were copied
    copied_by: float | None = None  # the end of that wait, from the first advertisement of lower priority on
    table_by: float | None = None  # not master before this host has its first table, or before this time
    overdue: bool = False  # the timer has expired since: it waits for the table alone

    @property
    def interval_s(self) -> float:
        """The advertisement interval of the master that this router follows."""
        if self.instance.version == 3 and self.master_interval_s:
            return self.master_interval_s
        return self.instance.advert_interval_s

    @property
    def skew_s(self) -> float:
        """Skew_Time: of a second in RFC 3768, of the master's interval in RFC 9568 (6.1)."""
        share = (256 - self.priority) / 256
        return share * (self.interval_s if self.instance.version == 3 else 1.0)

    @property
    def down_s(self) -> float:
        """Active_Down_Interval (RFC 9568, 6.1)."""
        return self.instance.down_after_adverts * self.interval_s + self.skew_s

    @property
    def _starts_as_owner(self) -> bool:
        return self.instance.priority == OWNER and self.instance.starts_as_master

    def _down_at(self, now: float) -> float:
        """Return when the timer of a backup expires that begins now, or at the end of vrrp_startup_delay."""
        return max(now, self.delayed_until) + self.down_s

    def _down_without_copy_at(self, now: float) -> float:
        """Return the same for a router that may lack connections of the other director."""
        due = self._down_at(now)
        return max(due, now + LEAST_SILENCE_S) if self.copy_wait_s else due

    def start(self, now: float, why: TransitionReason = TransitionReason.START) -> Step:
        """Leave Initialize (RFC 9568, 6.4.1), or FAULT. As keepalived's, an owner with `state BACKUP` listens first."""
        owns = self._starts_as_owner and self._yields_until(now) is None and not self.copy_wait_s
        if owns and now >= self.delayed_until and not self.awaits_table(now):
            return self._master(now, TransitionReason.OWNER)
        forgotten: dict[str, Any] = {"master_interval_s": 0.0, "preempt_at": None, "released_by": None, "outranked": ""}
        fresh, become = self._to(State.BACKUP, why, best=NONE, **forgotten)
        return replace(fresh, due=max(now, self.delayed_until) if owns else fresh._down_without_copy_at(now)), [become]

    def fail(self, now: float, detail: str = "", why: TransitionReason = TransitionReason.FAULT) -> Step:
        """Enter FAULT; a master advertises priority 0."""
        if self.state is State.FAULT:
            return self, []
        actions: list[Action] = [Advertise(PRIORITY_STOP)] if self.state is State.MASTER else []
        failed, become = self._to(State.FAULT, why, detail, due=None, preempt_at=None)
        return failed, [*actions, become]

    def wake(self, now: float) -> Step:
        """Handle the timer `due`; without effect before it."""
        if self.due is None or now < self.due:
            return self, []
        if self.state is State.MASTER:
            interval_s = self.instance.advert_interval_s
            answered_at = now if now < self.answered_at + interval_s else self.answered_at
            return replace(self, due=now + interval_s, answered_at=answered_at), [Advertise(self.priority)]
        if self.awaits_table(now):
            return replace(self, due=self.table_by, overdue=True), []
        if (until := self._yields_until(now)) is not None:
            return replace(self, due=min(until, now + self.down_s)), []
        if self.released_by is not None:
            return self._master(now, TransitionReason.RELEASED, str(self.released_by))
        if self.outranked:
            return self._master(now, TransitionReason.BETTER, self.outranked)
        if self._starts_as_owner and (self.overdue or now < self.delayed_until + self.down_s):
            return self._master(now, TransitionReason.OWNER)
        lacks = self.copied_by is not None and self.awaits_copy(now)
        silent_s = max(self.down_s, LEAST_SILENCE_S) if lacks else self.down_s
        return self._master(now, TransitionReason.TIMER, f"for {silent_s:.3g} s")

    def receive(self, now: float, advert: Advertisement, source: Address) -> Step:
        """Handle a valid advertisement (RFC 9568, 6.4.2 and 6.4.3)."""
        if self.state is State.BACKUP:
            backup = replace(self, due=now, overdue=False) if self.overdue else self
            return backup._receive_as_backup(now, advert, source)
        if self.state is State.MASTER:
            return self._receive_as_master(now, advert, source)
        return self, []

    def change_interval(self, now: float) -> Step:
        """Restart the timer after a reload changed the interval; a master advertises immediately."""
        if self.state is State.MASTER:
            return replace(self, due=now), []
        return (self if self.due is None else replace(self, due=self._down_at(now))), []

    def awaits_table(self, now: float) -> bool:
        """Return whether this host lacks its first table, so that packets to a master would meet no service."""
        return self.table_by is not None and now < self.table_by

    def serve(self, now: float) -> Machine:
        """End the wait for the first table: it is complete."""
        return replace(self, table_by=None, due=now if self.overdue else self.due)

    def yield_until(self, now: float, until: float) -> Step:
        """Become backup, and do not take over before that time."""
        held = replace(self, held_until=until)
        return held.follow(now, State.BACKUP, TransitionReason.YIELD) if self.state is State.MASTER else (held, [])

    def follows_lower(self, now: float) -> bool:
        """Return whether a backup's timer restarts with an advertisement of lower priority."""
        waits = self.instance.preempt_delay_s > 0 or self._yields_until(now) is not None or self.awaits_copy(now)
        return not self.instance.preempt or waits

    def awaits_copy(self, now: float) -> bool:
        """Return whether it does not preempt yet, because connections of the other director are not copied.

        A take-over from a master that does not advertise any more never waits longer than LEAST_SILENCE_S.
        """
        over = self.copied_by is not None and now >= self.copied_by
        return self.state is State.BACKUP and self.copy_wait_s > 0 and not self.copied and not over

    def _yields_until(self, now: float) -> float | None:
        """Return the end of a yield that lasts; None if there is none."""
        return self.held_until if self.held_until is not None and now < self.held_until else None

    def follow(
        self, now: float, state: State, why: TransitionReason = TransitionReason.GROUP, detail: str = ""
    ) -> Step:
        """Enter the state of the sync group."""
        if state is self.state:
            return self, []
        if state is State.MASTER:
            return self._master(now, why, detail)
        if state is State.FAULT:
            return self.fail(now, detail, why)
        return self._backup(now, why, detail, [Advertise(PRIORITY_STOP)] if self.state is State.MASTER else [])

    def _to(self, state: State, why: TransitionReason, detail: str = "", **fields: Any) -> tuple[Machine, Become]:
        fresh = replace(self, state=state, copied=False, copied_by=None, overdue=False, **fields)
        return fresh, Become(state, self.state, why, detail)

    def _master(self, now: float, why: TransitionReason, detail: str = "") -> Step:
        due = now + self.instance.advert_interval_s
        cleared: dict[str, Any] = {"preempt_at": None, "held_until": None, "released_by": None, "outranked": ""}
        cleared |= {"answered_at": float("-inf"), "master_interval_s": 0.0}
        fresh, become = self._to(State.MASTER, why, detail, due=due, **cleared)
        return fresh, [Advertise(self.priority), become]

    def _backup(
        self,
        now: float,
        why: TransitionReason,
        detail: str,
        before: Iterable[Action] = (),
        master_interval_s: float = 0.0,
        best: Rank = NONE,
    ) -> Step:
        fields = {"master_interval_s": master_interval_s, "best": best, "preempt_at": None, "outranked": ""}
        fresh, become = self._to(State.BACKUP, why, detail, **fields)
        return replace(fresh, due=fresh._down_at(now)), [*before, become]

    def _learn(self, now: float, advert: Advertisement, source: Address) -> tuple[Machine, float]:
        """Return the interval to adopt: up to the limit, or what a router repeats after half of that interval.

        A single advertisement, forged or of a router that left, could otherwise leave the virtual router without a
        master for two minutes.
        """
        interval_s, own_s = advert.interval_s, self.instance.advert_interval_s
        limit_s = max(own_s, self.instance.max_interval_s or LEARNT_TIMES * own_s)
        if self.instance.version == 2 or interval_s <= limit_s:
            return self, interval_s
        if self.over_limit is None or self.over_limit[:2] != (source, interval_s):
            return replace(self, over_limit=(source, interval_s, now)), limit_s
        return self, interval_s if now >= self.over_limit[2] + interval_s / 2 else limit_s

    def _receive_as_backup(self, now: float, advert: Advertisement, source: Address) -> Step:
        followed, interval_s = self._learn(now, advert, source)  # mostly unchanged
        if self.master_interval_s != interval_s or self.released_by is not None or self.outranked:
            followed = replace(followed, master_interval_s=interval_s, released_by=None, outranked="")
        if advert.priority == PRIORITY_STOP:
            due = max(now, self.delayed_until) + followed.skew_s
            return replace(followed, due=due, released_by=source, best=NONE), []
        due, rank = followed._down_at(now), rank_of(advert, source)
        if rank < self.best and self.due is not None:
            due = max(due, self.due)  # of a master that stepped down: its shorter interval does not shorten the wait
        elif rank > self.best:
            followed = replace(followed, best=rank)
        if advert.priority >= self.priority or not self.instance.preempt:
            return replace(followed, due=due, preempt_at=None, copied_by=None), []
        if self._yields_until(now) is not None:
            return replace(followed, due=due), []
        copied_by = now + self.copy_wait_s if self.copied_by is None else self.copied_by
        waits = replace(self, copied_by=copied_by).awaits_copy(now)
        outranked = f"{source} with priority {advert.priority}"
        delay_s = self.instance.preempt_delay_s
        soon = self.due
        if self.copy_wait_s and soon is not None:
            soon = min(soon, self._down_at(now))  # without LEAST_SILENCE_S
        if not delay_s and not waits:  # a lower priority does not restart the timer (RFC 9568, 6.4.2)
            fields: dict[str, Any] = {"preempt_at": None, "released_by": None, "copied_by": copied_by}
            return replace(self, outranked=outranked, due=soon, **fields), []
        preempt_at = self.preempt_at
        if delay_s and preempt_at is None:
            preempt_at = now + delay_s
        if not waits and preempt_at is not None and now >= preempt_at:
            return replace(self, preempt_at=preempt_at, copied_by=copied_by, outranked=outranked, due=soon), []
        if waits:
            due = max(due, followed._down_without_copy_at(now))
        return replace(followed, preempt_at=preempt_at, copied_by=copied_by, due=due), []

    def _receive_as_master(self, now: float, advert: Advertisement, source: Address) -> Step:
        if advert.priority == PRIORITY_STOP:
            answered, actions = self._answer(now)
            return answered, [*actions, Reannounce(released=True)]
        equal = advert.priority == self.priority
        if advert.priority > self.priority or (equal and address_order(source) > address_order(self.address)):
            why = TransitionReason.GREATER_ADDRESS if equal else TransitionReason.HIGHER
            last: list[Action] = [Advertise(self.priority)] if self.instance.higher_priority_answered else []
            detail, rank = f"{source} with priority {advert.priority}", rank_of(advert, source)
            learnt, interval_s = self._learn(now, advert, source)
            return learnt._backup(now, why, detail, last, interval_s, rank)
        conflict = Reannounce(f"{source} with priority {advert.priority} holds the addresses as well")
        if self.instance.lower_priority_unanswered:
            return self, [conflict]
        answered, actions = self._answer(now)
        return answered, [*actions, conflict]

    def _answer(self, now: float) -> Step:
        """Advertise now. After a recent answer, do so half an interval later: one answer reaches all other routers.

        So a flood of advertisements does not become another one.
        """
        interval_s = self.instance.advert_interval_s
        soonest = self.answered_at + interval_s / 2
        if now >= soonest:
            return replace(self, due=now + interval_s, answered_at=now), [Advertise(self.priority)]
        return replace(self, due=soonest if self.due is None else min(self.due, soonest)), []


@dataclass(frozen=True, slots=True)
class Transition:
    """A state change that happened."""

    at: float  # Unix time
    become: Become
    priority: int

    def sentence(self) -> str:
        """Return the reason as text."""
        why, detail = self.become.why.value, self.become.detail
        return f"{why}: {detail}" if detail else why

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of status and events."""
        return {
            "time": self.at,
            "before": self.become.before.value,
            "state": self.become.state.value,
            "why": self.become.why.value,
            "detail": self.become.detail,
            "priority": self.priority,
        }


class History:
    """The last transitions of one virtual router, how often it entered each state, and what MIBs show of them."""

    def __init__(self) -> None:
        self.transitions: deque[Transition] = deque(maxlen=HISTORY_LENGTH)
        self.entered: Counter[State] = Counter()
        self.initialized_at: float | None = None  # Unix time when it last left FAULT; None in FAULT
        self.master_why: TransitionReason | None = None  # of the last transition to MASTER

    def record(self, at: float, become: Become, priority: int) -> Transition:
        """Append a transition."""
        transition = Transition(at, become, priority)
        self.transitions.append(transition)
        self.entered[become.state] += 1
        if become.state is State.FAULT:
            self.initialized_at = None
        elif become.before is State.FAULT:
            self.initialized_at = at
        if become.state is State.MASTER:
            self.master_why = become.why
        return transition

    @property
    def last(self) -> Transition | None:
        """The newest transition."""
        return self.transitions[-1] if self.transitions else None
