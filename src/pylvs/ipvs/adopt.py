"""Take over the table and the live connections of the kernel's IPVS, without losing a packet.

pylvs sees packets before IPVS does. So the devices are attached behind a gate, which passes all packets to IPVS until
one store opens it (`dataplane/devices/gate.py`). The steps, and what serves if this process is killed after each:

1. fill the tables, attach the devices behind the closed gate, copy the connections: IPVS; a later run begins again;
2. open the gate, and copy what changed since: pylvs. Packets of connections that are still to be copied are dropped;
   their senders repeat them. A later run continues here;
3. delete IPVS's services, copy what IPVS opened for clients on this host, remove the gate: pylvs; likewise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.dataplane import load
from pylvs.dataplane.connections import states
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.devices import gate
from pylvs.dataplane.devices.move import is_open
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.exchange.insertion import BYPASS, Incoming, Insertion, Key, is_about_right
from pylvs.dataplane.reader import table_use
from pylvs.dataplane.state import GATE
from pylvs.dataplane.tables import MASK32, Tables
from pylvs.ipvs.kernel import KernelIpvs, readable
from pylvs.ipvs.listing import Line, parsed
from pylvs.ipvs.plan import HARMLESS, MANAGERS, Content, Found, Left, Plan, Resolver, plan, why_left
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import Busy, NoSpace, PylvsError, Unsupported, counted
from pylvs.model.rows import ServiceRow
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceChange,
    ServiceKey,
    VirtualService,
    is_probe_mark,
)
from pylvs.system.lock import Lock

Row = tuple[VirtualService, tuple[Destination, ...]]
_HOLD_S = 5  # how long packets without a connection are dropped at most after a kill
_PASSES = 5  # before the gate opens, at most, and while packets wait
_RENEWED = 10_000  # lines between two renewals of the hold
_TIMED = 32  # lines with one reading of the clock: the kernel prints about as many at once
_FEW = 50  # changed connections: another pass would find as many
_SPARE = 2  # the capacity that the table gets, in connections that IPVS has
_FTP_MODULE = "/sys/module/ip_vs_ftp"


@dataclass(slots=True)
class Outcome:
    """What was taken over. `pause_s`: how long packets without a connection were dropped."""

    services: int = 0
    connections: int = 0
    late: int = 0  # of them, copied after the gate was open
    pause_s: float = 0.0
    left: Left = field(default_factory=Left)
    was_interrupted: bool = False


def content_of(kernel: KernelIpvs) -> Content:
    """Read everything but the connections."""
    return Content(
        kernel.rows(),
        kernel.timeouts(),
        kernel.settings(),
        kernel.daemons(),
        _managers(),
        os.path.isdir(_FTP_MODULE),
    )


def _managers() -> list[tuple[str, int]]:
    """Return the programs of this network namespace that edit IPVS."""
    found, own = [], os.stat("/proc/self/ns/net").st_ino
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/comm") as file:
                command = file.read().strip()
            if command in MANAGERS and os.stat(f"/proc/{name}/ns/net").st_ino == own:
                found.append((command, int(name)))
        except OSError:
            continue  # it has ended
    return found


def planned(kernel: KernelIpvs, director: BpfDirector) -> tuple[Plan, list[Line], Left]:
    """Return what would be taken over, the connections, and those that would be left."""
    found = plan(content_of(kernel), SCHEDULERS, director.mark_rules())
    resolver, left, lines = Resolver(found.rows), Left(), list(kernel.connections())
    for line in lines:
        if reason := why_left(line, resolver.find(line), is_known_state(line)):
            left.counts[reason] += 1
    return found, lines, left


@cache
def _known_states() -> frozenset[tuple[int, str]]:
    named = {(int(protocol), name) for protocol, names in states().items() for name in names.values()}
    return frozenset({*named, *((int(protocol), "NONE") for protocol in states()), (int(Protocol.UDP), "UDP")})


def is_known_state(line: Line) -> bool:
    """Return whether pylvs has the state of a connection."""
    return (line.protocol, line.state) in _known_states()


def refusals(found: Plan, left: Left) -> list[str]:
    """Return what cannot be taken over and clients would notice."""
    noticed = Left(left.counts.copy())
    for reason in HARMLESS:
        del noticed.counts[reason]
    return [*found.problems, *noticed.lines()]


def checked(kernel: KernelIpvs, director: BpfDirector, force: bool) -> tuple[Plan, list[Line]]:
    """Return what is taken over, and the connections. Raises Unsupported, Busy if that is not possible."""
    found, lines, left = planned(kernel, director)
    if not found.rows:
        raise Unsupported("ip_vs has no services in this network namespace: there is nothing to adopt")
    if (refused := refusals(found, left)) and not force:
        raise Unsupported(f"ip_vs has what pylvs cannot take over: {'; '.join(refused)}; nothing was changed")
    if any(not is_probe_mark(row.service.key.mark) for row in director.services()):
        raise Busy("pylvs has services in this network namespace already; pylvs down removes them")
    return found, lines


@dataclass(slots=True)
class _Pass:
    """One pass over IPVS's connections: which of them are taken over. `slots` and `found` outlive it."""

    rows: tuple[Row, ...]
    destinations: DestinationSlots
    slots: dict[tuple[ServiceKey, DestinationKey], int | None]
    found: dict[tuple[object, ...], tuple[Found | None, int | None]]
    left: Left = field(default_factory=Left)
    resolver: Resolver = field(init=False)

    def __post_init__(self) -> None:
        self.resolver = Resolver(self.rows)

    def taken(self, line: Line) -> Incoming | None:
        """Return a connection as it is taken over; None if it is left."""
        ends = line[:7]
        if ends not in self.found:
            belongs = self.resolver.find(line)
            self.found[ends] = belongs, self._slot(belongs) if belongs else None
        found, slot = self.found[ends]
        reason = why_left(line, found, is_known_state(line))
        if reason or found is None or slot is None:
            self.left.counts[reason or "their server is not in the table"] += 1
            return None
        return _incoming_of(line, found, slot)

    def _slot(self, found: Found) -> int | None:
        if found.destination is None:
            return BYPASS
        name = found.service.key, found.destination.key
        if name not in self.slots:
            self.slots[name] = self.destinations.listed(*name)
        return self.slots[name]


