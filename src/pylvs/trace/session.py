"""A session of `pylvs trace`: turn tracing on, read the records of packets, and turn it off again.

`root.trace` has a tick. Until then entry programs call the session's filter. The session renews it; if the session
hangs, the expiry timer in the kernel resets it. If its process ends, the kernel also empties the arrays by which entry
programs call it (`variants`).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pylvs.bpf import abi
from pylvs.bpf.maps import PerCpuArray, RingBuffer
from pylvs.bpf.schedulers import NAMES as SCHEDULERS
from pylvs.dataplane import load
from pylvs.dataplane.connections import states
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables, address_of
from pylvs.model.addresses import Address, endpoint
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import OutOfRange, PylvsError
from pylvs.model.service import Method, Protocol, ServiceKey
from pylvs.trace import lease, variants
from pylvs.trace.filters import Filter
from pylvs.trace.packet import DROPPED, FORWARDED, HELD, HOOKS, PASSED, REJECTED, TO_TC, TracedPacket

RATE, SNAP = 1000, 128  # packets a second, and bytes of a frame, by default
LEASE_S = 4.0  # how long a session that does not renew it stays on
_RENEW_S = 1.0
_MOST_RATE = 1_000_000
_RING_S = 1  # the ring buffer holds the records of about so many seconds at the rate limit
_LEAST_RING, _MOST_RING = 1 << 20, 1 << 25  # bytes
_VERDICTS = {
    "PASSED": PASSED,
    "FORWARDED": FORWARDED,
    "DROPPED": DROPPED,
    "HELD": HELD,
    "TO_TC": TO_TC,
    "REJECTED": REJECTED,
}
_METHODS = {Method.MASQ: "nat", Method.LOCAL: "local", Method.TUNNEL: "tunnel", Method.ROUTE: "direct"}


class TraceEnded(PylvsError):
    """The programs that a session traced are no longer in force; the text says why."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a session counted until now."""

    matched: int  # packets that the filter selected
    limited: int  # of them without a record, by the rate limit
    lost: int  # without a record, because the reader was too slow
    recorded: int
    pauses: int  # how often the session was too slow to renew its lease: packets between were not traced


def _checked(name: str, value: int, lowest: int, highest: int) -> int:
    if not lowest <= value <= highest:
        raise OutOfRange(f"{name}: {value} is out of range {lowest}..{highest}", name)
    return value


class Session:
    """An open session. It yields packets; `counts` tells what it did not yield."""

    def __init__(self, state: State, copy: variants.Copy, entries: Mapping[str, int]) -> None:
        self._state, self._copy, self._entries = state, copy, entries
        self._root = Tables(state).root
        self._ring = RingBuffer.duplicate(copy.records)
        self._counts = PerCpuArray.duplicate(copy.counts)
        self._number, self._pauses = 0, 0
        self._renewed = -_RENEW_S

    def close(self) -> None:
        """Turn tracing off."""
        try:
            self._root.publish(0, "trace", 0)
        finally:
            self._copy.close()
            self._ring.close()
            self._counts.close()

    def pause(self) -> None:
        """Let packets take their usual way until `resume`, or the next `read`."""
        self._root.publish(0, "trace", 0)
        self._renewed = -_RENEW_S

    def resume(self) -> None:
        """Trace packets again, for the duration of the lease. Raises TraceEnded."""
        self._renewed = -_RENEW_S
        self._renew()

    def counts(self) -> Counts:
        """Return what the session counted until now."""
        matched, limited, lost, recorded = self._counts.sums(0)
        return Counts(matched, limited, lost, recorded, self._pauses)

    def __iter__(self) -> Iterator[TracedPacket]:
        """Yield packets as they come. Raises TraceEnded."""
        while True:
            packet = self.read(_RENEW_S)
            if packet is not None:
                yield packet

    def read(self, timeout_s: float = 0.0) -> TracedPacket | None:
        """Return the next packet; None if none comes within the timeout. Raises TraceEnded."""
        end = time.monotonic() + timeout_s
        while True:
            self._renew()
            packet = self._next()
            left = end - time.monotonic()
            if packet is not None or left <= 0:
                return packet
            self._ring.wait(min(left, _RENEW_S))

    def _next(self) -> TracedPacket | None:
        for record in self._ring:
            packet = packet_of(record, self._number + 1)
            if packet is not None:
                self._number += 1
                return packet
        return None

    def _renew(self) -> None:
        """Renew the lease once a second. Raises TraceEnded."""
        now = time.monotonic()
        if 0 <= now - self._renewed < _RENEW_S:
            return
        _check_entries(self._state, self._entries)
        if self._renewed > 0 and not self._root.get(0, "trace"):
            self._pauses += 1
        self._root.publish(0, "trace", lease.until(self._state, LEASE_S))
        self._renewed = now


def _check_entries(state: State, entries: Mapping[str, int]) -> None:
    if not state.exists:
        raise TraceEnded("the trace ends: the tables of this director were removed (pylvs down)")
    if variants.entries_of(state) != entries:
        raise TraceEnded(
            "the trace ends: programs of this director were loaded or replaced (an upgrade, another size of the"
            " connection table, or a device that needs more of them); run pylvs trace again"
        )


