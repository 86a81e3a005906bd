"""Runs one plan: hosts, the network between them, its faults, and one queue of events in simulated time.

The seed decides everything, so that a seed gives the same trace each time. Nothing here sleeps or reads a clock.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.dataclass import replace
from pylvs.model.vrrp import OWNER, Track, Tracks, VrrpConfiguration
from pylvs.vrrp.helper.link import LogLine, StateChanged
from pylvs.vrrp.loop import Call
from pylvs.vrrp.protocol.adverts import Datagram
from tests.unit.vrrp.simulation import schedule
from tests.unit.vrrp.simulation.host import Host, Storm
from tests.unit.vrrp.simulation.invariants import Checker
from tests.unit.vrrp.simulation.records import Sent
from tests.unit.vrrp.simulation.schedule import DOWN_KINDS, FOREVER, LINK_KINDS, NEW_SCRIPT, Fault, Plan
from tests.unit.vrrp.simulation.system import simulated

CHECK_S = 0.5  # between two checks of processes that have nothing to do
MAX_EVENTS = 20_000  # in one seed; most take some hundreds, more is a storm of answers

Trace = Callable[[str], None]


class Violated(Exception):
    """An invariant does not hold."""


@dataclass(slots=True)
class Link:
    """The connection from one host to another on one network."""

    cut: bool = False
    loss: float = 0.0
    min_delay_s: float = 0.0
    extra_delay_s: float = 0.0
    duplication: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one seed; `violation` is "" if every invariant held."""

    seed: int
    violation: str
    faults: tuple[Fault, ...] = ()
    coverage: frozenset[str] = frozenset()  # what happened at least once


def run(seed: int, trace: Trace | None = None, without: Collection[int] = (), only: int | None = None) -> Outcome:
    """Run one seed without the faults of these numbers; check `only` one invariant. Call it inside `simulated()`."""
    plan = schedule.make(seed)
    kept = [fault for number, fault in enumerate(plan.faults) if number not in without]
    simulation = Simulation(replace(plan, faults=kept), trace, only)
    try:
        simulation.run()
    except (Violated, Storm) as violated:
        return Outcome(seed, str(violated), tuple(kept), frozenset(simulation.checker.coverage))
    return Outcome(seed, "", tuple(kept), frozenset(simulation.checker.coverage))


def shorten(seed: int) -> set[int]:
    """Return the numbers of faults without which the seed still fails."""
    without: set[int] = set()
    for number in range(len(schedule.make(seed).faults)):
        if run(seed, without=without | {number}).violation:
            without.add(number)
    return without


def explain(seed: int, last: int = 40) -> str:
    """Describe a seed that fails: its plan, the faults that it needs, and the last events."""
    with simulated():
        without = shorten(seed)
        lines: list[str] = []
        outcome = run(seed, lines.append, without)
    replay = f"python -m tests.unit.vrrp.simulation --seed {seed} --trace"
    if without:
        replay += f" --without {','.join(map(str, sorted(without)))}"
    faults = [f"  {fault}" for fault in outcome.faults] or ["  none"]
    head = [f"seed {seed}: {outcome.violation}", str(schedule.make(seed)), "faults:", *faults]
    return "\n".join([*head, "last events:", *lines[-last:], f"replay: {replay}"])