class Adoption:
    """One run. `report` gets the name of each step after it; tests end the process there."""

    def __init__(
        self, director: BpfDirector, kernel: KernelIpvs, report: Callable[[str], None] = lambda _: None
    ) -> None:
        self._director = director
        self._kernel = kernel
        self._report = report
        self._rows: tuple[Row, ...] = ()
        self._slots: dict[tuple[ServiceKey, DestinationKey], int | None] = {}
        self._found: dict[tuple[object, ...], tuple[Found | None, int | None]] = {}  # by the ends of a connection
        # Of those that were copied: the key, and when it ends, by its line without that time.
        self._lines: dict[bytes, tuple[Key, float]] = {}
        self._holds = False  # packets without a connection are dropped
        self._outcome = Outcome()

    def run(self, force: bool = False) -> Outcome:
        """Adopt, or complete an adoption that was interrupted.

        Without `force`, raise Unsupported for what cannot be taken over. Raises Busy, NoSpace, and what edits raise.
        Until the gate opens, an error leaves everything as it was.
        """
        director = self._director
        if director.state.exists and director.state.has_gate:
            with Lock(director.state.pin_path(GATE), 0, "pylvs adopt"):
                if is_open(director.state):
                    director.adopting = True
                    return self._complete()
            give_up(director)
        found, lines = checked(self._kernel, director, force)
        self.make(len(lines))
        with ExitStack() as opened:
            opened.enter_context(Lock(director.state.pin_path(GATE), 0, "pylvs adopt"))
            try:
                insertion = self.fill(found, opened)
            except BaseException:
                give_up(director)
                raise
            self._switch(insertion)
            return self._finish(insertion)

    # --- before the gate opens ---

    def make(self, connections: int) -> None:
        """Make the tables, with space for so many connections, and the closed gate."""
        director = self._director
        if not director.state.exists:
            usual = director.settings()["conn_max"]
            director.make(0 if connections * _SPARE < usual else connections * _SPARE)
        with director.batch():
            use = table_use(director.tables)
            if use.capacity < connections:
                raise NoSpace(
                    f"ip_vs has {counted(connections, 'connection')}, and the table of pylvs is for {use.capacity}:"
                    f" pylvs sysctl -w net.ipv4.vs.conn_max={connections * _SPARE}",
                    "connections",
                    use.capacity,
                )
            gate.close(director.state)
            director.adopting = True
        self._report("gate closed")

    def fill(self, found: Plan, opened: ExitStack) -> Insertion:
        """Fill the tables, and attach the devices. IPVS still serves."""
        director = self._director
        if not director.shadowing:
            director.follow_host()  # devices that were attached before run the gate from now on
        self._report("devices gated")
        with director.batch():
            for name, value in found.settings.items():
                if name != "conn_max":
                    director.change_setting(name, value)
            director.set_timeouts(found.timeouts)
            self._follow(found.rows)
        self._report("services filled")
        if problems := [each for each in director.device_problems() if each.needed]:
            raise Busy("; ".join(f"{each.device}: {each.reason}" for each in problems))
        with director.batch():
            insertion = opened.enter_context(Insertion(director.tables, self._renew))
        self._report("insertion loaded")
        for number in range(_PASSES):
            if number:
                self.reread(found)
            changed = self.copy(insertion)
            if insertion.refused:
                raise NoSpace(f"the table of pylvs refuses {counted(insertion.refused, 'connection')}", "connections")
            self._report(f"pass {number + 1}")
            if changed <= _FEW and number:
                break
        return insertion

    def reread(self, found: Plan) -> None:
        """Follow edits of IPVS's table since it was read. Raises Unsupported if they cannot be taken over."""
        fresh = plan(content_of(self._kernel), SCHEDULERS, self._director.mark_rules())
        if new := set(fresh.problems) - set(found.problems):
            raise Unsupported(f"ip_vs has changed, and pylvs cannot take over: {'; '.join(sorted(new))}")
        self._director.set_timeouts(fresh.timeouts) if fresh.timeouts != found.timeouts else None
        self._follow(fresh.rows)

    def _follow(self, rows: Sequence[Row]) -> None:
        """Make the services those of IPVS, as one edit."""
        if tuple(rows) == self._rows:
            return
        changes = list(_changes(self._rows, rows))
        self._director.apply(changes)
        self._rows = tuple(rows)
        self._slots.clear()
        self._found.clear()
        self._lines.clear()

    def copy(self, insertion: Insertion, ends: bool = True, lines: Iterable[Line] | None = None) -> int:
        """Make one pass over IPVS's connections, or these; return how many differed from the pass before."""
        found = _Pass(self._rows, DestinationSlots(self._director.tables), self._slots, self._found)
        if lines is not None:
            changed = insertion.run(filter(None, map(found.taken, lines)), ends)
        else:
            same = set[Key]()
            with readable():
                changed = insertion.run(self._changed(found, insertion, same), ends, same)
        self._outcome.left = found.left
        return changed

    def _changed(self, found: _Pass, insertion: Insertion, same: set[Key]) -> Iterator[Incoming]:
        """Yield what differs from the pass before, and add the keys of all else to `same`.

        Packets may wait during it. Most lines have changed in their time alone, so they are not even parsed.
        """
        began_s = read_s = time.monotonic()
        texts = list[tuple[bytes, float]]()  # with the time at which the kernel printed it
        for number, text in enumerate(self._kernel.connection_lines()):
            if number % _RENEWED == 0:
                self._renew()
            if number % _TIMED == 0:
                read_s = time.monotonic()
            if number and text.strip():
                texts.append((text, read_s))
        known, there = self._lines, insertion.there
        for text, at_s in texts:
            words, _, left = text.rpartition(b" ")
            before = known.get(words.rstrip())
            if before is not None and before[0] in there:
                key, end_s = before
                if is_about_right(at_s + int(left) - end_s, end_s - at_s):
                    same.add(key)
                    continue
            line = parsed(text)
            if incoming := found.taken(line):
                if not line.engine:
                    known[words.rstrip()] = line.key, at_s + line.expires_s
                yield incoming._replace(expires_s=line.expires_s + at_s - began_s)

    def _renew(self) -> None:
        """Hold packets without a connection for longer, if they are held: a large copy takes more than `_HOLD_S`."""
        if self._holds:
            _hold(self._director.tables)

    def _copy_all(self, insertion: Insertion) -> int:
        """Copy after the last packet that IPVS saw: a pass that misses some may have skipped others (`Insertion`)."""
        changed = 0
        for _ in range(_PASSES):
            changed += self.copy(insertion)
            if not insertion.missed:
                break
        return changed

    # --- the switch, and what follows ---

    def _switch(self, insertion: Insertion) -> None:
        tables, state = self._director.tables, self._director.state
        _hold(tables)
        began = time.monotonic()
        gate.open_all(state)
        self._report("gate open")
        self._holds = True
        self._outcome.late = self._copy_all(insertion)
        self._holds = False
        _hold(tables, hold=False)
        self._outcome.pause_s = time.monotonic() - began
        self._report("connections copied")

    def _finish(self, insertion: Insertion) -> Outcome:
        """Let IPVS go. pylvs serves already. Raises NoSpace while IPVS has connections that pylvs refuses."""
        director = self._director
        if insertion.refused:
            self.copy(insertion, ends=False)  # a packet may have had the entry at that moment
        if insertion.refused:
            raise NoSpace(
                f"pylvs serves, but its table refuses {counted(insertion.refused, 'connection')} of ip_vs, which keeps"
                " them: pylvs sysctl -w net.ipv4.vs.conn_max=NUMBER, then pylvs adopt completes it",
                "connections",
            )
        if rows := self._kernel.rows():
            wanted = tuple(row.wanted for row in rows)
            try:
                self._follow(wanted)  # an edit since the last look
            except PylvsError as error:
                raise type(error)(f"pylvs serves, but ip_vs has changed: {error}") from None
            self._kernel.flush()
        self._report("ip_vs flushed")
        self.copy(insertion, ends=False)  # IPVS has served clients on this host until now
        self._report("latest connections copied")
        with director.batch():
            gate.withdraw(director.state)
        self._report("gate withdrawn")
        director.follow_host()
        self._report("devices attached")
        director.adopting = False
        self._outcome.services = len(self._rows)
        self._outcome.connections = len(insertion.there)
        return self._outcome

    def _complete(self) -> Outcome:
        """Continue an adoption that was interrupted after the gate was open."""
        director = self._director
        self._outcome.was_interrupted = True
        self._rows = tuple(
            (row.service, tuple(each.destination for each in row.destinations)) for row in _own(director.services())
        )
        with ExitStack() as opened:
            with director.batch():
                insertion = opened.enter_context(Insertion(director.tables))
            for _ in range(2):  # the first pass knows of none that it could miss
                self.copy(insertion, ends=False)
            _hold(director.tables, hold=False)
            self._report("connections copied")
            return self._finish(insertion)


