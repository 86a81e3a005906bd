"""The frames between two directors, over TLS: pure functions.

A frame is the length of its content (4 bytes), its kind (1 byte), and the content. Numbers are in network order,
records are as the packet path stores them. The director that connected asks; the other one answers with copies:

| kind | from | content |
|---|---|---|
| HELLO | both, first | JSON: protocol, version of pylvs, format of records, name |
| SUMMARY | both | JSON: what it is configured for (`pylvs.peer.summary.Summary`); again after each change |
| ASK | who connected | nothing: send everything, then what changes |
| HELD | who connected | what became of the last copy, and a mark that the next END has |
| BEGIN | who was asked | a copy begins: the clock of its packet path, its live connections, whether it has everything |
| NAMES | who was asked | slots and names of destinations, before the first records and after each edit |
| CALLS | who was asked | templates of SIP calls, at most a batch: each a record, and what it stands for |
| TEMPLATES, CONNECTIONS | who was asked | records, at most a batch |
| END | who was asked | the copy is complete: how many templates and connections it had, the last mark that came |
"""

from __future__ import annotations

import json
import math
import struct
from enum import IntEnum
from typing import Any, TypeVar

from pylvs.model.dataclass import dataclass
from pylvs.model.plain import Malformed, from_plain, to_plain
from pylvs.peer.summary import Summary

PROTOCOL = 2
HEAD = struct.Struct("!IB")  # length of the content, kind
_BEGIN = struct.Struct("!IdI?")
_END = struct.Struct("!III")
_HELD = struct.Struct("!IIIIII")
_MAX_HELLO, _MAX_SUMMARY, _MAX_NAMES = 4096, 16 << 20, 8 << 20  # bytes
_LONGEST_NAME = 255
_FASTEST_TICKS = 1e6  # a second


class Kind(IntEnum):
    """The kinds of frames."""

    HELLO = 1
    SUMMARY = 2
    ASK = 3
    HELD = 4
    BEGIN = 5
    NAMES = 6
    TEMPLATES = 7
    CONNECTIONS = 8
    END = 9
    CALLS = 10


ASKING = frozenset({Kind.HELLO, Kind.SUMMARY, Kind.ASK, Kind.HELD})  # kinds that the director sends that connected
ANSWERING = frozenset(Kind) - {Kind.ASK, Kind.HELD}


class BadFrame(Exception):
    """Bytes that no director sends; the text says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes of what frames have, in bytes, and the most records of a batch."""

    name: int
    record: int
    call: int  # of a record with what it stands for
    batch: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Who a director is. Directors with another protocol or format cannot exchange connections."""

    protocol: int
    version: str  # of pylvs
    format: str  # of records
    name: str


@dataclass(frozen=True, slots=True)
class Begin:
    """The begin of a copy. `ticks` is the clock of the packet path, which has `per_second` ticks in a second."""

    ticks: int
    per_second: float
    live: int  # connections and templates
    everything: bool


@dataclass(frozen=True, slots=True)
class End:
    """The end of a copy."""

    templates: int  # those of SIP calls, too
    connections: int
    mark: int


@dataclass(frozen=True, slots=True)
class Held:
    """What became of a copy: its records, and how many are held, were known better, found no space or no server."""

    records: int
    held: int
    newer: int
    full: int
    unknown: int
    mark: int


def most_bytes(kind: int, limits: Limits) -> int:
    """Return the most bytes of a frame's content. Raises BadFrame for an unknown kind."""
    match kind:
        case Kind.HELLO:
            return _MAX_HELLO
        case Kind.SUMMARY:
            return _MAX_SUMMARY
        case Kind.NAMES:
            return _MAX_NAMES
        case Kind.TEMPLATES | Kind.CONNECTIONS:
            return limits.record * limits.batch
        case Kind.CALLS:
            return limits.call * limits.batch
        case Kind.ASK:
            return 0
        case Kind.HELD:
            return _HELD.size
        case Kind.BEGIN:
            return _BEGIN.size
        case Kind.END:
            return _END.size
    raise BadFrame(f"a frame of kind {kind}")


