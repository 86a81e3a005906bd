"""State transitions of SCTP associations (IPVS-SEMANTICS 4.6)."""

from __future__ import annotations

from pylvs.reference.tcp import Direction

INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK = 1, 2, 6, 7, 8, 9, 10, 11
SHUTDOWN_COMPLETE = 14
COMMON_BYTES, CHUNK_BYTES = 12, 4
ROWS = (INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE, ERROR, ABORT)
ABBREVIATIONS = ("NO", "I1", "IN", "CS", "CR", "CW", "CO", "CE", "ES", "SS", "SR", "SA", "RJ", "CL")
NONE, ESTABLISHED, CLOSED = 0, ABBREVIATIONS.index("ES"), ABBREVIATIONS.index("CL")

# The first row is for data and all other chunks; then one row for each of ROWS. A column is a state.
TABLE = {
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
_TABLE = {
    direction: [[ABBREVIATIONS.index(name) for name in row.split()] for row in rows]
    for direction, rows in TABLE.items()
}

TIMEOUTS_S = dict.fromkeys(range(len(ABBREVIATIONS)), 61) | {
    NONE: 2,
    ABBREVIATIONS.index("I1"): 4,
    ABBREVIATIONS.index("RJ"): 4,
    ESTABLISHED: 900,
}


def chunk_at(packet: bytes, at: int) -> int | None:
    """Return the type of the chunk at an offset, if its header is complete."""
    return packet[at] if at + CHUNK_BYTES <= len(packet) else None


def event_at(packet: bytes, at: int) -> int | None:
    """Return the chunk type that decides the state: an ABORT behind a COOKIE ECHO or COOKIE ACK, else the first."""
    chunk_type = chunk_at(packet, at)
    if chunk_type in (COOKIE_ECHO, COOKIE_ACK):
        length = int.from_bytes(packet[at + 2 : at + 4], "big")
        if length >= CHUNK_BYTES and chunk_at(packet, at + (length + 3 & ~3)) == ABORT:
            return ABORT
    return chunk_type


def next_sctp_state(state: int, event: int, direction: Direction) -> int:
    row = ROWS.index(event) + 1 if event in ROWS else 0
    return _TABLE[direction][row][state]
