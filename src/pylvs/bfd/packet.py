"""BFD control packets (RFC 5880 section 4.1) as bytes, and the checks of section 6.8.6 that need no session."""

from __future__ import annotations

import struct
from enum import Enum, IntEnum

from pylvs.model.dataclass import dataclass

VERSION = 1
BYTES = 24  # without authentication
_LAYOUT = struct.Struct("!BBBBIIIII")
_LEAST_AUTHENTICATED = 26
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class State(IntEnum):
    """The state of a session, by its number on the wire."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3

    def __str__(self) -> str:
        return _STATE_NAMES[self]


_STATE_NAMES = {State.ADMIN_DOWN: "AdminDown", State.DOWN: "Down", State.INIT: "Init", State.UP: "Up"}


class Diagnostic(IntEnum):
    """Why a session left state Up, by its number on the wire."""

    NONE = 0
    EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_DOWN = 3
    FORWARDING_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_DOWN = 6
    ADMIN_DOWN = 7
    REVERSE_CONCATENATED_DOWN = 8


_DIAGNOSTICS = {
    Diagnostic.NONE: "No Diagnostic",
    Diagnostic.EXPIRED: "Control Detection Time Expired",
    Diagnostic.ECHO_FAILED: "Echo Function Failed",
    Diagnostic.NEIGHBOR_DOWN: "Neighbor Signaled Session Down",
    Diagnostic.FORWARDING_RESET: "Forwarding Plane Reset",
    Diagnostic.PATH_DOWN: "Path Down",
    Diagnostic.CONCATENATED_DOWN: "Concatenated Path Down",
    Diagnostic.ADMIN_DOWN: "Administratively Down",
    Diagnostic.REVERSE_CONCATENATED_DOWN: "Reverse Concatenated Path Down",
}


def diagnostic_text(number: int) -> str:
    """Return the RFC's name of a diagnostic; the numbers above 8 have none yet."""
    return _DIAGNOSTICS[Diagnostic(number)] if number in _DIAGNOSTICS else f"Diagnostic {number}"


class Flaw(Enum):
    """Why a received packet is dropped."""

    TRUNCATED = "truncated"
    VERSION = "other version"
    LENGTH = "wrong length"
    MULTIPLIER = "multiplier 0"
    MULTIPOINT = "multipoint"
    MY_DISCRIMINATOR = "no discriminator"
    YOUR_DISCRIMINATOR = "no discriminator of ours in state Init or Up"
    POLL_AND_FINAL = "poll and final"
    AUTHENTICATED = "authenticated"
    TTL = "ttl too low"
    FORGOTTEN = "no discriminator of ours, and another one of the neighbor's than before"
    NO_SESSION = "no session"


class InvalidPacket(Exception):
    """A packet that must be dropped."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A control packet without authentication. Intervals are in microseconds."""

    state: State
    diagnostic: int = Diagnostic.NONE
    poll: bool = False
    final: bool = False
    independent: bool = False  # the control plane does not share the fate of forwarding
    demand: bool = False
    multiplier: int
    mine: int  # the sender's discriminator
    yours: int = 0  # the receiver's, 0 if the sender does not know it
    min_tx_us: int
    min_rx_us: int
    min_echo_rx_us: int = 0

    def encoded(self) -> bytes:
        """Return the 24 bytes."""
        flags = self.state << 6
        flags |= _POLL if self.poll else 0
        flags |= _FINAL if self.final else 0
        flags |= _INDEPENDENT if self.independent else 0
        flags |= _DEMAND if self.demand else 0
        return _LAYOUT.pack(
            VERSION << 5 | self.diagnostic,
            flags,
            self.multiplier,
            BYTES,
            self.mine,
            self.yours,
            self.min_tx_us,
            self.min_rx_us,
            self.min_echo_rx_us,
        )


def decode(data: bytes) -> Packet:
    """Return the packet in a datagram. Raises InvalidPacket.

    Two checks are keepalived's: no packet has both poll and final, and pylvs uses no authentication, as keepalived.
    """
    if len(data) < BYTES:
        raise InvalidPacket(Flaw.TRUNCATED)
    first, flags, multiplier, length, mine, yours, min_tx_us, min_rx_us, min_echo_rx_us = _LAYOUT.unpack_from(data)
    state = State(flags >> 6)
    if first >> 5 != VERSION:
        raise InvalidPacket(Flaw.VERSION)
    if not (_LEAST_AUTHENTICATED if flags & _AUTHENTICATED else BYTES) <= length <= len(data):
        raise InvalidPacket(Flaw.LENGTH)
    if not multiplier:
        raise InvalidPacket(Flaw.MULTIPLIER)
    if flags & _MULTIPOINT:
        raise InvalidPacket(Flaw.MULTIPOINT)
    if not mine:
        raise InvalidPacket(Flaw.MY_DISCRIMINATOR)
    if not yours and state in (State.INIT, State.UP):
        raise InvalidPacket(Flaw.YOUR_DISCRIMINATOR)
    if flags & _POLL and flags & _FINAL:
        raise InvalidPacket(Flaw.POLL_AND_FINAL)
    if flags & _AUTHENTICATED:
        raise InvalidPacket(Flaw.AUTHENTICATED)
    return Packet(
        state=state,
        diagnostic=first & 0x1F,
        poll=bool(flags & _POLL),
        final=bool(flags & _FINAL),
        independent=bool(flags & _INDEPENDENT),
        demand=bool(flags & _DEMAND),
        multiplier=multiplier,
        mine=mine,
        yours=yours,
        min_tx_us=min_tx_us,
        min_rx_us=min_rx_us,
        min_echo_rx_us=min_echo_rx_us,
    )
