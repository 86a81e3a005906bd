"""One virtual router's state machine (RFC 9568, 6.4), pure: what happens goes in, what is to be done comes out.

Times are seconds of any clock that only goes forward; the caller gives it and wakes the machine at `due`. The machine
keeps no addresses, sends nothing and waits for nothing. Every transition has a reason in words.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import OWNER
from pylvs.vrrp.protocol.packet import Advertisement, address_order

PRIORITY_STOP = 0  # the priority of a master that gives up


class State(Enum):
    """Where a virtual router is."""

    FAULT = "FAULT"  # also before its start and after its end
    BACKUP = "BACKUP"
    MASTER = "MASTER"


class TransitionReason(Enum):
    """What decided a transition."""

    START = "start"
    TIMER = "no advertisement came in time"
    BETTER = "it is better than the master that was heard"
    OWNER = "it owns the addresses"
    RELEASED = "the master gave up"
    HIGHER = "an advertisement of higher priority came"
    GREATER_ADDRESS = "an advertisement of the same priority came from a greater address"
    FAULT = "something that is tracked failed"
    RECOVERED = "everything that is tracked is well again"
    YIELD = "the operator's word"
    GROUP = "its group"
    REMOVED = "the configuration has it no more"
    STOP = "the end"


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """What a virtual router is told, as far as its states are concerned."""

    priority: int = 100
    interval_s: float = 1.0
    version: int = 2
    preempt: bool = True
    preempt_delay_s: float = 0.0
    down_after_adverts: int = 3
    lower_priority_unanswered: bool = False  # a master does not answer those of lower priority at once
    higher_priority_answered: bool = False  # a master that gives way says so once more before
    starts_as_master: bool = False


@dataclass(frozen=True, slots=True)
class Advertise:
    """Send an advertisement with this priority."""

    priority: int


@dataclass(frozen=True, slots=True)
class Become:
    """Take the addresses (MASTER) or give them up."""

    state: State
    before: State
    why: TransitionReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reannounce:
    """Send gratuitous ARP or neighbour advertisements again: somebody else just said that the addresses are his."""

    detail: str = ""


Action = Advertise | Become | Reannounce


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual router at one moment; every method gives the next one and what is to be done.

    `priority` is the effective one. `due` is when `wake` must be called, None for never. `heard_interval_s` is the
    master's (version 3 takes it over), `held_until` keeps it passive after the operator's word.
    """

    rules: MachineSettings
    address: Address  # its own, which breaks ties
    state: State = State.FAULT
    priority: int = 100
    due: float | None = None
    heard_interval_s: float = 0.0
    preempt_at: float | None = None  # when a better router may take over from the one that is heard
    held_until: float | None = None
    released_by: Address | None = None  # who gave up, and nobody was heard since
    worse: str = ""  # the master that was heard last, where this one is better and may take over

    # --- what follows from the rules ---

    @property
    def interval_s(self) -> float:
        """Between two advertisements of the master that is followed."""
        return self.heard_interval_s if self.rules.version == 3 and self.heard_interval_s else self.rules.interval_s

    @property
    def skew_s(self) -> float:
        """The better the priority, the sooner: RFC 3768 counts in seconds, RFC 9568 in the master's interval."""
        share = (256 - self.priority) / 256
        return share * (self.interval_s if self.rules.version == 3 else 1.0)

    @property
    def down_s(self) -> float:
        """Without an advertisement for so long, the master is down."""
        return self.rules.down_after_adverts * self.interval_s + self.skew_s

    # --- what happens ---

    def start(self, now: float) -> tuple[Machine, list[Action]]:
        """Everything that is tracked is well: begin (RFC 9568, 6.4.1)."""
        return self._enter(now, TransitionReason.START)

    def recover(self, now: float) -> tuple[Machine, list[Action]]:
        """What was at fault is well again."""
        return self._enter(now, TransitionReason.RECOVERED) if self.state is State.FAULT else (self, [])

    def fail(
        self, now: float, detail: str = "", why: TransitionReason = TransitionReason.FAULT
    ) -> tuple[Machine, list[Action]]:
        """Something that is tracked failed, or this is the end: a master says that it gives up."""
        if self.state is State.FAULT:
            return self, []
        actions: list[Action] = [Advertise(PRIORITY_STOP)] if self.state is State.MASTER else []
        changed, become = self._to(State.FAULT, why, detail)
        return replace(changed, due=None, preempt_at=None), [*actions, become]

    def stop(self, now: float) -> tuple[Machine, list[Action]]:
        """The end."""
        return self.fail(now, why=TransitionReason.STOP)

    def wake(self, now: float) -> tuple[Machine, list[Action]]:
        """The time `due` has come; harmless at any other."""
        if self.due is None or now < self.due:
            return self, []
        if self.state is State.MASTER:
            return replace(self, due=now + self.rules.interval_s), [Advertise(self.priority)]
        if self.held_until is not None and now < self.held_until:
            return replace(self, due=min(self.held_until, now + self.down_s)), []
        if self.released_by is not None:
            return self._master(now, TransitionReason.RELEASED, str(self.released_by))
        if self.worse:
            return self._master(now, TransitionReason.BETTER, self.worse)
        return self._master(now, TransitionReason.TIMER, f"for {self.down_s:.3g} s")

    def hear(self, now: float, told: Advertisement, source: Address) -> tuple[Machine, list[Action]]:
        """A good advertisement of another router came (RFC 9568, 6.4.2 and 6.4.3)."""
        if self.state is State.BACKUP:
            return self._heard_as_backup(now, told, source)
        if self.state is State.MASTER:
            return self._heard_as_master(now, told, source)
        return self, []

    def set_priority(self, now: float, priority: int) -> tuple[Machine, list[Action]]:
        """What is tracked changed the priority; an owner's never changes."""
        if self.rules.priority == OWNER or priority == self.priority:
            return self, []
        return replace(self, priority=max(1, min(OWNER - 1, priority))), []

    def change_pace(self, now: float) -> tuple[Machine, list[Action]]:
        """The interval is another one: a master keeps it from now on, and nobody misses the former one."""
        if self.state is State.MASTER:
            return replace(self, due=now), []
        return (self if self.due is None else replace(self, due=now + self.down_s)), []

    def yield_until(self, now: float, until: float) -> tuple[Machine, list[Action]]:
        """Give up, and do not take over before that time."""
        held = replace(self, held_until=until)
        if self.state is not State.MASTER:
            return held, []
        return held._backup(now, TransitionReason.YIELD, "", [Advertise(PRIORITY_STOP)])

    def follow(
        self, now: float, state: State, why: TransitionReason = TransitionReason.GROUP, detail: str = ""
    ) -> tuple[Machine, list[Action]]:
        """Go where the group goes."""
        if state is self.state:
            return self, []
        if state is State.MASTER:
            return self._master(now, why, detail)
        if state is State.FAULT:
            return self.fail(now, detail, why)
        return self._backup(now, why, detail, [Advertise(PRIORITY_STOP)] if self.state is State.MASTER else [])

    # --- how ---

    def _enter(self, now: float, why: TransitionReason) -> tuple[Machine, list[Action]]:
        if self.rules.priority == OWNER:
            return self._master(now, TransitionReason.OWNER)
        changed, become = self._to(State.BACKUP, why)
        fresh = replace(changed, heard_interval_s=0.0, preempt_at=None)
        return replace(fresh, due=now + fresh.down_s), [become]

    def _to(self, state: State, why: TransitionReason, detail: str = "") -> tuple[Machine, Become]:
        return replace(self, state=state), Become(state, self.state, why, detail)

    def _master(self, now: float, why: TransitionReason, detail: str = "") -> tuple[Machine, list[Action]]:
        changed, become = self._to(State.MASTER, why, detail)
        fresh = replace(
            changed,
            due=now + self.rules.interval_s,
            heard_interval_s=0.0,
            preempt_at=None,
            held_until=None,
            released_by=None,
            worse="",
        )
        return fresh, [Advertise(self.priority), become]

    def _backup(
        self, now: float, why: TransitionReason, detail: str, before: Iterable[Action] = (), heard_s: float = 0.0
    ) -> tuple[Machine, list[Action]]:
        changed, become = self._to(State.BACKUP, why, detail)
        fresh = replace(changed, heard_interval_s=heard_s, preempt_at=None, worse="")
        return replace(fresh, due=now + fresh.down_s), [*before, become]

    def _heard_as_backup(self, now: float, told: Advertisement, source: Address) -> tuple[Machine, list[Action]]:
        heard = replace(self, heard_interval_s=told.interval_s, released_by=None, worse="")
        if told.priority == PRIORITY_STOP:
            return replace(heard, due=now + heard.skew_s, preempt_at=None, released_by=source), []
        if told.priority >= self.priority or not self.rules.preempt:
            return replace(heard, due=now + heard.down_s, preempt_at=None), []
        if self.held_until is not None and now < self.held_until:
            return replace(heard, due=now + heard.down_s), []
        worse = f"{source} with priority {told.priority}"
        if not self.rules.preempt_delay_s:  # the one heard is worse: its advertisements count for nothing
            return replace(self, preempt_at=None, released_by=None, worse=worse), []
        begin = now + self.rules.preempt_delay_s if self.preempt_at is None else self.preempt_at
        if now >= begin:
            return replace(self, preempt_at=begin, worse=worse), []
        return replace(heard, preempt_at=begin, due=now + heard.down_s), []

    def _heard_as_master(self, now: float, told: Advertisement, source: Address) -> tuple[Machine, list[Action]]:
        if told.priority == PRIORITY_STOP:
            return replace(self, due=now + self.rules.interval_s), [Advertise(self.priority)]
        equal = told.priority == self.priority
        if told.priority > self.priority or (equal and address_order(source) > address_order(self.address)):
            why = TransitionReason.GREATER_ADDRESS if equal else TransitionReason.HIGHER
            last: list[Action] = [Advertise(self.priority)] if self.rules.higher_priority_answered else []
            return self._backup(now, why, f"{source} with priority {told.priority}", last, told.interval_s)
        conflict = Reannounce(f"{source} with priority {told.priority} holds the addresses as well")
        if self.rules.lower_priority_unanswered:
            return self, [conflict]
        return replace(self, due=now + self.rules.interval_s), [Advertise(self.priority), conflict]


