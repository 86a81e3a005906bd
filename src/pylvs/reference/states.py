"""States of TCP connections and SCTP associations: transitions and timeouts (IPVS-SEMANTICS 4.3 to 4.6)."""

from __future__ import annotations

from enum import IntEnum

from pylvs.model.service import Timeouts
from pylvs.reference.packet import (
    ABORT,
    ACK,
    COOKIE_ACK,
    COOKIE_ECHO,
    ERROR,
    FIN,
    INIT,
    INIT_ACK,
    RST,
    SHUTDOWN,
    SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
    SYN,
)


class Direction(IntEnum):
    """The side that sent a packet. INPUT_ONLY: a request, if the replies bypass this host (4.3)."""

    INPUT = 0
    OUTPUT = 1
    INPUT_ONLY = 2


SECURE_ON = 3  # the mode of secure_tcp that uses its tables; modes 1 and 2 wait for low memory
NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK = range(11)
TCP_ABBREVIATIONS = ("NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA", "LI", "SA")
ACTIVE = frozenset((ESTABLISHED, SYN_SENT, SYN_RECV, SYNACK))
TCP_EVENTS = (RST, SYN, FIN, ACK)  # the first flag that is set decides

# A row for each event, a column for each current state, in the order of TCP_ABBREVIATIONS.
TCP_TABLE = {
    Direction.INPUT: {
        SYN: "SR ES ES SR SR SR SR SR SR SR SR",
        FIN: "CL CW SS TW TW TW CL CW LA LI TW",
        ACK: "ES ES SS ES FW TW CL CW CL LI ES",
        RST: "CL CL CL SR CL CL CL CL LA LI SR",
    },
    Direction.OUTPUT: {
        SYN: "SS ES SS SR SS SS SS SS SS LI SR",
        FIN: "TW FW SS TW FW TW CL TW LA LI TW",
        ACK: "ES ES SS ES FW TW CL CW LA ES ES",
        RST: "CL CL SS CL CL TW CL CL CL CL CL",
    },
    Direction.INPUT_ONLY: {
        SYN: "SR ES ES SR SR SR SR SR SR SR SR",
        FIN: "CL FW SS TW FW TW CL CW LA LI TW",
        ACK: "ES ES SS ES FW TW CL CW CL LI ES",
        RST: "CL CL CL SR CL CL CL CL LA LI CL",
    },
}
# The same with secure_tcp: a SYN alone does not make a connection look half-open.
TCP_SECURE_TABLE = {
    Direction.INPUT: {
        SYN: "SR ES ES SR SR SR SR SR SR SR SA",
        FIN: "CL CW SS TW TW TW CL CW LA LI SA",
        ACK: "ES ES SS SR FW TW CL CW CL LI SA",
        RST: "CL CL CL SR CL CL CL CL LA LI CL",
    },
    Direction.OUTPUT: {
        SYN: "SS ES SS SA SS SS SS SS SS LI SA",
        FIN: "TW FW SS TW FW TW CL TW LA LI TW",
        ACK: "ES ES SS ES FW TW CL CW LA ES ES",
        RST: "CL CL SS CL CL TW CL CL CL CL CL",
    },
    Direction.INPUT_ONLY: {
        SYN: "SA ES ES SR SA SA SA SA SA SA SA",
        FIN: "CL FW SS TW FW TW CL CW LA LI TW",
        ACK: "ES ES SS ES FW TW CL CW CL LI ES",
        RST: "CL CL CL SR CL CL CL CL LA LI CL",
    },
}

TCP_TIMEOUTS_S = {  # of states whose timeout cannot be set
    NONE: 2,
    SYN_SENT: 120,
    SYN_RECV: 60,
    TIME_WAIT: 120,
    CLOSE: 10,
    CLOSE_WAIT: 60,
    LAST_ACK: 30,
    LISTEN: 120,
    SYNACK: 120,
}
NEW_S = 3  # a connection's timeout until a packet gives it a state


def _tcp_rows(tables: dict[Direction, dict[int, str]]) -> dict[Direction, dict[int, tuple[int, ...]]]:
    return {
        direction: {event: tuple(TCP_ABBREVIATIONS.index(name) for name in row.split()) for event, row in rows.items()}
        for direction, rows in tables.items()
    }


