"""A virtual router: carries out its machine's actions, keeps timers, derives priority and faults; and sync groups."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from pylvs.model.addresses import Address
from pylvs.model.dataclass import replace
from pylvs.model.vrrp import OWNER, VrrpGroup, VrrpInstance
from pylvs.vrrp.garp import GarpRateLimit, GarpScheduler
from pylvs.vrrp.helper.link import LowerPriorityReceived, PriorityChanged, StateChanged
from pylvs.vrrp.loop import RateLimiter, Timer
from pylvs.vrrp.protocol.adverts import AdvertEncoder, AdvertValidator, Datagram
from pylvs.vrrp.protocol.machine import PRIORITY_STOP, Advertise, Become, History, Machine, State, TransitionReason
from pylvs.vrrp.sockets import family_of, protocol_of
from pylvs.vrrp.tracking import TrackedObject, effective_priority, priority_reasons

if TYPE_CHECKING:
    from pylvs.vrrp.loop import Call
    from pylvs.vrrp.protocol.machine import Step
    from pylvs.vrrp.vip_manager import VipManager

END_STATES = {TransitionReason.STOP: "STOP", TransitionReason.REMOVED: "DELETED"}
SETTLING_INTERVALS = 3  # after a take-over, during which the former master sends its last advertisement, or more
STALLED_S = 0.001  # a backup whose timer is later than this was stalled: its socket may hold unread advertisements
DRAIN_S = 0.01  # enough to read a full socket buffer before the take-over
MAX_DEFERRALS = 3  # of one take-over: on a busy host every timer may be late


class Service(Protocol):
    """What a router needs of the `RouterService` that has it."""

    @property
    def now(self) -> float: ...
    def at(self, when: float, call: Call) -> Timer: ...
    def roles_changed(self) -> None: ...
    def log(self, level: str, text: str, about: str = "", **fields: Any) -> None: ...
    def publish(self, event: str, instance: str, **fields: Any) -> None: ...
    def notify(
        self, message: StateChanged | PriorityChanged | LowerPriorityReceived, router: Router | None = None
    ) -> None: ...


class Router:
    """A virtual router between its instance's first and last configuration."""

    def __init__(self, instance: VrrpInstance, service: Service, host: VipManager, limits: GarpRateLimit) -> None:
        self.instance = instance
        self.history = History()
        self.validator: AdvertValidator | None = None  # None until the device has a source address
        self.group: SyncGroup | None = None
        self.tracked: dict[tuple[str, str], TrackedObject] = {}
        self.waiting = False  # for the other members of its group to become master
        self.own_faults: list[str] = []
        self.master: Address | None = None  # that a backup follows
        self.master_priority = 0  # of the last advertisement of another router
        self.sent = self.received = self.zero_sent = self.zero_received = 0
        self.released = 0  # times that it ceased to be MASTER
        self.machine = Machine(instance, instance.multicast, priority=instance.priority)
        self._service = service
        self._host = host
        self._limits = limits
        self._running = False
        self._had_faults = False  # its own, or those of its group
        self._since = 0.0  # of its state
        self._waited = False  # for copies of connections, at the last advertisement
        self._rival: tuple[float, str] | None = None  # another master: until when that counts, and a message
        self._log_limiter = RateLimiter(max_kinds=16)  # kinds contain addresses, which anyone can forge
        self._encoder: AdvertEncoder | None = None
        self._mtu = 0
        self.wait_s = 0.0  # from the last change of the timer to its time
        self._garp = self._make_garp_scheduler()
        self._timer: Timer | None = None
        self._garp_timer: Timer | None = None
        self._deferred_until: float | None = None  # the take-over time that `_defer_if_stalled` set
        self._deferrals = 0  # of that take-over

    @property
    def name(self) -> str:
        """The name of the instance."""
        return self.instance.name

    @property
    def state(self) -> State:
        """The state of the machine."""
        return self.machine.state

    @property
    def follows_lower(self) -> bool:
        """Whether it is a backup that waits while a master of lower priority advertises."""
        return self.state is State.BACKUP and self.machine.follows_lower(self._service.now)

    @property
    def failures(self) -> list[str]:
        """Its own faults without the tracked objects that have no result yet."""
        unknown = [each.fault for each in self.tracked.values() if not each.known]
        return [fault for fault in self.own_faults if fault not in unknown]

    @property
    def rival(self) -> str:
        """The other master that advertised lately, "" if there was none."""
        until, text = self._rival or (0.0, "")
        return text if self.state is State.MASTER and self._service.now < until else ""

    @property
    def master_why(self) -> str:
        """Why it became master the last time, "" if it never did; with a group, the reason of the member that led."""
        why = self.history.master_why
        if why is TransitionReason.GROUP and self.group is not None:
            members = [each for each in self.group.members if each.state is self.state]  # others may not have followed
            reasons = (each.history.master_why for each in members)
            why = next((each for each in reasons if each not in (None, why)), why)
        return why.value if why else ""

    def start(self, delayed_until: float = 0.0, table_by: float | None = None) -> None:
        """Remove what a former process left on this host, and start the machine when no fault prevents it.

        `delayed_until`: it may be master some time after this one, by vrrp_startup_delay. `table_by`: not before this
        time, unless `serve` is called.
        """
        if self._running:
            return
        self.machine = replace(self.machine, delayed_until=delayed_until, table_by=table_by)
        self._host.remove_resources(self.instance)
        self._running = True
        self.evaluate()

    def stop(self, why: TransitionReason = TransitionReason.STOP) -> None:
        """Enter FAULT permanently, and notify."""
        was_running, self._running = self._running, False
        if self.state is not State.FAULT:
            self._step(self.machine.follow(self._service.now, State.FAULT, why))
        elif was_running and not ((last := self.history.last) and last.become.why in END_STATES):  # its group may have
            self._become(Become(State.FAULT, State.FAULT, why))
        for timer in (self._timer, self._garp_timer):
            if timer is not None:
                timer.cancel()

    def set_limits(self, limits: GarpRateLimit) -> None:
        """Announce under these limits; a master begins again."""
        self._limits = limits
        self._garp.stop()
        self._garp = self._make_garp_scheduler()
        if self.state is State.MASTER:
            self._announce_all()

    def reconfigure(self, instance: VrrpInstance) -> None:
        """Apply a reload without a change of state."""
        old, self.instance = self.instance, instance
        self.machine = replace(self.machine, instance=instance)
        if old.priority == OWNER or instance.priority == OWNER:
            self.machine = replace(self.machine, priority=instance.priority)
        if self._encoder is not None:
            self._set_source(self.machine.address)
        if instance.advert_interval_s != old.advert_interval_s:
            self._step(self.machine.change_interval(self._service.now))
        if self.state is State.MASTER:
            self._host.replace_resources(instance)
            if instance.announcements != old.announcements:
                self._garp.stop()
                self._garp = self._make_garp_scheduler()
                self._announce_all()
            else:
                self._garp.change(self._service.now, self._host.announced_addresses(instance))
                self._announce()
        self.evaluate()

    def track(self, tracked: dict[tuple[str, str], TrackedObject]) -> None:
        """Replace the results of all tracked objects."""
        self.tracked = tracked
        self.evaluate()

    def evaluate(self) -> None:
        """Derive faults, source address and priority anew."""
        had_faults = bool(self.own_faults)
        source, mtu = self._host.source_of(self.instance), self._host.mtu_of(self.instance)
        self.own_faults = self._find_faults(source)  # also for a group that is created before the start
        if not self._running:
            return
        if source is not None and (self._encoder is None or source != self.machine.address or mtu != self._mtu):
            self._set_source(source)
        self._set_priority()
        self._enter_or_leave_fault()
        if self.group is not None and had_faults != bool(self.own_faults):
            self.group.faults_changed(self)

    def evaluate_group(self) -> None:
        """Handle a change of another member's faults."""
        if self._running:
            self._enter_or_leave_fault()

    def _find_faults(self, source: Address | None) -> list[str]:
        """Return why it must not run. An object without a result keeps it from starting, but ends no mastership.

        A reload that adds such an object says nothing about this host, as in keepalived.
        """
        instance, runs = self.instance, self.state is not State.FAULT
        counted = (each for each in self.tracked.values() if each.known or not runs)
        faults = [fault for each in counted if (fault := each.fault)]
        if link_fault := self._host.link_fault(instance):
            faults.insert(0, link_fault)
        elif source is None:
            faults.insert(0, f"{instance.interface} has no address to send from")
        if instance.fault_without_peers and not instance.peers:
            faults.append("it has no peers")
        return faults

    def _enter_or_leave_fault(self) -> None:
        now = self._service.now
        faults = self.own_faults or (self.group.other_faults(self) if self.group else [])
        had_faults, self._had_faults = self._had_faults, bool(faults)
        if faults and self.state is State.FAULT:
            failed = self.failures or (self.group is not None and self.group.another_failed(self))
            if self.history.last is None and failed:  # the first notification, once there is more than no result
                self._become(Become(State.FAULT, State.FAULT, TransitionReason.FAULT, "; ".join(faults)))
        elif faults:
            self._step(self.machine.fail(now, "; ".join(faults)))
        elif self.state is State.FAULT:
            why = TransitionReason.RECOVERED if self.history.last else TransitionReason.START
            self._step(self.machine.start(now, why))
            if had_faults:
                self._announce_source()
        else:
            self._set_timer()

    def _announce_source(self) -> None:
        """Announce the address that it sends from: otherwise its peers may have to resolve it before they send.

        That could take longer than it waits for their advertisements.
        """
        if self.instance.peers and self.instance.interface:
            self._host.send_garp(self.instance, self.instance.interface, self.machine.address)

    def _set_source(self, source: Address) -> None:
        self._mtu = self._host.mtu_of(self.instance)
        self._encoder = AdvertEncoder(self.instance, source, self._mtu, int(time.time()), self._encoder)
        self.validator = AdvertValidator(self.instance, self._encoder, self.validator)
        self.machine = replace(self.machine, address=source)

    def _set_priority(self) -> None:
        before = self.machine.priority
        priority = effective_priority(self.instance.priority, self.tracked.values())
        if priority == before:
            return
        self.machine = replace(self.machine, priority=priority)
        reasons = priority_reasons(self.tracked.values())
        text = f"{self.name}: priority {before} is {priority} now{': ' if reasons else ''}{reasons}"
        self._service.log("info", text, about=f"priority of {self.name}", state=self.state.value)
        self._service.publish("priority", self.name, priority=priority, before=before)
        if self.state is not State.FAULT:
            self._service.notify(PriorityChanged(self.name, self.state.value, priority))

    def accepts(self, datagram: Datagram) -> bool:
        """Return whether a datagram has the instance's family and protocol."""
        return family_of(self.instance) == datagram.source.version and protocol_of(self.instance) == datagram.protocol

    def match(self, datagram: Datagram) -> tuple[bool, bool]:
        """Return how well a datagram matches among virtual routers of one VRID and device: the greater, the better."""
        if datagram.destination.is_multicast:
            return not self.instance.peers and self.instance.multicast == datagram.destination, False
        is_peer = any(each.address == datagram.source for each in self.instance.peers)
        return self.machine.address == datagram.destination, is_peer

    def receive(self, datagram: Datagram) -> bool:
        """Handle a datagram; return whether it is an advertisement of another router. Raises InvalidAdvert."""
        if not self._running or self.validator is None:
            return False
        advert = self.validator.validate(datagram)
        if advert is None:
            return False
        self._report_mismatches(self.validator)
        self.received += 1
        self.zero_received += advert.priority == PRIORITY_STOP
        self.master_priority = advert.priority
        worse = PRIORITY_STOP < advert.priority < self.machine.priority
        if self.state is State.MASTER and worse and not self._is_settling(self._service.now):
            self._service.notify(LowerPriorityReceived(self.name, self.machine.priority))
        due = self.machine.due
        self._step(self.machine.receive(self._service.now, advert, datagram.source))
        self._report_wait()
        if self.state is not State.BACKUP:
            return True
        self.master = datagram.source
        self._report_interval(advert.interval_s, datagram.source)
        # A lower priority does not postpone the take-over for which this member waits.
        self.waiting = self.waiting and self.machine.due == due
        if self.group is not None and advert.priority >= self.machine.priority and self.group.demote(self):
            self._service.notify(StateChanged("GROUP", self.group.group.name, State.BACKUP.value, 0))
        return True

    def _report_wait(self) -> None:
        """Log that the wait for copies begins, or that it ended by its limit."""
        waited, self._waited = self._waited, self.awaits_copy
        if self._waited and not waited:
            text = f"waits until connections of the other director are here, at most {self.machine.copy_wait_s:g} s"
            self._service.log("info", f"{self.name}: {text}")
        elif waited and not self._waited and not self.machine.copied and self.state is State.BACKUP:
            text = "peer_wait is over: it takes over without all connections of the other director"
            self._service.log("warning", f"{self.name}: {text}")

    def _report_interval(self, interval_s: float, sender: Address) -> None:
        adopted_s = self.machine.interval_s
        if self.instance.version == 2 or adopted_s >= interval_s:
            return
        if self._log_limiter.allow(("interval", sender), self._service.now) is not None:
            text = f"{self.name}: {sender} advertises an interval of {interval_s:g} s, longer than max_advert_int"
            self._service.log("warning", f"{text}: {adopted_s:g} s counts until it repeats that")

    def _report_mismatches(self, validator: AdvertValidator) -> None:
        for mismatch in validator.take_mismatches():
            if self._log_limiter.allow(("mismatch", mismatch.sender), self._service.now) is not None:
                resolved = not mismatch.missing and not mismatch.surplus
                self._service.log("info" if resolved else "warning", f"{self.name}: {mismatch}")
                self._service.publish("mismatch", self.name, reason=str(mismatch))

    def wait_for_copies(self, longest_s: float) -> None:
        """Do not preempt before connections of the other director are here, for so long; 0: do not wait."""
        if longest_s != self.machine.copy_wait_s:
            self.machine = replace(self.machine, copy_wait_s=longest_s)

    def set_copied(self, current_at: float | None) -> None:
        """Take a report: all that the other director had at this time is here; None: that is not so now.

        What it had before this router became backup is not enough: it has made connections since.
        """
        copied = current_at is not None and current_at > self._since
        if self.state is State.BACKUP and copied is not self.machine.copied:
            self.machine = replace(self.machine, copied=copied)

    def serve(self) -> None:
        """Become master as soon as that is due: this host has its first table."""
        self.machine = self.machine.serve(self._service.now)
        self._set_timer()

    @property
    def awaits_copy(self) -> bool:
        """Whether a master of lower priority advertises, and connections of the other director are not all here."""
        return self.machine.copied_by is not None and self.machine.awaits_copy(self._service.now)

    def yield_until(self, until: float | None) -> None:
        """Become backup, and do not take over before that time; None reverts that."""
        if until is None:
            self.machine = replace(self.machine, held_until=None)
            self._set_timer()
        else:
            self._step(self.machine.yield_until(self._service.now, until))

    def follow(self, state: State, why: TransitionReason, detail: str) -> None:
        """Enter the state of the group."""
        if not self._running or (self.own_faults and state is not State.FAULT):
            return
        self._step(self.machine.follow(self._service.now, state, why, detail))

    def holds(self, address: Address) -> bool:
        """Return whether it is master of an address."""
        instance = self.instance
        return self.state is State.MASTER and any(
            each.interface.ip == address for each in (*instance.addresses, *instance.excluded)
        )

    def defend(self, address: Address) -> None:
        """Announce an address again, because another host claims it; the caller has logged it."""
        self._garp.defend(self._service.now, address)
        self._announce()

    def announce(self) -> None:
        """Announce a master's addresses once, at an operator's request; only a master has any."""
        self._garp.once(self._service.now)
        self._announce()

    def _announce_again(self, released: bool = False) -> bool:
        """Announce a master's addresses, because another router was master, too; False if that has no effect."""
        again = self._garp.again(self._service.now, released)
        self._announce()
        return again

    def restore(self) -> None:
        """Add and announce again what was removed from a master's host."""
        if self.state is State.MASTER:
            self._host.add_resources(self.instance)
            self._announce_all()

    def _wake(self) -> None:
        now = self._service.now
        if self._defer_if_stalled(now):
            return
        machine, actions = self.machine.wake(now)
        if machine.state is not self.state and machine.state is State.MASTER and self.group is not None:
            self.waiting = True
            if not self.group.may_be_master(self):
                self.machine = replace(self.machine, due=now + self.machine.interval_s)
                self._set_timer()
                return
        self._step((machine, actions))

    def _defer_if_stalled(self, now: float) -> bool:
        """Postpone a late take-over, because timers run before sockets are read.

        When the host stopped this process for seconds (a paused virtual machine), the master's advertisements are
        unread. Without the delay this router would add the addresses and remove them a moment later. The host may stop
        it again during the delay.
        """
        due = self.machine.due
        if self.state is not State.BACKUP or due is None or now <= due + STALLED_S:
            return False
        if due != self._deferred_until:
            self._deferrals = 0
        if self._deferrals == MAX_DEFERRALS:
            return False
        self._deferrals += 1
        self._deferred_until = now + DRAIN_S
        self.machine = replace(self.machine, due=self._deferred_until)
        self._set_timer()
        return True

    def _step(self, step: Step) -> None:
        self.machine, actions = step
        try:
            for action in actions:
                if isinstance(action, Advertise):
                    if self._encoder is not None:
                        self.sent += 1
                        self.zero_sent += action.priority == PRIORITY_STOP
                        self._host.send_adverts(self.instance, self._encoder.packets(action.priority))
                elif isinstance(action, Become):
                    self._become(action)
                elif action.released:
                    self._announce_again(released=True)
                else:
                    self._reannounce(action.detail)
        finally:  # a bug in one action must not end the timer, and with it the virtual router
            self._set_timer()

    def _become(self, become: Become) -> None:
        self.waiting = False
        self._rival = None
        self._since = self._service.now
        if become.state is not State.BACKUP:
            self.master = None
        if become.state is State.MASTER:
            self._service.roles_changed()
            self._host.add_resources(self.instance)
            self._announce_all()
        elif become.before is State.MASTER:
            self.released += 1
            self._garp.stop()
            self._host.remove_resources(self.instance)
            self._service.roles_changed()
        self._report_transition(become)

    def _report_transition(self, become: Become) -> None:
        reasons = priority_reasons(self.tracked.values())
        if become.why is TransitionReason.HIGHER and reasons:
            become = replace(become, detail=f"{become.detail}; its own is {self.machine.priority}: {reasons}")
        transition = self.history.record(time.time(), become, self.machine.priority)
        state = END_STATES.get(become.why, become.state.value)
        change = state if become.before is become.state else f"{become.before.value} to {state}"
        text = f"{self.name}: {change}: {transition.sentence()}"
        level = "warning" if state == "FAULT" else "info"
        self._service.log(level, text, about=self.name, priority=self.machine.priority)
        self._service.publish("transition", self.name, **transition.as_dict())
        message = StateChanged("INSTANCE", self.name, state, self.machine.priority, become.before.value)
        self._service.notify(message, self)
        if self.group is not None and self.group.moved(self, become.before, become.why, transition.sentence()):
            self._service.notify(StateChanged("GROUP", self.group.group.name, state, 0))

    def _is_settling(self, now: float) -> bool:
        """Return whether it became master so recently that the former one's last advertisement is no conflict."""
        return now < self._since + SETTLING_INTERVALS * self.machine.interval_s

    def _reannounce(self, text: str) -> None:
        now = self._service.now
        settling = self._is_settling(now)
        if not settling:
            self._rival = now + self.machine.down_s, text
        announced = "; its addresses are announced again" if self._announce_again() else ""
        suppressed = None if settling else self._log_limiter.allow("conflict", now)
        if suppressed is not None:
            more = f" ({suppressed} more like it since the last line)" if suppressed else ""
            self._service.log("warning", f"{self.name}: {text}{more}{announced}")
            self._service.publish("conflict", self.name, reason=text)

    def _make_garp_scheduler(self) -> GarpScheduler:
        return GarpScheduler(self.instance.announcements, self._limits, self._host.device_of(self.instance))

    def _announce_all(self) -> None:
        self._garp.begin(self._service.now, self._host.announced_addresses(self.instance))
        self._announce()

    def _announce(self) -> None:
        for device, address in self._garp.wake(self._service.now):
            self._host.send_garp(self.instance, device, address)
        if self._garp_timer is not None:
            self._garp_timer.cancel()
        due = self._garp.due
        self._garp_timer = None if due is None else self._service.at(due, self._announce)

    def _set_timer(self) -> None:
        due = self.machine.due if self._running else None
        if self._timer is not None:
            if self._timer.when == due and self._timer.call is not None:
                return
            self._timer.cancel()
        self.wait_s = 0.0 if due is None else due - self._service.now
        self._timer = None if due is None else self._service.at(due, self._wake)