@contextlib.contextmanager
def open_session(
    given: Filter | None = None, *, sample: int = 1, rate: int = RATE, snap: int = SNAP
) -> Iterator[Session]:
    """Trace packets that match a filter, or all; one in `sample` of them, and at most `rate` in a second.

    `snap` is how many bytes of a frame a packet has. Raises InvalidOperation without tables, Unsupported, Busy while
    another session runs or the tables are being replaced, OutOfRange, BadFilter, NotPermitted.
    """
    _checked("sample", sample, 1, 1 << 30)
    _checked("rate", rate, 1, _MOST_RATE)
    _checked("snap", snap, 1, abi.constant("TRACE_SNAP"))
    state = State.open()
    variants.check(state)
    variants.refuse_another(state)
    entries = variants.entries_of(state)
    variables = {
        "trace_sample": sample,
        "trace_per_tick": max(1, round(rate / load.ticks_per_second())),
        "trace_snap": snap,
    }
    ring = 1 << (rate * abi.struct("trace_record").size * _RING_S).bit_length()
    copy = variants.Copy(state, entries, given, variables, max(_LEAST_RING, min(_MOST_RING, ring)))
    with contextlib.ExitStack() as opened:
        opened.callback(copy.close)
        with state.lock():
            copy.enter()
        session = Session(state, copy, entries)
        opened.pop_all()
        opened.callback(session.close)
        session._renew()
        yield session


# --- records ---


def packet_of(record: bytes, number: int) -> TracedPacket | None:
    """Return the packet of a record; None for bytes that are no record."""
    codec = abi.struct("trace_record")
    if len(record) != codec.size:
        return None
    values = codec.unpack_from(record)
    known = values["known"]
    has = {name: bool(known & abi.constant(f"TRACE_KNOWS_{name}")) for name in ("SERVICE", "SERVER", "LOAD", "STATE")}
    candidates = values["candidates"] if has["LOAD"] else None
    choice = _name("trace_choice", "TRACE_", values["choice"])
    return TracedPacket(
        number=number,
        time=lease.CLOCK.epoch(values["time_ns"]),
        cpu=values["cpu"],
        hook=HOOKS[min(values["hook"], len(HOOKS) - 1)],
        device=device_name(values["device"]),
        length=values["length"],
        before=values["before"][: values["before_bytes"]],
        after=values["after"][: values["after_bytes"]],
        service=_service(values) if has["SERVICE"] else None,
        server=_server(values) if has["SERVER"] else None,
        method=_METHODS.get(values["method"], "bypass") if known & abi.constant("TRACE_KNOWS_METHOD") else None,
        choice=None if choice in (None, "no_choice") else choice,
        scheduler=SCHEDULERS.get(values["scheduler"]) if has["LOAD"] else None,
        load=values["load"] if has["LOAD"] and values["load"] != abi.constant("NOTHING") else None,
        candidates=candidates,
        state=_state(values["state"]) if has["STATE"] else None,
        verdict=_VERDICTS.get((_name("trace_verdict", "TRACE_", values["verdict"]) or "").upper(), PASSED),
        reason=_name("reason", "REASON_", values["reason"]) if values["reason"] else None,
        output=device_name(values["output"]) if values["output"] else None,
        created=bool(values["created"]),
        sent_length=values["sent_length"],
    )


def _name(enum: str, prefix: str, number: int) -> str | None:
    """Return the name of a number of an enumeration, in lower case."""
    for name, value in abi.shipped().enum(enum).items():
        if value == number:
            return name.removeprefix(prefix).lower()
    return None


def _state(number: int) -> str | None:
    """Return a state as listings show it."""
    return _states().get(number)


@cache
def _states() -> dict[int, str]:
    unconfirmed = abi.constant("STATE_UDP_FIRST")
    names = {abi.constant("STATE_NONE"): "NONE", abi.constant("STATE_UDP"): "UDP", unconfirmed: "UDP"}
    for of_protocol in states().values():
        names |= of_protocol
    return names


def device_name(index: int) -> str:
    """Return the name of a device, or its index if it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def _address(words: tuple[int, ...], family: int) -> Address:
    return address_of(struct.pack("<4I", *words), 6 if family == 6 else 4)


def _service(values: Mapping[str, Any]) -> str:
    family = values["service_family"]
    if values["mark"]:
        return str(ServiceKey.of_mark(values["mark"], socket.AF_INET6 if family == 6 else socket.AF_INET))
    address, port = _address(values["service_address"], family), socket.ntohs(values["service_port"])
    if values["protocol"] not in list(Protocol):
        return f"{values['protocol']} {endpoint(address, port)}"
    return str(ServiceKey(Protocol(values["protocol"]), address, port))


def _server(values: Mapping[str, Any]) -> str:
    return endpoint(_address(values["server_address"], values["server_family"]), socket.ntohs(values["server_port"]))