# --- history ---------------------------------------------------------------------------------------------------------
# What a virtual router went through: its last transitions with their reasons.


HISTORY_LENGTH = 64  # transitions


@dataclass(frozen=True, slots=True)
class Transition:
    """One of them; `at` is wall clock."""

    at: float
    before: State
    state: State
    why: TransitionReason
    detail: str
    priority: int

    def sentence(self) -> str:
        """Why, in words."""
        return f"{self.why.value}: {self.detail}" if self.detail else self.why.value

    def told(self) -> dict[str, Any]:
        """For those who ask."""
        return {
            "time": self.at,
            "before": self.before.value,
            "state": self.state.value,
            "why": self.why.value,
            "detail": self.detail,
            "priority": self.priority,
        }


class History:
    """The last of them, and how often each state was entered."""

    def __init__(self) -> None:
        self.transitions: deque[Transition] = deque(maxlen=HISTORY_LENGTH)
        self.entered: Counter[State] = Counter()

    def note(self, at: float, become: Become, priority: int) -> Transition:
        """One more."""
        transition = Transition(at, become.before, become.state, become.why, become.detail, priority)
        self.transitions.append(transition)
        self.entered[become.state] += 1
        return transition

    @property
    def last(self) -> Transition | None:
        """The newest."""
        return self.transitions[-1] if self.transitions else None