class SyncGroup:
    """The members of a vrrp_sync_group, which are master together or not at all, and their common state.

    As in keepalived, a member becomes master only when every member would. A member that becomes backup or enters FAULT
    takes the others with it, and no member leaves FAULT while another has a fault.
    """

    def __init__(self, group: VrrpGroup, members: Iterable[Router], reported: State | None = None) -> None:
        self.group = group
        self.reported = reported  # the state of the last notification
        self.members = list(members)
        states = {each.state for each in self.members}
        self.state = State.MASTER if State.MASTER in states else states.pop() if len(states) == 1 else State.FAULT
        self._leading = False
        self._stopped = False
        for each in self.members:
            each.group = self

    def other_faults(self, member: Router) -> list[str]:
        """Return the faults of the other members; missing results keep a member from starting, too."""
        runs = member.state is not State.FAULT
        return [
            f"{other.name} of group {self.group.name}: {faults[0]}"
            for other in self.members
            if other is not member and (faults := other.failures if runs else other.own_faults)
        ]

    def another_failed(self, member: Router) -> bool:
        """Return whether another member has a fault that is more than a missing result."""
        return any(other.failures for other in self.members if other is not member)

    def faults_changed(self, member: Router) -> None:
        """Let the other members evaluate whether they may run."""
        for other in self.members:
            if other is not member:
                other.evaluate_group()

    def may_be_master(self, member: Router) -> bool:
        """Return whether every other member is master, or waits to be."""
        return all(each is member or each.waiting or each.state is State.MASTER for each in self.members)

    def demote(self, member: Router) -> bool:
        """Make all masters backup, because a member that joined has another master; False if there were none."""
        if self._leading or self.state is not State.MASTER:
            return False
        self._lead(member, State.BACKUP, TransitionReason.GROUP, f"{member.name} has another master")
        self.state = self.reported = State.BACKUP
        return True

    def changed_at_reload(self) -> bool:
        """Return whether a reload gave the group a state to notify of: another one than before, and not MASTER."""
        before, known = self.reported, self.state is not State.FAULT or any(each.failures for each in self.members)
        if known:
            self.reported = self.state
        return known and self.state not in (State.MASTER, before)

    def moved(self, member: Router, before: State, why: TransitionReason, text: str = "") -> bool:
        """Take the other members along after a member's transition; return whether the group has a state to notify of.

        A member that starts or recovers takes no others along: they evaluate themselves whether they may run.
        """
        if self._leading:
            return False
        starts = before is State.FAULT and member.state is State.BACKUP
        if not starts:
            detail = f"{member.name} went before{': ' if text else ''}{text}"
            reason = TransitionReason.STOP if why is TransitionReason.STOP else TransitionReason.GROUP
            self._lead(member, member.state, reason, detail)
        elif any(other.state is not State.BACKUP for other in self.members):
            return False
        was_stopped, self._stopped = self._stopped, why is TransitionReason.STOP
        changed = self.reported is not member.state or self._stopped is not was_stopped
        self.state = self.reported = member.state
        return changed

    def _lead(self, member: Router, state: State, why: TransitionReason, detail: str) -> None:
        self._leading = True
        try:
            for other in self.members:
                if other is not member and other.state is not state:
                    other.follow(state, why, detail)
        finally:
            self._leading = False