def give_up(director: BpfDirector) -> None:
    """Remove everything behind a closed gate; IPVS serves all the time. Mark rules stay.

    Raises Busy if the gate is open: pylvs serves.
    """
    state = director.state
    if not (state.exists and state.has_gate):
        return
    if is_open(state):
        raise Busy("pylvs serves already, so the adoption cannot be given up: pylvs adopt completes it")
    rules = director.mark_rules()
    director.close()
    load.take_down(state)
    director.open_again()
    director.adopting = False
    if rules:
        director.change_mark_rules(lambda _: rules)


def _own(rows: Sequence[ServiceRow]) -> list[ServiceRow]:
    return [row for row in rows if not is_probe_mark(row.service.key.mark)]


def _hold(tables: Tables, hold: bool = True) -> None:
    """Drop packets without a connection from now on, also if this process is killed, for a limited time; or no more."""
    until = load.clock(tables.state) + round(_HOLD_S * load.ticks_per_second())
    tables.pool.set(0, "copy_until", (until & MASK32 or 1) if hold else 0)


def _incoming_of(line: Line, found: Found, slot: int) -> Incoming:
    service, timeout = found.service, 0
    if line.is_template:
        timeout = max(round(service.timeout_s * load.ticks_per_second()), 1)
        method = int(Method.LOCAL)  # as the packet path makes templates: it reads the method from the destination
    else:
        method = int(found.destination.method) if found.destination else 0
    return Incoming(
        line.protocol,
        line.client,
        line.client_port,
        line.virtual,
        line.virtual_port,
        line.state,
        line.expires_s,
        slot,
        line.server_port,
        method,
        found.template,
        timeout,
        line.is_template,
    )


def _changes(before: Sequence[Row], after: Sequence[Row]) -> Iterator[ServiceChange]:
    """Yield what makes services those of another list. The order of servers is that of IPVS where all are new."""
    former = {service.key: (service, servers) for service, servers in before}
    latter = {service.key for service, _ in after}
    yield from (ServiceChange(key, None) for key in former if key not in latter)
    for service, servers in after:
        oldest_first = tuple(reversed(servers))
        if service.key not in former:
            yield ServiceChange(service.key, service, is_new=True, added=oldest_first)
            continue
        had = {each.key: each for each in former[service.key][1]}
        has = {each.key for each in servers}
        change = ServiceChange(
            service.key,
            service,
            deleted=tuple(key for key in had if key not in has),
            edited=tuple(each for each in oldest_first if each.key in had and had[each.key] != each),
            added=tuple(each for each in oldest_first if each.key not in had),
        )
        if service != former[service.key][0] or change.deleted or change.edited or change.added:
            yield change
