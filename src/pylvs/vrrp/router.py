"""One virtual router at work: its machine's actions done, its timers kept, what it tracks turned into its priority."""

from __future__ import annotations

import time
from dataclasses import replace

from pylvs.model.addresses import Address
from pylvs.model.vrrp import OWNER, VrrpInstance
from pylvs.vrrp.garp import GarpRateLimit, GarpScheduler
from pylvs.vrrp.loop import Timer
from pylvs.vrrp.ports import HostPort, ServicePort
from pylvs.vrrp.protocol.adverts import AdvertEncoder, AdvertValidator, LogRateLimiter
from pylvs.vrrp.protocol.machine import (
    PRIORITY_STOP,
    Action,
    Advertise,
    Become,
    History,
    Machine,
    MachineSettings,
    State,
    TransitionReason,
)
from pylvs.vrrp.sockets import Datagram, family_of, protocol_of
from pylvs.vrrp.sync_group import SyncGroup
from pylvs.vrrp.tracking import TrackedObject, effective_priority, priority_reasons, tracking_faults

Step = tuple[Machine, list[Action]]
END_STATES = {TransitionReason.STOP: "STOP", TransitionReason.REMOVED: "DELETED"}
SETTLING_INTERVALS = 3  # after a take-over, in which the former master may not have heard of it
STALLED_S = 0.001  # a backup woken so much after its time was stalled: unread advertisements may wait in its socket
DRAIN_S = 0.01  # enough to read a whole socket buffer before the take-over


def machine_settings(instance: VrrpInstance) -> MachineSettings:
    """What the machine is told."""
    return MachineSettings(
        priority=instance.priority,
        interval_s=instance.advert_interval_s,
        version=instance.version,
        preempt=instance.preempt,
        preempt_delay_s=instance.preempt_delay_s,
        down_after_adverts=instance.down_after_adverts,
        lower_priority_unanswered=instance.lower_priority_unanswered,
        higher_priority_answered=instance.higher_priority_answered,
        starts_as_master=instance.starts_as_master,
    )