class Simulation:
    """One run; the `Network` of its hosts."""

    def __init__(self, plan: Plan, trace: Trace | None = None, only: int | None = None) -> None:
        self.plan = plan
        self.now = 0.0
        self.trace = trace
        self._random = random.Random(~plan.seed & 0xFFFFFFFFFFFF)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._count = 0
        self._wakes: list[tuple[float, float] | None] = [None] * len(plan.hosts)  # global and local time
        self._active: list[Fault] = []
        self._latest_arrival = 0.0  # of what was sent before the network was whole
        self.hosts = [Host(number, each, self) for number, each in enumerate(plan.hosts)]
        self.checker = Checker(self, only)
        self.stepped = self.checker.stepped
        self._others = [[each for each in self.hosts if each is not host] for host in self.hosts]
        least, more = plan.delay_s
        self._links = [
            {
                (a.number, b.number): Link(min_delay_s=least, extra_delay_s=more)
                for a in self.hosts
                for b in self.hosts
                if a is not b
            }
            for _ in range(plan.lans)
        ]

    # --- time ---

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), call, arguments))

    def run(self) -> None:
        """Run the simulation. Raises Violated."""
        plan = self.plan
        for host in self.hosts:
            self.at(host.plan.starts_at, self._start, host)
        for fault in plan.faults:
            self.at(fault.begin, self._begin, fault)
            if fault.end != FOREVER and fault.kind not in ("reload", "remove"):
                self.at(fault.end, self._end, fault)
        self.at(CHECK_S, self._check_idle)
        self._run_until(plan.heals_at)
        whole_at = max(plan.heals_at, self._latest_arrival, *(host.plan.starts_at for host in self.hosts))
        if self.trace is not None:
            self.say("", f"the network is whole from {whole_at:.6f}")
        settled_at = whole_at + self.checker.bound_s()
        self._run_until(settled_at)
        self.checker.settled()
        self._check()
        self._run_until(settled_at + self.checker.watch_s())
        self.checker.settled()
        self._check()

    def _run_until(self, end: float) -> None:
        events, checker = self._events, self.checker
        while events and events[0][0] <= end:
            self.now, _, call, arguments = heapq.heappop(events)
            call(*arguments)
            if checker.violation:
                self._check()
            self._count += 1
            if self._count > MAX_EVENTS:
                raise Storm(f"t={self.now:.6f}: more than {MAX_EVENTS} events (0)")
        self.now = end

    def _check(self) -> None:
        if self.checker.violation:
            text = f"t={self.now:.6f}: {self.checker.violation}"
            if self.trace is not None:
                self.trace(f"VIOLATED: {text}")
            raise Violated(text)

    def say(self, who: str, text: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.now:12.6f} {who:3} {text}")

    def local(self, host: Host, when: float | None = None) -> float:
        """Return a host's clock at a time; None is now."""
        return host.plan.offset + (self.now if when is None else when) * host.plan.rate

    # --- the hosts' process ---

    def _start(self, host: Host) -> None:
        if host.service is not None or self._down(host):
            return
        host.stalled_until = 0.0
        host.now = max(host.now, self.local(host))
        self.say(host.name, "starts")
        self.checker.starts(host)
        host.start()

    def _check_idle(self) -> None:
        """Check processes that may have missed their time."""
        for host in self.hosts:
            if host.service is not None and self.now >= host.stalled_until:
                host.now = max(host.now, self.local(host))
                self.checker.stepped(host)
        self.at(self.now + CHECK_S, self._check_idle)

    def _down(self, host: Host) -> bool:
        return any(fault.host == host.number and fault.kind in DOWN_KINDS for fault in self._active)

    def _step(self, host: Host) -> None:
        if self.now >= host.stalled_until:
            host.step(self.local(host))

    def due(self, host: Host, when: float) -> None:
        wake = self._wakes[host.number]
        if wake is not None and wake[1] == when:
            return
        at = max(self.now, (when - host.plan.offset) / host.plan.rate)
        self._wakes[host.number] = wake = (at, when)
        heapq.heappush(self._events, (at, next(self._order), self._wake, (host, wake)))

    def _wake(self, host: Host, wake: tuple[float, float]) -> None:
        if self._wakes[host.number] is not wake:
            return  # an earlier timer is due, or the timer was cancelled
        self._wakes[host.number] = None
        if self.now >= host.stalled_until:
            host.step(max(wake[1], self.local(host)))

    # --- the network ---

    def transmit(self, host: Host, device: str, datagram: Datagram) -> None:
        sent = self.checker.sends(host, device, datagram)
        fates = [] if self.trace is None else [f"sends {sent}:"]
        port = host.devices[device]
        if port.up:
            lan = int(device[3:])
            for other in self._others[host.number]:
                if not sent.multicast and datagram.destination != other.plan.sources[lan]:
                    continue
                for arrival in self._arrivals(lan, host, other):
                    self.at(arrival, self._deliver, other, device, sent)
                    if fates:
                        fates.append(f"{other.name} at {arrival:.6f}")
        if fates:
            self.say(host.name, " ".join(fates) if len(fates) > 1 else f"{fates[0]} to no host")

    def _arrivals(self, lan: int, host: Host, other: Host) -> list[float]:
        link, draw = self._links[lan][host.number, other.number], self._random.random
        if link.cut or (link.loss and draw() < link.loss):
            return []
        arrivals = [self.now + link.min_delay_s + link.extra_delay_s * draw()]
        if link.duplication and draw() < link.duplication:
            arrivals.append(self.now + link.min_delay_s + link.extra_delay_s * draw())
        if self.now <= self.plan.heals_at:
            self._latest_arrival = max(self._latest_arrival, *arrivals)
        return arrivals

    def delivers(self, lan: int, sender: int, receiver: int) -> bool:
        link = self._links[lan][sender, receiver]
        return not link.cut and not link.loss

    def _deliver(self, host: Host, device: str, sent: Sent) -> None:
        if host.service is not None and host.devices[device].up and host.receive(device, sent):
            self._step(host)

    def announce(self, host: Host, device: str, frame: bytes) -> None:
        address = self.checker.announces(host, device, frame)
        if self.trace is not None:
            self.say(host.name, f"announces {address} on {device}")
        if not host.devices[device].up:
            return
        lan = int(device[3:])
        for other in self._others[host.number]:
            for arrival in self._arrivals(lan, host, other):
                self.at(arrival, self._deliver_frame, other, device, frame)

    def _deliver_frame(self, host: Host, device: str, frame: bytes) -> None:
        if host.service is not None and host.devices[device].up and host.receive_frame(device, frame):
            self._step(host)

    def process(self, host: Host, datagram: Datagram, handle: Call) -> None:
        self.checker.processes(host, datagram, handle)

    def message_sent(self, host: Host, message: Any) -> None:
        if isinstance(message, StateChanged):
            self.checker.moved(host, message)
            if self.trace is not None:
                self.say(host.name, f"{message.name}: {message.before or '-'} to {message.state}, {message.priority}")
        elif isinstance(message, LogLine):
            if "this is a bug" in message.text:
                self.checker.fail(f"{host.name}: {message.text} (0)")
            if self.trace is not None:
                self.say(host.name, f"log {message.level}: {message.text}")

    def held(self, host: Host, device: str, address: Address, added: bool) -> None:
        self.checker.holds(host, device, address, added)
        if self.trace is not None:
            self.say(host.name, f"{'adds' if added else 'removes'} {address} {'to' if added else 'from'} {device}")

    # --- faults ---

    def _begin(self, fault: Fault) -> None:
        if self.trace is not None:
            self.say("", f"begins: {fault}")
        self._active.append(fault)
        if fault.kind in LINK_KINDS:
            self._set_links(fault.lan)
            return
        self.checker.coverage.add(fault.kind)
        _BEGIN[fault.kind](self, self.hosts[fault.host], fault)

    def _end(self, fault: Fault) -> None:
        if self.trace is not None:
            self.say("", f"ends: {fault}")
        self._active.remove(fault)
        host = self.hosts[fault.host]
        if fault.kind in LINK_KINDS:
            self._set_links(fault.lan)
        elif fault.kind in DOWN_KINDS:
            if self.now >= host.plan.starts_at:
                self._start(host)
        elif fault.kind in ("carrier", "admin"):
            self._set_device(host, fault)
        elif fault.kind == "script":
            self._find(host, fault)
        elif fault.kind == "stall":
            self._step(host)

    def _set_links(self, lan: int) -> None:
        least, more = self.plan.delay_s
        for pair, link in self._links[lan].items():
            mine = [fault for fault in self._active if fault.lan == lan and pair in fault.pairs]
            link.cut = any(fault.kind == "cut" for fault in mine)
            link.loss = max((fault.value for fault in mine if fault.kind == "loss"), default=0.0)
            link.min_delay_s = least
            link.extra_delay_s = max((fault.value for fault in mine if fault.kind == "delay"), default=more)
            link.duplication = max((fault.second for fault in mine if fault.kind == "delay"), default=0.0)

    def _set_device(self, host: Host, fault: Fault) -> None:
        """Set a device to the state that all active faults leave."""
        name = f"eth{fault.lan}"
        mine = [each for each in self._active if each.host == host.number]
        enabled = not any(each.kind == "admin" and each.lan == fault.lan for each in mine)
        plugged = not any(each.kind == "carrier" and each.lan == fault.lan for each in mine)
        host.set_link(name, enabled=enabled, carrier=plugged)
        self.checker.touches(host)
        self._step(host)

    def _find(self, host: Host, _: Fault) -> None:
        host.find(not any(each.host == host.number and each.kind == "script" for each in self._active))
        self._step(host)

    def _kill(self, host: Host, _: Fault) -> None:
        self.checker.ends(host)
        host.kill()

    def _stop(self, host: Host, _: Fault) -> None:
        if host.service is not None and self.now >= host.stalled_until:
            host.now = max(host.now, self.local(host))
            host.stop()
        self.checker.ends(host)
        host.kill()

    def _power_off(self, host: Host, _: Fault) -> None:
        self.checker.ends(host)
        host.kill()
        host.forget_everything()

    def _stall(self, host: Host, fault: Fault) -> None:
        if host.service is not None:
            host.stalled_until = max(host.stalled_until, fault.end)
            host.resumed_at = self.local(host, host.stalled_until)

    def _remove(self, host: Host, fault: Fault) -> None:
        self._active.remove(fault)
        for device, address in sorted(host.virtual(), key=str)[:1]:
            host.remove(device, address)
        self.checker.touches(host)
        self._step(host)

    def _reload(self, host: Host, fault: Fault) -> None:
        self._active.remove(fault)
        if any(each.priority == OWNER for each in host.configuration.instances):
            return
        instances = tuple(replace(each, priority=int(fault.value)) for each in host.configuration.instances)
        configuration = replace(host.configuration, instances=instances)
        if self.now < host.stalled_until:
            return
        if fault.tracks_more:
            configuration = _with_script(configuration)
            self.at(fault.end, self._know, host)
        host.now = max(host.now, self.local(host))
        host.reload(configuration)

    def _know(self, host: Host) -> None:
        if host.service is not None and self.now >= host.stalled_until:
            host.now = max(host.now, self.local(host))
            host.know()
        else:
            self.at(self.now + CHECK_S, self._know, host)

    def _yield(self, host: Host, fault: Fault) -> None:
        """`pylvs vrrp yield`, for as long as the fault lasts at most by any clock."""
        if host.service is None or self.now < host.stalled_until:
            return
        host.now = max(host.now, self.local(host))
        seconds = (fault.end - fault.begin) * (1 - schedule.MAX_DRIFT)
        self.checker.yields(host, host.now + seconds)
        host.yield_for(seconds)


def _with_script(configuration: VrrpConfiguration) -> VrrpConfiguration:
    """Return a configuration with one more tracked script, of all instances or their group."""
    if len(configuration.scripts) > 1:
        return configuration
    track = Track(NEW_SCRIPT)
    script = replace(configuration.scripts[0], name=NEW_SCRIPT, track=track)

    def more(tracks: Tracks) -> Tracks:
        return replace(tracks, scripts=(*tracks.scripts, track))

    return replace(
        configuration,
        scripts=(*configuration.scripts, script),
        instances=tuple(replace(each, tracks=more(each.tracks)) for each in configuration.instances),
    )


_BEGIN: dict[str, Callable[[Simulation, Host, Fault], None]] = {
    "kill": Simulation._kill,
    "stop": Simulation._stop,
    "off": Simulation._power_off,
    "stall": Simulation._stall,
    "carrier": Simulation._set_device,
    "admin": Simulation._set_device,
    "script": Simulation._find,
    "remove": Simulation._remove,
    "reload": Simulation._reload,
    "yield": Simulation._yield,
}
