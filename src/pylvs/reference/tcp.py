"""State transitions of TCP connections, and their timeouts (IPVS-SEMANTICS 4.3 to 4.5)."""

from __future__ import annotations

from enum import IntEnum

from pylvs.model.service import Timeouts


class Direction(IntEnum):
    """The side that sent a packet. INPUT_ONLY: a request, if the replies bypass this host (4.3)."""

    INPUT = 0
    OUTPUT = 1
    INPUT_ONLY = 2


FIN, SYN, RST, ACK = 1, 2, 4, 16
SECURE_ON = 3  # the mode of secure_tcp that uses its tables; modes 1 and 2 wait for low memory
NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK = range(11)
ABBREVIATIONS = ("NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA", "LI", "SA")
ACTIVE = frozenset((ESTABLISHED, SYN_SENT, SYN_RECV, SYNACK))
EVENTS = (RST, SYN, FIN, ACK)  # the first flag that is set decides

# A row for each event, a column for each current state, in the order of ABBREVIATIONS.
TABLE = {
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
SECURE_TABLE = {
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

TIMEOUTS_S = {  # of states whose timeout cannot be set
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


def _parse(tables: dict[Direction, dict[int, str]]) -> dict[Direction, dict[int, tuple[int, ...]]]:
    return {
        direction: {event: tuple(ABBREVIATIONS.index(name) for name in row.split()) for event, row in rows.items()}
        for direction, rows in tables.items()
    }


_NORMAL, _SECURE = _parse(TABLE), _parse(SECURE_TABLE)


def next_tcp_state(state: int, flags: int, direction: Direction, secure: bool) -> int:
    """Return the state after a packet; one with none of the four flags closes the connection."""
    rows = (_SECURE if secure else _NORMAL)[direction]
    for event in EVENTS:
        if flags & event:
            return rows[event][state]
    return CLOSE


def timeout_s(state: int, timeouts: Timeouts) -> int:
    """Return the timeout of a connection in a state (4.4)."""
    if state == ESTABLISHED:
        return timeouts.tcp_s
    return timeouts.tcp_fin_s if state == FIN_WAIT else TIMEOUTS_S[state]
