"""The messages of AgentX (RFC 2741) between a sub-agent and the master agent, snmpd."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

from pylvs.model.dataclass import dataclass

Oid = tuple[int, ...]

VERSION = 1
NETWORK_BYTE_ORDER = 0x10
HEADER = struct.Struct("!BBBx")
IDS = "IIII"  # session, transaction, packet, length of the payload
HEADER_OCTETS = 20
INTERNET: Oid = (1, 3, 6, 1)  # the prefix that an identifier may leave out (section 5.1)
MAX_PREFIX = 255
MAX_PAYLOAD = 1 << 20
NO_ERROR, PARSE_ERROR = 0, 266
# The errors of a Set (RFC 3416, section 3).
WRONG_TYPE, WRONG_VALUE, NO_CREATION, COMMIT_FAILED, UNDO_FAILED, NOT_WRITABLE = 7, 10, 11, 14, 15, 17


class BadMessage(Exception):
    """The master agent sent what is not AgentX."""


class Pdu(IntEnum):
    """The kinds of messages (section 6.1)."""

    OPEN = 1
    CLOSE = 2
    REGISTER = 3
    UNREGISTER = 4
    GET = 5
    GET_NEXT = 6
    GET_BULK = 7
    TEST_SET = 8
    COMMIT_SET = 9
    UNDO_SET = 10
    CLEANUP_SET = 11
    NOTIFY = 12
    PING = 13
    ADD_AGENT_CAPS = 16
    RESPONSE = 18


class Kind(IntEnum):
    """The types of values (section 5.4)."""

    INTEGER = 2
    OCTETS = 4
    NULL = 5
    OID = 6
    ADDRESS = 64
    COUNTER32 = 65
    GAUGE32 = 66
    TIME_TICKS = 67
    OPAQUE = 68
    COUNTER64 = 70
    NO_SUCH_OBJECT = 128
    NO_SUCH_INSTANCE = 129
    END_OF_MIB_VIEW = 130


@dataclass(frozen=True, slots=True)
class Value:
    """A typed value: an integer, octets, an identifier, or nothing."""

    kind: Kind
    content: int | bytes | Oid | None = None


@dataclass(frozen=True, slots=True)
class VarBind:
    """An object identifier with its value."""

    name: Oid
    value: Value


@dataclass(frozen=True, slots=True)
class SearchRange:
    """A request for one object, or for the next one from `start` on and before `end`; () is no limit."""

    start: Oid
    end: Oid = ()
    include: bool = False  # `start` itself counts as the next one


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the master agent. Only the fields of its kind are set."""

    pdu: int
    session: int
    transaction: int
    packet: int
    ranges: tuple[SearchRange, ...] = ()
    non_repeaters: int = 0
    repetitions: int = 0
    binds: tuple[VarBind, ...] = ()  # of a TestSet
    error: int = 0  # of a response
    uptime: int = 0  # of a response: sysUpTime of the master agent, in hundredths of a second


def _oid(value: Oid, include: bool = False) -> bytes:
    prefix, rest = 0, value
    if len(value) > 4 and value[:4] == INTERNET and 0 < value[4] <= MAX_PREFIX:
        prefix, rest = value[4], value[5:]
    return struct.pack(f"!BBBx{len(rest)}I", len(rest), prefix, include, *rest)


def _octets(value: bytes) -> bytes:
    return struct.pack("!I", len(value)) + value + bytes(-len(value) % 4)


def _varbind(bind: VarBind) -> bytes:
    kind, content = bind.value.kind, bind.value.content
    data = b""
    match content:
        case int() if kind is Kind.COUNTER64:
            data = struct.pack("!Q", content % 2**64)
        case int():
            data = struct.pack("!I", content % 2**32)
        case bytes():
            data = _octets(content)
        case tuple():
            data = _oid(content)
    return struct.pack("!HH", kind, 0) + _oid(bind.name) + data


def _message(pdu: Pdu, ids: tuple[int, int, int], payload: bytes) -> bytes:
    return HEADER.pack(VERSION, pdu, NETWORK_BYTE_ORDER) + struct.pack(f"!{IDS}", *ids, len(payload)) + payload


def open_session(packet: int, description: bytes, timeout_s: int = 0) -> bytes:
    """Return the first message of a sub-agent."""
    return _message(Pdu.OPEN, (0, 0, packet), struct.pack("!Bxxx", timeout_s) + _oid(()) + _octets(description))


def close_session(session: int, packet: int, reason: int = 5) -> bytes:
    """Return the last message; 5 means that the sub-agent ends."""
    return _message(Pdu.CLOSE, (session, 0, packet), struct.pack("!Bxxx", reason))


def register(session: int, packet: int, subtree: Oid, priority: int = 127) -> bytes:
    """Return the message that registers a subtree."""
    return _message(Pdu.REGISTER, (session, 0, packet), struct.pack("!BBBx", 0, priority, 0) + _oid(subtree))


