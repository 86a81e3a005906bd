"""All BFD sessions of a process: their machines, timers and sockets, and their results for those who track them.

A session's result is True while it is up and False while it is down. A new session has None, for as long as its
neighbor may take to answer. If the neighbor disables the session (AdminDown), nothing is known about the path, and the
result stays (RFC 5882 section 3.2, as in keepalived).
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from pylvs.bfd.flood_guard import FloodGuard, Known, neighbor_filter, session_filter
from pylvs.bfd.machine import SECOND_US, Become, Machine, Send, Step, explain
from pylvs.bfd.packet import Diagnostic, Flaw, InvalidPacket, Packet, State, decode, diagnostic_text
from pylvs.bfd.sockets import FIRST_SOURCE_PORT, LAST_SOURCE_PORT, Datagram, Receiver, Sender
from pylvs.model.addresses import Address
from pylvs.model.bfd import BfdSession, Result
from pylvs.model.dataclass import dataclass, field

REOPEN_S = 1.0  # after another program had the port
READS = 64  # of a full receiver, before a session may expire

Call = Callable[[], None]
Watched = tuple[int, int]  # family and port of a receiver


class Timer(Protocol):
    """A pending call."""

    @property
    def when(self) -> float: ...

    def cancel(self) -> None: ...


class EventLoop(Protocol):
    """The loop that calls at a time, and when a descriptor is readable."""

    @property
    def now(self) -> float: ...

    def at(self, when: float, call: Call) -> Timer: ...

    def watch(self, descriptor: int, read: Call | None, write: Call | None = None) -> None: ...

    def forget(self, descriptor: int) -> None: ...


class Owner(Protocol):
    """The process that has the sessions."""

    def log(self, level: str, text: str, **fields: Any) -> None: ...

    def publish(self, event: str, instance: str, **fields: Any) -> None: ...

    def session_changed(self, name: str) -> None:
        """Another result of a session."""


@dataclass(slots=True, eq=False)
class Session:
    """A session between its first and last configuration."""

    machine: Machine
    up: bool | None = None
    held: bool = False  # `up` is from before the neighbor disabled the session
    since: float = 0.0  # of the state, Unix time; 0 before the first change
    reason: str = ""  # of the state
    flaps: int = 0  # how often it left state Up
    sent: int = 0
    received: int = 0
    dropped: Counter[Flaw] = field(default_factory=Counter)
    sender: Sender | None = None
    error: str = ""  # why nothing can be sent
    send_errors: int = 0
    logged: set[Flaw] = field(default_factory=set)  # since it was up last
    timer: Timer | None = None
    deadline: Timer | None = None  # for the state Up

    @property
    def settings(self) -> BfdSession:
        return self.machine.session

    @property
    def key(self) -> Watched:
        """Family and port of its packets."""
        return self.settings.neighbor.version, self.settings.port

    @property
    def establish_s(self) -> float:
        """How long a neighbor may take to answer: the detection time of a session that is not up."""
        return self.settings.multiplier * self.settings.idle_tx_us / SECOND_US

    def result(self) -> Result:
        if self.up is None:
            return Result(None, self.error or "no answer yet")
        if self.held:
            return Result(self.up, "the neighbor has disabled the session; this is its last state")
        return Result(self.up, self.error or self.reason)


class Sessions:
    """The sessions of a configuration."""

    def __init__(
        self,
        loop: EventLoop,
        owner: Owner,
        chance: Callable[[], float] = random.random,
        open_receiver: Callable[[int, int], Receiver] = Receiver,
        open_sender: Callable[[BfdSession, int], Sender] = Sender,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._chance = chance
        self._open_receiver = open_receiver
        self._open_sender = open_sender
        self._by_name: dict[str, Session] = {}
        self._by_neighbor: dict[tuple[int, int, Address], list[Session]] = {}  # with family and port
        self._leaving: list[Session] = []  # removed, while they inform their neighbors
        self._receivers: dict[Watched, Receiver] = {}
        self._guards: dict[Watched, FloodGuard] = {}
        self._blocked: dict[Watched, str] = {}  # why there is no receiver
        self._reopen: Timer | None = None
        self.unknown = 0  # packets of no session

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def configure(self, wanted: Iterable[BfdSession]) -> list[str]:
        """Run these sessions; one with the same neighbor and addresses continues. Return error messages."""
        new = {each.name: each for each in wanted}
        for name, session in list(self._by_name.items()):
            if name not in new or _identity(new[name]) != _identity(session.settings):
                del self._by_name[name]
                self._disable(session)
        for name, settings in new.items():
            if name not in self._by_name:
                self._begin(settings)
            elif self._by_name[name].settings != settings:
                self._reconfigure(self._by_name[name], settings)
        self._open_receivers()
        return list(self._blocked.values())

    def result(self, name: str) -> Result:
        """Return the result of a session; without one, of one that never answers."""
        session = self._by_name.get(name)
        return session.result() if session else Result(None, "it is not configured")

    def results(self) -> dict[str, tuple[bool | None, str]]:
        """Return all results as plain values."""
        found = {name: session.result() for name, session in self._by_name.items()}
        return {name: (result.up, result.detail) for name, result in found.items()}

    def stop(self, removed: bool = False) -> None:
        """End all sessions, and tell their neighbors; `removed`: a reload did so.

        Otherwise the state is Down, not AdminDown: this host ends its work, and neighbors must not keep routes to it.
        """
        state = State.ADMIN_DOWN if removed else State.DOWN
        for session in self._by_name.values():
            self._step(session, session.machine.leave(self._loop.now, state, Diagnostic.ADMIN_DOWN, 0.0), True)
        for session in (*self._by_name.values(), *self._leaving):
            self._close(session)
        self._by_name.clear()
        self._leaving.clear()
        self._open_receivers()

    def status(self) -> list[dict[str, Any]]:
        """Return the state of each session as plain values; times are Unix times."""
        return [self._status(session) for session in self._by_name.values()]

    def _status(self, session: Session) -> dict[str, Any]:
        machine, settings, result = session.machine, session.settings, session.result()
        up = machine.state is State.UP
        return {
            "name": settings.name,
            "neighbor": str(settings.neighbor),
            "source": str(settings.source) if settings.source else None,
            "multihop": settings.multihop,
            "state": str(machine.state),
            "since": session.since or None,
            "up": result.up,
            "reason": session.reason,
            "error": session.error or self._blocked.get(session.key, ""),
            "held": session.held,
            "diagnostic": diagnostic_text(machine.diagnostic),
            "remote_state": str(machine.remote_state),
            "remote_diagnostic": diagnostic_text(machine.remote_diagnostic),
            "discriminator": machine.mine,
            "remote_discriminator": machine.yours,
            "interval_ms": machine.interval_us / 1000,
            "detection_ms": machine.detection_us / 1000 if up else None,
            "remote_multiplier": machine.remote_multiplier,
            "remote_min_tx_ms": machine.remote_min_tx_us / 1000,
            "remote_min_rx_ms": machine.remote_min_rx_us / 1000,
            "polling": machine.polling,
            "flaps": session.flaps,
            "counters": {
                "sent": session.sent,
                "received": session.received,
                "send_errors": session.send_errors,
                "dropped": {flaw.value: count for flaw, count in session.dropped.items()},
            },
        }

    # --- configuration ---

    def _begin(self, settings: BfdSession) -> None:
        for former in [each for each in self._leaving if each.settings.neighbor == settings.neighbor]:
            self._leaving.remove(former)
            self._close(former)
        taken = {session.machine.mine for session in self._by_name.values()}
        number = next(each for each in iter(partial(random.randrange, 1, 1 << 32), 0) if each not in taken)
        session = Session(Machine.begin(settings, number, self._loop.now))
        self._by_name[settings.name] = session
        self._expect_up(session)
        self._arm(session)

    def _reconfigure(self, session: Session, settings: BfdSession) -> None:
        if session.sender is not None and settings.ttl != session.settings.ttl:
            session.sender.set_ttl(settings.ttl)
        self._step(session, session.machine.reconfigure(self._loop.now, settings, self._chance()))

    def _disable(self, session: Session) -> None:
        """Tell the neighbor that the session ends and says nothing about the path, for its detection time (6.8.16)."""
        was_up = session.machine.state is State.UP
        self._expect_nothing(session)
        step = session.machine.leave(self._loop.now, State.ADMIN_DOWN, Diagnostic.ADMIN_DOWN, self._chance())
        self._step(session, step, silent=True)
        if was_up:
            self._leaving.append(session)
            self._loop.at(self._loop.now + session.establish_s, partial(self._forget, session))
        else:
            self._close(session)

    def _forget(self, session: Session) -> None:
        if session in self._leaving:
            self._leaving.remove(session)
            self._close(session)

    def _close(self, session: Session) -> None:
        self._expect_nothing(session)
        if session.timer is not None:
            session.timer.cancel()
            session.timer = None
        if session.sender is not None:
            session.sender.close()
            session.sender = None

    def _open_receivers(self) -> None:
        """Open and close receivers as the sessions need them; try those again whose port another program has."""
        self._by_neighbor = {}
        for session in self._by_name.values():
            self._by_neighbor.setdefault((*session.key, session.settings.neighbor), []).append(session)
        wanted = {session.key for session in self._by_name.values()}
        for key in [key for key in self._receivers if key not in wanted]:
            receiver = self._receivers.pop(key)
            self._guards.pop(key, None)
            self._loop.forget(receiver.fileno())
            receiver.close()
        before, self._blocked = self._blocked, {}
        for key in sorted(wanted):
            family, port = key
            if key not in self._receivers:
                try:
                    self._receivers[key] = receiver = self._open_receiver(family, port)
                except OSError as error:
                    text = f"BFD: UDP port {port} of IPv{family} cannot be opened: {error.strerror}"
                    self._blocked[key] = text
                    if before.get(key) != text:
                        self._owner.log("error", text)
                    continue
                self._loop.watch(receiver.fileno(), partial(self._read, key))
                if key in before:
                    self._owner.log("info", f"BFD: UDP port {port} of IPv{family} is open now")
            self._filter(key)
        if self._blocked and self._reopen is None:
            self._reopen = self._loop.at(self._loop.now + REOPEN_S, self._try_again)

    def _try_again(self) -> None:
        self._reopen = None
        self._open_receivers()

    # --- packets ---

    def _filter(self, key: Watched) -> None:
        """Let the kernel pass what the level of the flood allows."""
        sessions = [each for each in self._by_name.values() if each.key == key]
        guard = self._guards.setdefault(key, FloodGuard())
        guard.sessions = len(sessions)
        if not guard.level:
            self._receivers[key].accept(neighbor_filter(each.settings.neighbor for each in sessions))
            return
        with contextlib.suppress(OSError):  # too large: the one before stays
            self._receivers[key].accept(session_filter(map(_known, sessions), beginning=guard.level == 1))

    def _count(self, key: Watched) -> None:
        """Count a packet without the discriminator of a session."""
        guard = self._guards[key]
        if guard.count(self._loop.now):
            self._filter(key)
            if guard.level == 1 and guard.due is not None:
                self._loop.at(guard.due, partial(self._relax, key))

    def _relax(self, key: Watched) -> None:
        if key in self._receivers:
            self._guards[key].wake(self._loop.now)
            self._filter(key)

    def _read(self, key: Watched, times: int = 1) -> None:
        """Handle the packets that were received."""
        receiver = self._receivers.get(key)
        for _ in range(times if receiver else 0):
            received = receiver.receive() if receiver else []
            for datagram in received:
                if not self._handle(key, datagram) and key in self._receivers:
                    self._count(key)
            if not received:
                if key in self._guards:
                    self._guards[key].emptied()
                return

    def _handle(self, key: Watched, datagram: Datagram) -> bool:
        """Handle a packet; return whether it has the discriminator of a session."""
        session = self._session_of(key, datagram)
        try:
            packet = decode(datagram.payload)
            if packet.yours:  # section 6.8.6: it alone selects the session
                session = next((s for s in self._of(key, datagram) if s.machine.mine == packet.yours), None)
            if session is None:
                raise InvalidPacket(Flaw.NO_SESSION)
            if datagram.ttl < session.settings.min_ttl:
                raise InvalidPacket(Flaw.TTL)
            machine = session.machine
            if not packet.yours and machine.state is State.UP and packet.mine != machine.yours:
                raise InvalidPacket(Flaw.FORGOTTEN)  # anyone on the link could send it
        except InvalidPacket as invalid:
            self._drop(session, invalid.flaw, datagram)
            return False
        session.received += 1
        self._step(session, machine.receive(self._loop.now, packet, self._chance()))
        if session.held and session.deadline is None and packet.state is not State.ADMIN_DOWN:
            self._expect_up(session)  # the neighbor has enabled it again
        return packet.yours != 0

    def _of(self, key: Watched, datagram: Datagram) -> list[Session]:
        """Return the sessions with this neighbor."""
        return self._by_neighbor.get((*key, datagram.source), [])

    def _session_of(self, key: Watched, datagram: Datagram) -> Session | None:
        """Return the session by addresses, as for a packet without a discriminator of ours."""
        for session in self._of(key, datagram):
            if session.settings.source in (None, datagram.destination):
                return session
        return None

    def _drop(self, session: Session | None, flaw: Flaw, datagram: Datagram) -> None:
        if session is None:
            self.unknown += 1
            return
        session.dropped[flaw] += 1
        if flaw not in session.logged:
            session.logged.add(flaw)
            more = ""
            if flaw is Flaw.TTL:
                more = f": {datagram.ttl}, not {session.settings.min_ttl} or more; see max_hops"
            elif flaw is Flaw.AUTHENTICATED:
                more = "; pylvs has no authentication of BFD: remove it at the neighbor"
            text = f"bfd_instance {session.settings.name}: packets from {datagram.source} are dropped"
            self._owner.log("warning", f"{text}: {flaw.value}{more}")

    def _send(self, session: Session, packet: Packet) -> None:
        try:
            if session.sender is None:
                first = random.randint(FIRST_SOURCE_PORT, LAST_SOURCE_PORT)
                session.sender = self._open_sender(session.settings, first)
            session.sender.send(packet.encoded())
        except OSError as error:
            session.send_errors += 1
            if session.error != (text := f"nothing can be sent: {error.strerror}"):
                session.error = text
                self._owner.log("warning", f"bfd_instance {session.settings.name}: {text}")
        else:
            session.sent += 1
            session.error = ""

    # --- states ---

    def _step(self, session: Session, step: Step, silent: bool = False) -> None:
        session.machine, actions = step
        for action in actions:
            if isinstance(action, Send):
                self._send(session, action.packet)
            else:
                self._became(session, action, silent)
        self._arm(session)

    def _became(self, session: Session, become: Become, silent: bool) -> None:
        if session.key in self._receivers and self._guards[session.key].level:
            self._filter(session.key)  # other packets count from now on
        session.since = time.time()
        session.reason = explain(become, session.machine.remote_diagnostic)
        if silent:
            return
        if become.state is State.UP:
            session.logged.clear()
            session.held = False
            self._expect_nothing(session)
            self._report(session, become, "info")
            self._set_result(session, True)
        elif become.before is State.UP:
            session.flaps += 1
            session.held = become.remote is State.ADMIN_DOWN
            self._report(session, become, "warning")
            if not session.held:
                self._set_result(session, False)
            else:
                self._owner.session_changed(session.settings.name)

    def _report(self, session: Session, become: Become, level: str) -> None:
        name, kept = session.settings.name, "; what it tracks stays as it is" if session.held else ""
        text = f"bfd_instance {name}: {become.before} to {become.state}: {session.reason}{kept}"
        self._owner.log(level, text, about=f"bfd_instance {name}", neighbor=str(session.settings.neighbor))
        self._owner.publish(
            "bfd",
            "",
            session=name,
            neighbor=str(session.settings.neighbor),
            before=str(become.before),
            state=str(become.state),
            detail=session.reason,
        )

    def _set_result(self, session: Session, up: bool) -> None:
        if session.up is not up:
            session.up = up
            self._owner.session_changed(session.settings.name)

    def _expect_up(self, session: Session) -> None:
        """Take the session for down unless it is up within `establish_s`."""
        self._expect_nothing(session)
        session.deadline = self._loop.at(self._loop.now + session.establish_s, partial(self._not_up, session))

    def _expect_nothing(self, session: Session) -> None:
        if session.deadline is not None:
            session.deadline.cancel()
            session.deadline = None

    def _not_up(self, session: Session) -> None:
        session.deadline, session.held = None, False
        machine = session.machine
        session.reason = f"the neighbor is {machine.remote_state}" if machine.yours else "the neighbor does not answer"
        self._owner.log("warning", f"bfd_instance {session.settings.name}: is not up: {session.reason}")
        self._set_result(session, False)

    def _arm(self, session: Session) -> None:
        """Set the timer for the next event; one that comes earlier sets it again, which spares a change per packet."""
        due = session.machine.due
        if session.timer is not None:
            if due is not None and session.timer.when <= due:
                return
            session.timer.cancel()
        session.timer = None if due is None else self._loop.at(due, partial(self._wake, session))

    def _wake(self, session: Session) -> None:
        session.timer = None
        expires_at = session.machine.expires_at
        if expires_at is not None and expires_at <= self._loop.now:
            self._read(session.key, READS)  # timers run before packets: after a pause of this process they are unread
        due = session.machine.due
        if due is not None and due <= self._loop.now:
            self._step(session, session.machine.wake(self._loop.now, self._chance()))
        else:
            self._arm(session)


def _known(session: Session) -> Known:
    machine = session.machine
    return Known(session.settings.neighbor, machine.mine, machine.yours if machine.state is State.UP else 0)


def _identity(settings: BfdSession) -> tuple[object, ...]:
    return settings.neighbor, settings.source, settings.multihop