class Router:
    """One of them, from its instance's first word to its last."""

    def __init__(self, instance: VrrpInstance, world: ServicePort, here: HostPort, limits: GarpRateLimit) -> None:
        self.instance = instance
        self.history = History()
        self.screen: AdvertValidator | None = None  # both while it has an address to speak from
        self.group: SyncGroup | None = None
        self.watched: dict[tuple[str, str], TrackedObject] = {}
        self.wanting = False
        self.own_faults: list[str] = []
        self.heard_from: Address | None = None  # the master that is followed
        self.sent = self.heard = 0
        self.machine = Machine(machine_settings(instance), instance.multicast, priority=instance.priority)
        self._world = world
        self._here = here
        self._limits = limits
        self._running = False
        self._since = 0.0  # of its state
        self._rival: tuple[float, str] | None = None  # who else was heard as master, and until when that counts
        self._grumbler = LogRateLimiter(most_kinds=16)  # anybody may send from any address
        self._voice: AdvertEncoder | None = None
        self._mtu = 0  # that it speaks with
        self._announcer = self._make_announcer()
        self._timer: Timer | None = None
        self._announcing: Timer | None = None
        self._put_off: float | None = None  # the time to take over that `_reads_first` set

    @property
    def name(self) -> str:
        """Its instance's."""
        return self.instance.name

    @property
    def state(self) -> State:
        """Where it is."""
        return self.machine.state

    @property
    def ill(self) -> bool:
        """Whether it has a fault of its own, and does not only wait for what it tracks to be known."""
        unknown = [each.fault for each in self.watched.values() if not each.known]
        return any(fault not in unknown for fault in self.own_faults)

    # --- its life ---

    def start(self) -> None:
        """From now on it takes part; what a former process left on this machine is given up first."""
        if self._running:
            return
        self._here.give_up(self.instance)
        self._running = True
        self.examine()

    def stop(self, why: TransitionReason = TransitionReason.STOP) -> None:
        """The end: the others are told."""
        was_running, self._running = self._running, False
        if self.state is not State.FAULT:
            self._step(self.machine.follow(self._world.now, State.FAULT, why))
        elif was_running and not (
            self.history.last and self.history.last.why in END_STATES
        ):  # its group may have told it
            self._become(Become(State.FAULT, State.FAULT, why))
        self._rest()

    def limit(self, limits: GarpRateLimit) -> None:
        """Announce under these limits from now on."""
        self._limits = limits
        self._announcer.stop()
        self._announcer = self._make_announcer()
        if self.state is State.MASTER:
            self._announcer.begin(self._world.now, self._here.targets_of(self.instance))
            self._announce()

    def change(self, instance: VrrpInstance) -> None:
        """Another word about the same virtual router; its state stays as it is."""
        old, self.instance = self.instance, instance
        self.machine = replace(self.machine, rules=machine_settings(instance))
        if old.priority == OWNER or instance.priority == OWNER:
            self.machine = replace(self.machine, priority=instance.priority)
        if self._voice is not None:
            self._speak_anew(self.machine.address)
        if instance.advert_interval_s != old.advert_interval_s:
            self._step(self.machine.change_pace(self._world.now))
        if self.state is State.MASTER:
            self._here.change(old, instance)
            if instance.announcements != old.announcements:
                self._announcer.stop()
                self._announcer = self._make_announcer()
            self._announcer.change(self._world.now, self._here.targets_of(instance))
            self._announce()
        self.examine()

    # --- what it tracks ---

    def track(self, wanted: dict[tuple[str, str], TrackedObject]) -> None:
        """Everything that it tracks, as it stands; what is not there any more does not count."""
        self.watched = wanted
        if self._running:
            self.examine()
        else:
            self.own_faults = self._find_faults()  # its group starts with them

    def examine(self) -> None:
        """Look again at everything that may be a fault, and at the priority."""
        if not self._running:
            return
        before = bool(self.own_faults)
        self.own_faults = self._find_faults()
        self._speak_as(self._here.source_of(self.instance), self._here.mtu_of(self.instance))
        self._set_priority()
        self._live_or_not()
        if self.group is not None and before != bool(self.own_faults):
            self.group.examine(self)

    def examine_group(self) -> None:
        """Another member's fault came or went."""
        if self._running:
            self._live_or_not()

    def _find_faults(self) -> list[str]:
        instance = self.instance
        found = tracking_faults(self.watched.values())
        if link := self._here.link_fault(instance):
            found.insert(0, link)
        elif self._here.source_of(instance) is None:
            found.insert(0, f"{instance.interface} has no address to speak from")
        if instance.fault_without_peers and not instance.peers:
            found.append("it has no peers")
        return found

    def _live_or_not(self) -> None:
        now = self._world.now
        found = self.own_faults or (self.group.faults_beside(self) if self.group else [])
        if found and self.state is State.FAULT:
            if self.history.last is None and (self.ill or (self.group is not None and self.group.ill_beside(self))):
                self._become(Become(State.FAULT, State.FAULT, TransitionReason.FAULT, "; ".join(found)))
        elif found:
            self._step(self.machine.fail(now, "; ".join(found)))
        elif self.state is State.FAULT:
            self._step(self.machine.recover(now) if self.history.last else self.machine.start(now))
        else:
            self._set_timer()

    def _speak_as(self, source: Address | None, mtu: int) -> None:
        if source is not None and (self._voice is None or source != self.machine.address or mtu != self._mtu):
            self._speak_anew(source)

    def _speak_anew(self, source: Address) -> None:
        self._mtu = self._here.mtu_of(self.instance)
        self._voice = AdvertEncoder(self.instance, source, self._mtu, int(time.time()), self._voice)
        self.screen = AdvertValidator(self.instance, self._voice, self.screen)
        self.machine = replace(self.machine, address=source)

    def _set_priority(self) -> None:
        wanted = effective_priority(self.instance.priority, self.watched.values())
        before = self.machine.priority
        self._step(self.machine.set_priority(self._world.now, wanted))
        if self.machine.priority != before:
            because = priority_reasons(self.watched.values())
            words = f"{self.name}: priority {before} is {self.machine.priority} now{': ' if because else ''}{because}"
            self._world.log("info", words, state=self.state.value)
            self._world.tell("priority", self.name, priority=self.machine.priority, before=before)
            if self.state is not State.FAULT:
                self._world.priority_moved(self.name, self.state.value, self.machine.priority)

    # --- what happens ---

    def hear(self, datagram: Datagram) -> None:
        """An advertisement came, perhaps. Raises Dropped where it is none that counts."""
        if not self._running or self.screen is None:
            return
        now = self._world.now
        told = self.screen.screen(datagram, now)
        if told is None:
            return
        for mismatch in self.screen.take_news():
            if self._grumbler.may(("mismatch", mismatch.sender), now) is not None:
                same = not mismatch.missing and not mismatch.surplus
                self._world.log("info" if same else "warning", f"{self.name}: {mismatch}")
                self._world.tell("mismatch", self.name, words=str(mismatch))
        self.heard += 1
        if self.state is State.MASTER and PRIORITY_STOP < told.priority < self.machine.priority:
            self._world.lower_heard(self.name, self.machine.priority)
        due = self.machine.due
        self._step(self.machine.hear(now, told, datagram.source))
        if self.state is State.BACKUP:
            self.heard_from = datagram.source
            self.wanting = self.wanting and self.machine.due == due  # what is worse puts nothing off
            worse = told.priority < self.machine.priority
            if self.group is not None and not worse and self.group.held_back(self):
                self._world.notify("GROUP", self.group.group.name, State.BACKUP.value, 0, "")

    def yield_until(self, until: float) -> None:
        """Give up, and do not take over before that time."""
        self._step(self.machine.yield_until(self._world.now, until))

    def take_part_again(self) -> None:
        """What the operator said is over."""
        self.machine = replace(self.machine, held_until=None)
        self._set_timer()

    def follow(self, state: State, why: TransitionReason, detail: str) -> None:
        """Go where the group goes."""
        if not self._running or (self.own_faults and state is not State.FAULT):
            return
        self._step(self.machine.follow(self._world.now, state, why, detail))

    def claimed(self, words: str) -> None:
        """Somebody else just said that an address is his, which is told already."""
        if self.state is State.MASTER:
            self._announcer.again(self._world.now, words)
            self._announce()

    @property
    def rival(self) -> str:
        """Who else says that he is master, "" if nobody did lately."""
        until, words = self._rival or (0.0, "")
        return words if self.state is State.MASTER and self._world.now < until else ""

    def holds(self, address: Address) -> bool:
        """Whether it is the master of an address."""
        instance = self.instance
        return self.state is State.MASTER and any(
            each.interface.ip == address for each in (*instance.addresses, *instance.excluded)
        )

    def restore(self) -> None:
        """Hold what somebody removed, and say so to the neighbours."""
        if self.state is State.MASTER:
            self._here.take(self.instance)
            self._announcer.begin(self._world.now, self._here.targets_of(self.instance))
            self._announce()

    def speaks(self, datagram: Datagram) -> bool:
        """Whether a datagram is in its own family and protocol."""
        return family_of(self.instance) == datagram.source.version and protocol_of(self.instance) == datagram.protocol

    def _wake(self) -> None:
        now = self._world.now
        if self._reads_first(now):
            return
        machine, actions = self.machine.wake(now)
        if machine.state is not self.state and machine.state is State.MASTER and self.group is not None:
            self.wanting = True
            if not self.group.may_be_master(self):
                self.machine = replace(self.machine, due=now + self.machine.interval_s)
                self._set_timer()
                return
        self._step((machine, actions))

    def _reads_first(self, now: float) -> bool:
        """Put a late take-over off, once: timers run before sockets are read.

        A process that the host stopped for seconds (a paused virtual machine) has the master's advertisements in its
        socket. Without this it would take the addresses, and give them up a moment later.
        """
        due = self.machine.due
        if self.state is not State.BACKUP or due is None or due == self._put_off or now <= due + STALLED_S:
            return False
        self._put_off = now + DRAIN_S
        self.machine = replace(self.machine, due=self._put_off)
        self._set_timer()
        return True

    # --- what is done ---

    def _step(self, step: Step) -> None:
        self.machine, actions = step
        for action in actions:
            if isinstance(action, Advertise):
                self._advertise(action.priority)
            elif isinstance(action, Become):
                self._become(action)
            else:
                self._again(action.detail)
        self._set_timer()

    def _advertise(self, priority: int) -> None:
        if self._voice is not None:
            self.sent += 1
            self._here.send(self.instance, self._voice.packets(priority))

    def _become(self, become: Become) -> None:
        self.wanting = False
        self._rival = None
        self._since = self._world.now
        if become.state is State.MASTER:
            self.heard_from = None
            self._world.roles_changed()
            self._here.take(self.instance)
            self._announcer.begin(self._world.now, self._here.targets_of(self.instance))
            self._announce()
        elif become.before is State.MASTER:
            self._announcer.stop()
            self._here.give_up(self.instance)
            self._world.roles_changed()
        if become.state is State.FAULT:
            self.heard_from = None
        if become.why is TransitionReason.HIGHER and (because := priority_reasons(self.watched.values())):
            become = replace(become, detail=f"{become.detail}; its own is {self.machine.priority}: {because}")
        transition = self.history.note(time.time(), become, self.machine.priority)
        state = END_STATES.get(become.why, become.state.value)
        way = state if become.before is become.state else f"{become.before.value} to {state}"
        words = f"{self.name}: {way}: {transition.sentence()}"
        self._world.log("warning" if state == "FAULT" else "info", words, priority=self.machine.priority)
        self._world.tell("transition", self.name, **transition.told())
        self._world.notify("INSTANCE", self.name, state, self.machine.priority, become.before.value)
        if self.group is not None and self.group.moved(self, become.before, become.why, transition.sentence()):
            self._world.notify("GROUP", self.group.group.name, state, 0, "")

    def _again(self, words: str) -> None:
        now = self._world.now
        settling = now < self._since + SETTLING_INTERVALS * self.machine.interval_s
        self._rival = now + self.machine.down_s, words
        again = "; its addresses are announced again" if self._announcer.again(now, words) else ""
        before = None if settling else self._grumbler.may("conflict", now)
        if before is not None:
            more = f" ({before} times more since this was last told)" if before else ""
            self._world.log("warning", f"{self.name}: {words}{more}{again}")
            self._world.tell("conflict", self.name, words=words)
        self._announce()

    def _make_announcer(self) -> GarpScheduler:
        device, vmacs = self._here.device_of(self.instance), self._here.bases()
        return GarpScheduler(self.instance.announcements, self._limits, device, vmacs)

    def _announce(self) -> None:
        for device, address in self._announcer.wake(self._world.now):
            self._here.announce(self.instance, device, address)
        if self._announcing is not None:
            self._announcing.cancel()
        due = self._announcer.due
        self._announcing = None if due is None else self._world.at(due, self._announce)

    def _set_timer(self) -> None:
        due = self.machine.due if self._running else None
        if self._timer is not None:
            if self._timer.when == due and self._timer.call is not None:
                return
            self._timer.cancel()
        self._timer = None if due is None else self._world.at(due, self._wake)

    def _rest(self) -> None:
        for timer in (self._timer, self._announcing):
            if timer is not None:
                timer.cancel()