def frame(kind: Kind, content: bytes = b"") -> bytes:
    """Return the bytes that a director sends."""
    return HEAD.pack(len(content), kind) + content


def encode_hello(hello: Hello) -> bytes:
    """Return the content of HELLO."""
    return json.dumps(to_plain(hello)).encode()


def encode_summary(summary: Summary) -> bytes:
    """Return the content of SUMMARY."""
    return json.dumps(to_plain(summary), separators=(",", ":")).encode()


def encode_begin(begin: Begin) -> bytes:
    """Return the content of BEGIN."""
    return _BEGIN.pack(begin.ticks, begin.per_second, begin.live, begin.everything)


def encode_end(end: End) -> bytes:
    """Return the content of END."""
    return _END.pack(end.templates, end.connections, end.mark)


def encode_held(held: Held) -> bytes:
    """Return the content of HELD."""
    return _HELD.pack(held.records, held.held, held.newer, held.full, held.unknown, held.mark)


Decoded = TypeVar("Decoded", Hello, Summary)


def _json(of: type[Decoded], content: bytes) -> Decoded:
    """Return the object. Raises BadFrame."""
    try:
        found: Decoded = from_plain(of, json.loads(content))
    except (ValueError, RecursionError, Malformed) as error:
        raise BadFrame(f"{of.__name__.upper()}: {error}"[:_LONGEST_NAME]) from None
    return found


def decode_hello(content: bytes) -> Hello:
    """Return what HELLO has. Raises BadFrame."""
    hello = _json(Hello, content)
    if not all(0 < len(each) <= _LONGEST_NAME and each.isprintable() for each in (hello.version, hello.name)):
        raise BadFrame("HELLO: a name that cannot be printed")
    return hello


def decode_summary(content: bytes) -> Summary:
    """Return what SUMMARY has. Raises BadFrame."""
    return _json(Summary, content)


def _numbers(form: struct.Struct, kind: Kind, content: bytes) -> tuple[Any, ...]:
    if len(content) != form.size:
        raise BadFrame(f"{kind.name}: {len(content)} bytes instead of {form.size}")
    return form.unpack(content)


def decode_begin(content: bytes) -> Begin:
    """Return what BEGIN has. Raises BadFrame."""
    begin = Begin(*_numbers(_BEGIN, Kind.BEGIN, content))
    if not math.isfinite(begin.per_second) or not 0 < begin.per_second <= _FASTEST_TICKS:
        raise BadFrame("BEGIN: a clock that no director has")
    return begin


def decode_end(content: bytes) -> End:
    """Return what END has. Raises BadFrame."""
    return End(*_numbers(_END, Kind.END, content))


def decode_held(content: bytes) -> Held:
    """Return what HELD has. Raises BadFrame."""
    return Held(*_numbers(_HELD, Kind.HELD, content))


def check(kind: int, content: bytes, limits: Limits) -> None:
    """Raise BadFrame for a content that is none of its kind; records are checked where they are used."""
    match kind:
        case Kind.HELLO:
            decode_hello(content)
        case Kind.SUMMARY:
            decode_summary(content)
        case Kind.BEGIN:
            decode_begin(content)
        case Kind.END:
            decode_end(content)
        case Kind.HELD:
            decode_held(content)
        case Kind.NAMES if len(content) % limits.name:
            raise BadFrame(f"NAMES: {len(content)} bytes")
        case Kind.CALLS if len(content) % limits.call:
            raise BadFrame(f"CALLS: {len(content)} bytes")
        case Kind.TEMPLATES | Kind.CONNECTIONS if len(content) % limits.record:
            raise BadFrame(f"{Kind(kind).name}: {len(content)} bytes")


def problem(ours: Hello, theirs: Hello) -> str:
    """Return why two directors cannot exchange connections, "" if they can."""
    if ours.protocol == theirs.protocol and ours.format == theirs.format:
        return ""
    return (
        f"it runs pylvs {theirs.version}, this director {ours.version}, and their connections have different forms:"
        " nothing is copied until both run the same version"
    )