_TCP_ROWS, _TCP_SECURE_ROWS = _tcp_rows(TCP_TABLE), _tcp_rows(TCP_SECURE_TABLE)


def next_tcp_state(state: int, flags: int, direction: Direction, secure: bool) -> int:
    """Return the state after a packet; one with none of the four flags closes the connection."""
    rows = (_TCP_SECURE_ROWS if secure else _TCP_ROWS)[direction]
    for event in TCP_EVENTS:
        if flags & event:
            return rows[event][state]
    return CLOSE


def tcp_timeout_s(state: int, timeouts: Timeouts) -> int:
    """Return the timeout of a connection in a state (4.4)."""
    if state == ESTABLISHED:
        return timeouts.tcp_s
    return timeouts.tcp_fin_s if state == FIN_WAIT else TCP_TIMEOUTS_S[state]


CHUNKS = (INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE, ERROR, ABORT)
SCTP_ABBREVIATIONS = ("NO", "I1", "IN", "CS", "CR", "CW", "CO", "CE", "ES", "SS", "SR", "SA", "RJ", "CL")
SCTP_NONE, SCTP_ESTABLISHED, SCTP_CLOSED = 0, SCTP_ABBREVIATIONS.index("ES"), SCTP_ABBREVIATIONS.index("CL")

# The first row is for data and all other chunks; then one row for each of CHUNKS. A column is a state.
SCTP_TABLE = {
    Direction.INPUT: (
        "ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
        "I1 IN IN CS CR CW CO CE ES SS SR SA IN IN",
        "CW CW CW CS CR CO CO CE ES SS SR SA RJ CL",
        "CR IN IN CR CR CW CO CE ES SS SR SA RJ CL",
        "ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL",
        "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL",
        "CL IN IN CS CR CW CO CE ES CL SR CL RJ CL",
        "CL CL CL CS CR CW CO CE ES SS SR CL RJ CL",
        "CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL",
        "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL",
    ),
    Direction.OUTPUT: (
        "ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
        "CW CW CW CW CW CW CW CW ES CW CW CW CW CW",
        "CS CS CS CS CR CW CO CE ES SS SR SA RJ CL",
        "CE CE CE CE CE CE CE CE ES SS SR SA RJ CL",
        "ES ES ES ES ES ES ES ES ES SS SR SA RJ CL",
        "SS SS SS SS SS SS SS SS SS SS SR SA RJ CL",
        "SA SA SA SA SA CW CO CE ES SA SA SA RJ CL",
        "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
        "CL CL CL CL CL CW CO CE ES SS SR SA RJ CL",
        "CL RJ CL CL CL CL CL CL CL CL CL CL CL CL",
    ),
    Direction.INPUT_ONLY: (
        "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL",
        "I1 IN IN IN IN IN CO CE ES SS SR SA IN IN",
        "CE CE CE CE CE CE CO CE ES SS SR SA RJ CL",
        "ES ES ES ES ES ES CO CE ES SS SR SA RJ CL",
        "ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL",
        "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL",
        "CL IN IN CS CR CW CO CE CL CL SR CL RJ CL",
        "CL CL CL CL CL CW CO CE ES SS CL CL RJ CL",
        "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
        "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL",
    ),
}
_SCTP_ROWS = {
    direction: [[SCTP_ABBREVIATIONS.index(name) for name in row.split()] for row in rows]
    for direction, rows in SCTP_TABLE.items()
}

SCTP_TIMEOUTS_S = dict.fromkeys(range(len(SCTP_ABBREVIATIONS)), 61) | {
    SCTP_NONE: 2,
    SCTP_ABBREVIATIONS.index("I1"): 4,
    SCTP_ABBREVIATIONS.index("RJ"): 4,
    SCTP_ESTABLISHED: 900,
}


def next_sctp_state(state: int, event: int, direction: Direction) -> int:
    row = CHUNKS.index(event) + 1 if event in CHUNKS else 0
    return _SCTP_ROWS[direction][row][state]