def notify(session: int, packet: int, binds: Sequence[VarBind]) -> bytes:
    """Return a notification, which the master agent sends as a trap."""
    return _message(Pdu.NOTIFY, (session, 0, packet), b"".join(map(_varbind, binds)))


def ping(session: int, packet: int) -> bytes:
    """Return the message that asks whether the session exists."""
    return _message(Pdu.PING, (session, 0, packet), b"")


def response(request: Message, binds: Sequence[VarBind] = (), error: int = NO_ERROR, index: int = 0) -> bytes:
    """Return the answer to a message."""
    payload = struct.pack("!IHH", 0, error, index) + b"".join(map(_varbind, binds))
    return _message(Pdu.RESPONSE, (request.session, request.transaction, request.packet), payload)


class Decoder:
    """Collects octets from the master agent, and takes messages out of them."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are complete now. Raises BadMessage."""
        self._received += data
        messages = []
        while len(self._received) >= HEADER_OCTETS:
            version, pdu, flags = HEADER.unpack_from(self._received)
            order = "!" if flags & NETWORK_BYTE_ORDER else "<"
            session, transaction, packet, length = struct.unpack_from(order + IDS, self._received, HEADER.size)
            if version != VERSION or length > MAX_PAYLOAD:
                raise BadMessage(f"version {version}, {length} octets")
            end = HEADER_OCTETS + length
            if len(self._received) < end:
                break
            payload = bytes(self._received[HEADER_OCTETS:end])
            del self._received[:end]
            try:
                messages.append(_decoded(pdu, (session, transaction, packet), order, payload, flags))
            except struct.error:
                raise BadMessage(f"a message of kind {pdu} is truncated") from None
        return messages


NON_DEFAULT_CONTEXT = 0x08


def _decoded(pdu: int, ids: tuple[int, int, int], order: str, payload: bytes, flags: int) -> Message:
    at = 0
    if flags & NON_DEFAULT_CONTEXT and pdu in (Pdu.GET, Pdu.GET_NEXT, Pdu.GET_BULK, Pdu.TEST_SET):
        (length,) = struct.unpack_from(f"{order}I", payload)
        at = 4 + length + -length % 4
    if pdu == Pdu.RESPONSE:
        uptime, error, _ = struct.unpack_from(f"{order}IHH", payload)
        return Message(pdu, *ids, error=error, uptime=uptime)
    repeat = (0, 0)
    if pdu == Pdu.GET_BULK:
        repeat = struct.unpack_from(f"{order}HH", payload, at)
        at += 4
    ranges = tuple(_ranges(payload, at, order)) if pdu in (Pdu.GET, Pdu.GET_NEXT, Pdu.GET_BULK) else ()
    binds = tuple(_binds(payload, at, order)) if pdu == Pdu.TEST_SET else ()
    return Message(pdu, *ids, ranges, *repeat, binds)


def _binds(payload: bytes, at: int, order: str) -> Iterator[VarBind]:
    while at < len(payload):
        (number,) = struct.unpack_from(f"{order}H", payload, at)
        name, _, at = _decoded_oid(payload, at + 4, order)
        try:
            kind = Kind(number)
        except ValueError:
            raise BadMessage(f"a value of type {number}") from None
        content: int | bytes | Oid | None = None
        match kind:
            case Kind.INTEGER:
                (content,) = struct.unpack_from(f"{order}i", payload, at)
                at += 4
            case Kind.COUNTER32 | Kind.GAUGE32 | Kind.TIME_TICKS:
                (content,) = struct.unpack_from(f"{order}I", payload, at)
                at += 4
            case Kind.COUNTER64:
                (content,) = struct.unpack_from(f"{order}Q", payload, at)
                at += 8
            case Kind.OID:
                content, _, at = _decoded_oid(payload, at, order)
            case Kind.OCTETS | Kind.ADDRESS | Kind.OPAQUE:
                (length,) = struct.unpack_from(f"{order}I", payload, at)
                content = payload[at + 4 : at + 4 + length]
                at += 4 + length + -length % 4
        yield VarBind(name, Value(kind, content))


def _ranges(payload: bytes, at: int, order: str) -> list[SearchRange]:
    found = []
    while at < len(payload):
        start, include, at = _decoded_oid(payload, at, order)
        end, _, at = _decoded_oid(payload, at, order)
        found.append(SearchRange(start, end, include))
    return found


def _decoded_oid(payload: bytes, at: int, order: str) -> tuple[Oid, bool, int]:
    count, prefix, include = struct.unpack_from("!BBBx", payload, at)
    rest = struct.unpack_from(f"{order}{count}I", payload, at + 4)
    return ((*INTERNET, prefix) if prefix else ()) + rest, bool(include), at + 4 + 4 * count
