"""The invariants of every simulation, under any faults of network, processes and clocks.

Sections are of RFC 9568; those of VRRP version 2 in RFC 3768 are the same unless noted. Times are those of a host's own
clock, which is up to 3 % fast or slow. An *adv* is the longest advertisement interval of a virtual router.

At every event:

0. **The product works**: no exception, no endless round of timers, no storm of answers.
1. **Two masters that receive each other's advertisements** do not exist (6.4.3). They may coexist until each has
   processed an advertisement of the other, of the present terms and priorities of both. Delay, loss, partition and
   stall decide how long that takes.
2. **An advertisement has the effect of 6.4.2 and 6.4.3.** A master that processes a better one (a higher priority, or
   the same from a greater address) becomes backup. After a worse one, or one of priority 0, it stays master and
   advertises immediately, or half an interval after its last answer. A backup stays backup. Every advertisement is
   valid; only AH's replay protection drops late and duplicated ones. There is no answer while the device cannot send.
3. **A backup takes over at its time, and not before** (6.4.2). An advertisement that counts for a backup postpones the
   take-over to Active_Down_Interval from then; one of priority 0 sets it to Skew_Time from then. Version 2 counts
   Skew_Time in seconds, version 3 in the master's interval (6.1). After a stall, a backup reads its socket before the
   take-over. The members of a sync group wait for each other. No router takes over during its yield.
4. **A master advertises** once in each of its intervals (6.4.3), with its priority and all addresses; other routers do
   not. A master that becomes backup without a better advertisement sends priority 0 (6.4.3, Shutdown), unless its
   device cannot send.
5. **No address without a master, no master without its addresses** (6.4.2, 6.4.3). Between two events of a running
   process its host holds exactly the addresses of its masters. The published roles are the same, and are published
   before the first address is added. A killed process leaves its addresses; the next one removes them when it starts.
6. **Every take-over is announced** (6.4.2, 8.2), each address `garp_master_repeat` times. The announcements repeat
   after `garp_master_delay`, at each `garp_master_refresh`, and within CONFLICT_INTERVAL_S after an advertisement of a
   worse master. Limits stretch this. Only a master announces, with the link address of the device.
7. **The members of a sync group** are all master, or none is.

12. **No fault without a failure**: of a device, of a script, or of another member of the group. A tracked object that a
   reload adds is none until its first result.

At the end the network is whole: no loss, no partition, no stall, delays below 0.2 adv, and everything sent before has
arrived. Then, for each virtual router:

8. **One master within 3 adv + Skew_Time**, by the slowest clock, plus three of the longest delays. A late advertisement
   may postpone the take-over, a worse router may be first by one delay, and the answer takes another. preempt_delay
   adds its time and one more Active_Down_Interval. A sync group evaluates once in each interval whether all members may
   be master. Where routers of version 3 have different intervals, the former master's last advertisement may arrive
   after the new master's first one. A backup then counts by the former interval (6.4.2), and may be master for one adv
   more. No router is in FAULT without a reason.
9. **It has the highest priority** of the routers that can be master, if all of them preempt; any of several equal ones.
10. **It stays master** for two more Active_Down_Intervals: no router changes its state any more.
11. **It announced its addresses last.** After a split brain clients and switches may have the loser's link address.
    A master that a better advertisement makes backup sends a last one, after which the winner announces again. The
    winner may have received none before. Where the link to the winner loses packets at that time, nothing is known. An
    announcement on a device that cannot send does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pylvs.model.addresses import Address
from pylvs.model.vrrp import MULTICAST_V4, MULTICAST_V6, OWNER, Authentication
from pylvs.vrrp.garp import CONFLICT_BURST, CONFLICT_INTERVAL_S
from pylvs.vrrp.helper.link import StateChanged
from pylvs.vrrp.loop import Call
from pylvs.vrrp.protocol.adverts import Datagram
from pylvs.vrrp.protocol.machine import State
from tests.unit.vrrp.simulation.host import Host
from tests.unit.vrrp.simulation.records import (
    AH_BYTES,
    EPSILON_S,
    LATE_S,
    NEVER,
    DeviceAddress,
    Record,
    Sent,
    announced,
    priority_of,
)
from tests.unit.vrrp.simulation.schedule import MAX_DRIFT, Plan

GROUPS = MULTICAST_V4, MULTICAST_V6
PUNCTUAL_S = 0.001  # a backup whose timer is at most this late was not stalled
SLOWEST = 1 / (1 - MAX_DRIFT)
TURN_TIMEOUT_S = 0.01


class Simulated(Protocol):
    """What the checker reads of the simulation."""

    plan: Plan
    hosts: list[Host]

    @property
    def now(self) -> float:
        """Seconds of the simulation."""

    def delivers(self, lan: int, sender: int, receiver: int) -> bool:
        """Return whether packets between two hosts arrive now."""


class Checker:
    """Observes the simulation; `violation` is the first invariant that did not hold."""

    def __init__(self, simulated: Simulated, only: int | None = None) -> None:
        """`only` is the number of the only invariant that is checked; None checks all."""
        self.violation = ""
        self._only = only
        self.coverage: set[str] = set()
        self._simulated = simulated
        self._records: list[dict[str, Record]] = [self._of(host) for host in simulated.hosts]
        self._by_vrid = [{each.instance.vrid: each for each in records.values()} for records in self._records]
        self._sent: dict[int, Sent] = {}
        self._frames: dict[bytes, tuple[Address, bytes]] = {}
        self._dirty: set[int] = set()  # hosts whose addresses or states changed
        self._still = False

    def fail(self, text: str) -> None:
        """Record a violation; the text ends with the invariant's number in parentheses."""
        if self._only is None or text.endswith(f"({self._only})"):
            self.violation = self.violation or text

    def _of(self, host: Host) -> dict[str, Record]:
        configuration = host.configuration
        several = [
            tuple((each.interface, held.interface.ip) for held in (*each.addresses, *each.excluded))
            for each in configuration.instances
        ]
        needed_s = 0.0
        for limit in configuration.settings.limits:
            repeat = max(
                max(i.announcements.repeat, i.announcements.lower_priority_repeat) for i in configuration.instances
            )
            needed_s = 0.05 + 2 * sum(map(len, several)) * repeat * (limit.arp_s + TURN_TIMEOUT_S)
        made = zip(configuration.instances, several, strict=True)
        return {each.name: Record(host, each, addresses, needed_s) for each, addresses in made}

    def _all(self, vrid: int) -> list[Record]:
        return [records[vrid] for records in self._by_vrid]

    # --- start and end of a process ---

    def starts(self, host: Host) -> None:
        """A process starts."""
        self._dirty.add(host.number)
        for record in self._records[host.number].values():
            record.instance = next(i for i in host.configuration.instances if i.name == record.instance.name)
            record.held_until = record.excused_until = 0.0

    def ends(self, host: Host) -> None:
        """A process ended."""
        for record in self._records[host.number].values():
            self._enter(record, State.FAULT)

    def touches(self, host: Host) -> None:
        """The kernel or another program changed the host's addresses."""
        self._dirty.add(host.number)

    def yields(self, host: Host, until: float) -> None:
        """An operator requested a yield.

        A request that ends before a former one takes effect at the next timer, within Active_Down_Interval.
        """
        for record in self._records[host.number].values():
            if record.state is State.BACKUP and until < record.held_until:
                again = record.now + record.down_s(record.interval_s, record.router.machine.priority)
                record.excused_until = min(record.held_until, again)
            record.held_until = until

    def moved(self, host: Host, message: StateChanged) -> None:
        """The process notified of a virtual router's or a group's new state."""
        if message.kind != "INSTANCE":
            return
        record = self._records[host.number][message.name]
        state = State(message.state) if message.state in ("MASTER", "BACKUP") else State.FAULT
        if message.state == "FAULT" and record.state is not State.FAULT and not host.failed and self._able(record):
            self.fail(f"{record} enters FAULT, but nothing failed: {record.router.own_faults} (12)")
        if self._still:
            self.fail(f"{record} becomes {state.value} although no event happened (10)")
        if state is State.MASTER and record.now < record.held_until - EPSILON_S:
            self.fail(f"{record} takes over {record.held_until - record.now:.6f} s before the end of its yield (3)")
        elif state is State.MASTER and record.state is State.BACKUP:
            self._takes_over(record)
        elif state is not State.MASTER and record.state is State.MASTER:
            able = host.devices[record.instance.interface].enabled
            if able and record.now not in (record.released_at, record.beaten_at):
                self.fail(f"{record} becomes {state.value} without priority 0 (4)")
        self._enter(record, state)

    def _enter(self, record: Record, state: State) -> None:
        was, record.state = record.state, state
        record.term += 1
        record.since = record.now
        record.conflicts.clear()
        record.preempt_at = None
        self._dirty.add(record.host.number)
        if state is State.MASTER:
            self.coverage.add("take-over")
            record.armed = NEVER
            self._owe(record)
        elif was is State.MASTER or state is State.FAULT:
            record.forget_announcements()
            record.owed = []
            record.advertised_at = record.conflict_at = NEVER
        if state is State.BACKUP:
            router = record.host.routers[record.instance.name]
            record.best = (0, 0)
            record.arm(router.instance.advert_interval_s, router.machine.priority)

    def _takes_over(self, record: Record) -> None:
        early = record.armed - record.now
        if early > EPSILON_S:
            self.fail(f"{record} takes over {early:.6f} s before its time (3)")
        if len(self._records[record.host.number]) > 1 or record.now <= record.armed + PUNCTUAL_S + EPSILON_S:
            return  # a member may follow another one that reads first
        machine = record.router.machine
        for receiver in record.host.receivers:
            for datagram in receiver.queue:
                sent = self._sent[id(datagram)]
                if sent.vrid == record.instance.vrid and self._counts(record, sent, machine.priority):
                    self.fail(f"{record} takes over although its socket holds an advertisement ({sent}) (3)")

    @staticmethod
    def _counts(record: Record, sent: Sent, priority: int) -> bool:
        """Return whether an advertisement postpones a backup's take-over (6.4.2)."""
        return sent.priority != 0 and (sent.priority >= priority or not record.instance.preempt)

    # --- sent packets ---

    def sends(self, host: Host, device: str, datagram: Datagram) -> Sent:
        """A process sends an advertisement."""
        payload = datagram.payload[AH_BYTES:] if datagram.protocol == 51 else datagram.payload
        version, vrid, priority, count = payload[0] >> 4, payload[1], payload[2], payload[3]
        interval_s = float(payload[5]) if version == 2 else ((payload[4] & 0xF) << 8 | payload[5]) / 100
        record = self._by_vrid[host.number][vrid]
        machine = record.router.machine
        master = machine.state is State.MASTER
        source, multicast = datagram.source, datagram.destination in GROUPS
        term = record.term + (master and record.state is not State.MASTER)
        rank = priority, int(source)
        sent = Sent(datagram, record, term, vrid, priority, interval_s, source.version, multicast, rank)
        self._sent[id(datagram)] = sent
        instance = record.instance
        if priority:
            if not master and not instance.higher_priority_answered:
                self.fail(f"{record} advertises, but is not master (4)")
            if priority != machine.priority or count != len(instance.addresses) or version != instance.version:
                self.fail(f"{record} advertises priority {priority} and {count} addresses of version {version} (4)")
            if master:
                record.advertised_at = record.now
        elif master:
            self.fail(f"{record} advertises priority 0, but is master (4)")
        else:
            record.released_at = record.now
        if interval_s != instance.advert_interval_s or device != instance.interface:
            self.fail(f"{record} advertises an interval of {interval_s} s on {device} (4)")
        return sent

    def announces(self, host: Host, device: str, frame: bytes) -> Address:
        """A process sends a gratuitous ARP or an unsolicited neighbour advertisement; return its address."""
        known = self._frames.get(frame)
        if known is None:
            known = self._frames[frame] = announced(frame)
        address, mac = known
        held = device, address
        own = mac == host.devices[device].mac and any(
            address == each.interface.ip for each in host.devices[device].base
        )
        for record in self._records[host.number].values():
            if held in record.addresses:
                break
            if own and record.router.instance.peers and record.router.instance.interface == device:
                return address  # for the peers, after a fault
        else:
            self.fail(f"{host.name} announces {address} on {device}, which no virtual router has (6)")
            return address
        if record.router.machine.state is not State.MASTER:
            self.fail(f"{record} announces {address}, but is not master (6)")
        if mac != host.devices[device].mac:
            self.fail(f"{record} announces {address} at {mac.hex(':')} (6)")
        record.announced_at.setdefault(held, []).append(record.now)
        if host.devices[device].up:  # else it does not leave
            record.last_announced[held] = self._simulated.now
        return address

    def holds(self, host: Host, device: str, address: Address, added: bool) -> None:
        """The process adds an address to a device, or removes it."""
        self._dirty.add(host.number)
        if added and address not in host.roles.active:
            self.fail(f"{host.name} adds {address} to {device} before the roles are published (5)")
        for record in self._records[host.number].values():
            if added and record.state is State.MASTER and (device, address) in record.addresses:
                record.forget_announcements()  # an address that is added again is announced as after a take-over
                record.conflict_at = NEVER  # such a round answers a worse master, too
                self._owe(record)

    def _owe(self, record: Record) -> None:
        settings = record.instance.announcements
        record.owed = [(record.now + record.needed_s, settings.repeat)]
        if settings.delay_s > record.needed_s:
            record.owed.append((record.now + record.needed_s + settings.delay_s, 2 * settings.repeat))

    # --- received packets ---

    def processes(self, host: Host, datagram: Datagram, handle: Call) -> None:
        """The process reads an advertisement from its socket."""
        sent = self._sent[id(datagram)]
        record = self._by_vrid[host.number][sent.vrid]
        router = record.router
        before, counted, answered = router.machine, router.received, router.sent
        better = sent.rank > (before.priority, int(before.address))
        if better:
            record.beaten_at = record.now
        handle()
        after = router.machine
        if router.received == counted:
            if router.validator is not None and record.instance.authentication is not Authentication.AH:
                self.fail(f"{record} drops an advertisement ({sent}): {router.validator.counters} (2)")
            return
        if before.state is State.MASTER:
            self.coverage.add("two masters")
            if after.state is State.MASTER and sent.priority:
                self._coexists(record, sent)
            if (after.state is not State.MASTER) is not better:
                self.fail(f"{record} with priority {before.priority} is {after.state.value} after {sent} (2)")
            elif better:
                self._adopt(record, sent, after.priority)
            else:
                self._answers(record, sent, router.sent > answered)
        elif after.state is not before.state:
            self.fail(f"{record} moves from {before.state.value} to {after.state.value} because of {sent} (2)")
        elif before.state is State.BACKUP:
            self._postpones(record, sent, before.priority)

    def _answers(self, record: Record, sent: Sent, answered: bool) -> None:
        able = record.host.devices[record.instance.interface].enabled
        if able and not answered and (sent.priority == 0 or not record.instance.lower_priority_unanswered):
            due, latest = record.router.machine.due, record.advertised_at + record.instance.advert_interval_s / 2
            if due is None or due > latest + EPSILON_S:
                self.fail(f"{record} does not answer {sent} (2)")
        if sent.priority and record.instance.announcements.lower_priority_repeat:
            record.conflict_at = min(record.conflict_at, record.now)
            record.provoked_at.append(self._simulated.now)

    def _coexists(self, record: Record, sent: Sent) -> None:
        """Another master's advertisement left this one master."""
        other = sent.sender
        mine, theirs = record.router.machine.priority, sent.priority
        record.conflicts[other.host.number] = sent.term, record.term, theirs, mine
        if other.state is State.MASTER and other.term == sent.term and other.host.service is not None:
            now = other.router.machine.priority
            if now == theirs and other.conflicts.get(record.host.number) == (record.term, other.term, mine, theirs):
                self.fail(f"{record} and {other} are both master and receive each other's advertisements (1)")

    def _adopt(self, record: Record, sent: Sent, priority: int) -> None:
        self.coverage.add("gives way")
        lan = int(record.instance.interface[3:])
        record.gave_way_at = self._simulated.now
        others = (each.number for each in self._simulated.hosts if each is not record.host)
        record.gave_way_to = {each for each in others if self._simulated.delivers(lan, record.host.number, each)}
        record.best = (0, 0)
        record.postpone(sent, sent.interval_s if record.instance.version == 3 else record.interval_s, priority)

    def _postpones(self, record: Record, sent: Sent, priority: int) -> None:
        """Set the time of the take-over by 6.4.2, with preempt_delay and yield in addition."""
        now, instance = record.now, record.instance
        if now > record.late_at and len(self._records[record.host.number]) == 1:
            self.fail(f"{record} should have taken over at {record.armed:.6f} of its clock (3)")
        interval_s = sent.interval_s if instance.version == 3 else instance.advert_interval_s
        if sent.priority == 0:
            self.coverage.add("priority 0")
            record.interval_s = interval_s
            record.armed = now + record.skew_s(interval_s, priority)
            record.best = (0, 0)
        elif self._counts(record, sent, priority):
            record.preempt_at = None
            record.postpone(sent, interval_s, priority)
        elif now < record.held_until:
            record.postpone(sent, interval_s, priority)
        elif instance.preempt_delay_s:
            if record.preempt_at is None:
                record.preempt_at = now + instance.preempt_delay_s
            if now < record.preempt_at:
                self.coverage.add("preempt_delay")
                record.postpone(sent, interval_s, priority)
        else:
            record.preempt_at = None

    # --- between two events ---

    def stepped(self, host: Host) -> None:
        """The process has handled everything that is due."""
        if not host.ready:
            host.failed = False
        records = self._records[host.number]
        if host.service is not None:
            for record in records.values():
                if record.state is State.MASTER:
                    self._check_master(record)
                elif record.state is State.BACKUP and record.armed + LATE_S < host.now > record.late_at:
                    self._check_late(record, records)
        if host.number in self._dirty:
            self._dirty.discard(host.number)
            if host.configuration.groups and len({each.state is State.MASTER for each in records.values()}) > 1:
                self.fail(f"{host.name}: the members are {[each.state.value for each in records.values()]} (7)")
            self._check_addresses(host, records)

    def _check_late(self, record: Record, records: dict[str, Record]) -> None:
        latest = max(each.late_at for each in records.values())
        grouped = bool(record.host.configuration.groups)
        extra_s = max(each.interval_s for each in records.values()) if grouped else 0.0
        if not grouped or record.now > latest + extra_s:
            self.fail(f"{record} should have taken over at {record.armed:.6f} of its clock (3)")

    def _check_master(self, record: Record) -> None:
        now, instance = record.now, record.instance
        if now > record.advertised_at + instance.advert_interval_s + EPSILON_S:
            self.fail(f"{record} is master, and last advertised at {record.advertised_at:.6f} of its clock (4)")
        if record.needed_s and now < record.host.resumed_at + record.needed_s:
            return  # after a stall, limits delay the announcements
        while record.owed and now >= record.owed[0][0]:
            _, count = record.owed.pop(0)
            if record.needed_s and record.host.resumed_at > record.since:
                count = instance.announcements.repeat  # a round that begins before the last one ended adds nothing
            self._check_announced(record, count)
        refresh_s = instance.announcements.refresh_s
        if refresh_s and not record.owed and now > record.oldest + refresh_s + record.needed_s + EPSILON_S:
            record.oldest = min((record.announced_at.get(held, [0.0])[-1] for held in record.addresses), default=now)
            if now > record.oldest + refresh_s + record.needed_s + EPSILON_S:
                self.fail(f"{record} last announced an address at {record.oldest:.6f} of its clock (6)")
        if now > record.conflict_at + CONFLICT_INTERVAL_S + record.needed_s + EPSILON_S:
            for held in record.addresses:
                if record.announced_at.get(held, [-NEVER])[-1] < record.conflict_at:
                    self.fail(
                        f"{record} received a worse master's advertisement and did not announce {held[1]} again (6)"
                    )
            record.conflict_at = NEVER

    def _check_announced(self, record: Record, count: int) -> None:
        for held in record.addresses:
            announced_count = len(record.announced_at.get(held, ()))
            if announced_count < count:
                self.fail(f"{record} announced {held[1]} {announced_count} times instead of {count} (6)")

    def _check_addresses(self, host: Host, records: dict[str, Record]) -> None:
        wanted: set[DeviceAddress] = set()
        for record in records.values():
            if host.service is not None and record.router.machine.state is not record.state:
                self.fail(f"{record} is {record.router.machine.state.value}, but notified {record.state.value} (5)")
            if record.state is State.MASTER:
                wanted.update(record.addresses)
        present = host.virtual()
        for which, template in ((present - wanted, "holds {} and is not its master"), (wanted - present, "lacks {}")):
            for device, address in sorted(which, key=str):
                self.fail(f"{host.name} {template.format(f'{address} on {device}')} (5)")
        if host.roles.active != {address for _, address in wanted}:
            self.fail(f"{host.name}: the published roles serve {sorted(map(str, host.roles.active))} (5)")

    # --- at the end ---

    def bound_s(self) -> float:
        """Return how long it takes from a whole network to one master (8)."""
        several = list(self._every())
        adv = max(each.instance.advert_interval_s for each in several)
        skew = max(each.skew_s(adv, 1) for each in several)
        delay = sum(self._simulated.plan.delay_s)
        bound = (3 * adv + skew) * SLOWEST + 3 * delay + LATE_S
        if extra_s := max(each.instance.preempt_delay_s for each in several):
            bound += (extra_s + 3 * adv + skew) * SLOWEST + delay
        if self._simulated.hosts[0].configuration.groups:
            bound += 2 * adv * SLOWEST
        if any(self._have_different_intervals(vrid) for vrid in self._by_vrid[0]):
            bound += adv * SLOWEST + 3 * delay
        return bound

    def _have_different_intervals(self, vrid: int) -> bool:
        instances = [each.instance for each in self._all(vrid)]
        return instances[0].version == 3 and len({each.advert_interval_s for each in instances}) > 1

    def watch_s(self) -> float:
        """Return how long it must stay master (10)."""
        several = list(self._every())
        return 2 * max(each.down_s(each.instance.advert_interval_s, 1) for each in several) * SLOWEST

    def _every(self) -> Iterator[Record]:
        for records in self._records:
            yield from records.values()

    def settled(self) -> None:
        """Check invariants 8 and 9: the network was whole for long enough."""
        self._still = True
        for vrid in self._by_vrid[0]:
            able = []
            for record in self._all(vrid):
                if self._able(record):
                    able.append(record)
                    if record.state is State.FAULT:
                        self.fail(f"{record} is in FAULT: {record.router.own_faults} (8)")
                    elif record.router.machine.priority != priority_of(record):
                        self.fail(f"{record} has priority {record.router.machine.priority} (9)")
                elif record.state is not State.FAULT:
                    self.fail(f"{record} is {record.state.value} and cannot be (8)")
            masters = [record for record in able if record.state is State.MASTER]
            if len(masters) != min(1, len(able)):
                found = ", ".join(map(str, masters)) or "no router"
                self.fail(f"VRID {vrid}: {found} is master (8)")
            elif masters and all(record.instance.preempt for record in able):
                best = max(map(priority_of, able))
                if priority_of(masters[0]) != best:
                    self.fail(f"{masters[0]} is master with {priority_of(masters[0])}, there is one with {best} (9)")

            if len(masters) == 1:
                self._check_last(masters[0], vrid)

    def _check_last(self, master: Record, vrid: int) -> None:
        """Check that the master, and no loser of a split brain, was the last to announce."""
        if not master.instance.announcements.lower_priority_repeat:
            return
        quiet_s = CONFLICT_BURST * CONFLICT_INTERVAL_S * SLOWEST
        for other in self._all(vrid):
            if master.host.number not in other.gave_way_to or not other.instance.higher_priority_answered:
                continue
            at = other.gave_way_at
            answered_s = master.needed_s * SLOWEST + sum(self._simulated.plan.delay_s) + LATE_S
            if sum(at - quiet_s < each < at for each in master.provoked_at) >= CONFLICT_BURST:
                answered_s += CONFLICT_INTERVAL_S * SLOWEST
            for held in set(other.addresses) & set(master.addresses):
                mine, its = (each.last_announced.get(held, -NEVER) for each in (master, other))
                if mine < its <= at < self._simulated.now - answered_s:
                    self.fail(f"{other} announced {held[1]} after {master}, which is master (11)")

    def _able(self, record: Record) -> bool:
        """Return whether a virtual router, and each member of its group, can be master."""
        host = record.host
        if host.service is None or not (host.script_up or self._weighs(record) or record.instance.priority == OWNER):
            return False
        grouped = bool(host.configuration.groups)
        mine = self._records[host.number].values() if grouped else (record,)
        return all(host.devices[each.instance.interface].up for each in mine)

    @staticmethod
    def _weighs(record: Record) -> bool:
        track = record.host.configuration.scripts[0].track
        return track.weight != 0
