"""The state machine of one BFD session (RFC 5880 section 6), in asynchronous mode without echo. Pure.

A method takes an event and the time, and returns the next machine with what to do. `chance` is a random number from 0
to below 1, for the jitter. Times are seconds of a monotonic clock, intervals are microseconds.
"""

from __future__ import annotations

from pylvs.bfd.packet import Diagnostic, Packet, State, diagnostic_text
from pylvs.model.bfd import BfdSession
from pylvs.model.dataclass import dataclass, replace

SECOND_US = 1_000_000
MOST_JITTER = 0.25  # section 6.8.7: an interval is shortened by up to a quarter
LEAST_JITTER_OF_ONE = 0.1  # with multiplier 1 at least by this, or a delay would be a loss


@dataclass(frozen=True, slots=True)
class Send:
    """Send a packet now."""

    packet: Packet


@dataclass(frozen=True, slots=True)
class Become:
    """The session has another state."""

    before: State
    state: State
    diagnostic: int  # why it went down
    remote: State  # the neighbor's state


Action = Send | Become

# Section 6.2: the next state by the present one and the received one; what is missing changes nothing.
_NEXT: dict[tuple[State, State], State] = {
    (State.DOWN, State.DOWN): State.INIT,
    (State.DOWN, State.INIT): State.UP,
    (State.INIT, State.ADMIN_DOWN): State.DOWN,
    (State.INIT, State.INIT): State.UP,
    (State.INIT, State.UP): State.UP,
    (State.UP, State.ADMIN_DOWN): State.DOWN,
    (State.UP, State.DOWN): State.DOWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A session's variables, those of section 6.8.1 among them.

    `min_tx_us` and `min_rx_us` are the intervals in force. They follow the configured ones late where the neighbor
    must know the change first (section 6.8.3).
    """

    session: BfdSession
    mine: int  # discriminators
    yours: int = 0
    state: State = State.DOWN
    diagnostic: int = Diagnostic.NONE
    min_tx_us: int
    min_rx_us: int
    remote_state: State = State.DOWN
    remote_diagnostic: int = Diagnostic.NONE
    remote_multiplier: int = 0
    remote_min_tx_us: int = 0
    remote_min_rx_us: int = 1
    remote_demand: bool = False
    polling: bool = False
    poll_again: bool = False  # the configuration changed during a poll sequence
    sent_at: float | None = None
    received_at: float | None = None
    transmit_at: float | None = None  # the next periodic packet
    expires_at: float | None = None  # the end of the detection time

    @classmethod
    def begin(cls, session: BfdSession, discriminator: int, now: float) -> Machine:
        """Return a new session, whose first packet is due unless it is passive."""
        due = None if session.passive else now
        return cls(
            session=session,
            mine=discriminator,
            min_tx_us=session.min_tx_us,
            min_rx_us=session.min_rx_us,
            transmit_at=due,
        )

    @property
    def due(self) -> float | None:
        """Return when to call `wake`."""
        times = [at for at in (self.transmit_at, self.expires_at) if at is not None]
        return min(times) if times else None

    @property
    def interval_us(self) -> int:
        """Return the interval of periodic packets before jitter; at least a second unless the session is up."""
        wanted = self.min_tx_us if self.state is State.UP else self.session.idle_tx_us
        return max(wanted, self.remote_min_rx_us)

    @property
    def detection_us(self) -> int:
        """Return the time without a packet after which the session is down; 0 before the first packet."""
        return self.remote_multiplier * max(self.min_rx_us, self.remote_min_tx_us)

    @property
    def transmits(self) -> bool:
        """Return whether periodic packets may be sent (section 6.8.7)."""
        if (self.session.passive and not self.yours) or not self.remote_min_rx_us:
            return False
        demanded = self.remote_demand and self.state is State.UP and self.remote_state is State.UP
        return not demanded or self.polling

    def packet(self, poll: bool = False, final: bool = False) -> Packet:
        """Return a packet with the present values."""
        session = self.session
        return Packet(
            state=self.state,
            diagnostic=self.diagnostic,
            poll=poll,
            final=final,
            multiplier=session.multiplier,
            mine=self.mine,
            yours=self.yours,
            min_tx_us=session.min_tx_us if self.state is State.UP else session.idle_tx_us,
            min_rx_us=session.min_rx_us,
        )

    def receive(self, now: float, packet: Packet, chance: float) -> Step:
        """Handle a valid packet of this session (section 6.8.6)."""
        machine = replace(
            self,
            yours=packet.mine,
            remote_state=packet.state,
            remote_diagnostic=packet.diagnostic,
            remote_multiplier=packet.multiplier,
            remote_min_tx_us=packet.min_tx_us,
            remote_min_rx_us=packet.min_rx_us,
            remote_demand=packet.demand,
            received_at=now,
        )
        if packet.final and machine.polling:
            machine = machine._polled()
        actions: tuple[Action, ...] = ()
        state = _NEXT.get((machine.state, packet.state), machine.state)
        if state is not machine.state:
            lost = state is State.DOWN
            machine = machine._enter(state, Diagnostic.NEIGHBOR_DOWN if lost else Diagnostic.NONE)
            actions = (machine._became(self.state),)
        machine = replace(machine, expires_at=now + machine.detection_us / SECOND_US)
        if packet.poll:  # the answer also tells a new state
            return machine._sent(now, chance), (*actions, Send(machine.packet(final=True)))
        return machine._continue(self, now, chance, actions)

    def wake(self, now: float, chance: float) -> Step:
        """Handle the end of the detection time, and send the periodic packet if it is due."""
        machine = self
        actions: tuple[Action, ...] = ()
        if self.expires_at is not None and now >= self.expires_at:
            machine, actions = self._expired(now, chance)
        if machine.transmit_at is not None and now >= machine.transmit_at:
            actions = (*actions, Send(machine.packet(poll=machine.polling)))
            machine = machine._sent(now, chance)
        return machine, actions

    def reconfigure(self, now: float, session: BfdSession, chance: float) -> Step:
        """Take over other settings, for the same neighbor. A session that is up agrees on intervals by a poll."""
        machine = replace(self, session=session, min_tx_us=session.min_tx_us, min_rx_us=session.min_rx_us)
        before = self.session.min_tx_us, self.session.min_rx_us
        if self.state is State.UP and (before != (session.min_tx_us, session.min_rx_us) or self.polling):
            machine = replace(
                machine,
                min_tx_us=min(self.min_tx_us, session.min_tx_us),
                min_rx_us=max(self.min_rx_us, session.min_rx_us),
                polling=True,
                poll_again=self.polling,
            )
        if machine.received_at is not None and machine.expires_at is not None:
            machine = replace(machine, expires_at=machine.received_at + machine.detection_us / SECOND_US)
        return machine._continue(self, now, chance)

    def leave(self, now: float, state: State, diagnostic: Diagnostic, chance: float) -> Step:
        """Go to Down or AdminDown at once, and tell the neighbor."""
        machine = self._enter(state, diagnostic)
        return machine._continue(self, now, chance, (machine._became(self.state),))

    def _became(self, before: State) -> Become:
        return Become(before, self.state, self.diagnostic, self.remote_state)

    def _enter(self, state: State, diagnostic: int) -> Machine:
        """Return the machine in another state. The intervals of a session that was not up need no agreement.

        The first packet in state Up has a shorter interval than the last one before. So a poll follows (6.8.3).
        """
        session = self.session
        return replace(
            self,
            state=state,
            diagnostic=diagnostic,
            min_tx_us=session.min_tx_us,
            min_rx_us=session.min_rx_us,
            polling=state is State.UP and session.idle_tx_us != session.min_tx_us,
            poll_again=False,
        )

    def _polled(self) -> Machine:
        """Return the machine after the final packet: the neighbor knows the intervals, unless they changed since."""
        if self.poll_again:
            return replace(self, poll_again=False)
        session = self.session
        return replace(self, polling=False, min_tx_us=session.min_tx_us, min_rx_us=session.min_rx_us)

    def _expired(self, now: float, chance: float) -> Step:
        """Return the machine without anything that it knew about the neighbor."""
        machine = replace(
            self,
            yours=0,
            remote_state=State.DOWN,
            remote_multiplier=0,
            remote_min_tx_us=0,
            remote_min_rx_us=1,
            remote_demand=False,
            expires_at=None,
        )
        if self.state not in (State.INIT, State.UP):
            return machine._continue(self, now, chance)
        machine = machine._enter(State.DOWN, Diagnostic.EXPIRED)
        return machine._continue(self, now, chance, (machine._became(self.state),))

    def _continue(self, before: Machine, now: float, chance: float, actions: tuple[Action, ...] = ()) -> Step:
        """Return the next step: it sends another state at once (6.8.7), and uses another interval at once (6.8.3)."""
        if self.state is not before.state and self.transmits:
            return self._sent(now, chance), (*actions, Send(self.packet()))
        if not self.transmits:
            return (self if self.transmit_at is None else replace(self, transmit_at=None)), actions
        if self.transmit_at is None or self.interval_us != before.interval_us:
            last = now if self.sent_at is None else self.sent_at + self._jittered_s(chance)
            return replace(self, transmit_at=max(now, last)), actions
        return self, actions

    def _sent(self, now: float, chance: float) -> Machine:
        return replace(self, sent_at=now, transmit_at=now + self._jittered_s(chance) if self.transmits else None)

    def _jittered_s(self, chance: float) -> float:
        least = LEAST_JITTER_OF_ONE if self.session.multiplier == 1 else 0.0
        return self.interval_us * (1.0 - least - chance * (MOST_JITTER - least)) / SECOND_US


Step = tuple[Machine, tuple[Action, ...]]


def explain(become: Become, remote_diagnostic: int) -> str:
    """Return why a session has its state, as text."""
    if become.state is State.UP:
        return f"the neighbor is {become.remote}"
    text = diagnostic_text(become.diagnostic)
    if become.diagnostic == Diagnostic.NEIGHBOR_DOWN:
        text += f" ({become.remote}"
        text += f": {diagnostic_text(remote_diagnostic)})" if remote_diagnostic else ")"
    return text
