"""Insert connections that another data plane has into the connection table, in several passes.

Packets may use the table at the same time. A connection that they have changed since stays as it is.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from pylvs.bpf import abi, kernel
from pylvs.dataplane import load
from pylvs.dataplane.connections import states
from pylvs.dataplane.state import RESTORE
from pylvs.dataplane.tables import MASK32, Records, Tables
from pylvs.dataplane.upgrade.restore import RECORD
from pylvs.model.service import Protocol

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import TracebackType
    from typing import Self

Key = tuple[int, bytes, int, bytes, int]
_LIMIT = 1 << 31
_LOST_SHARE = 0.1  # of the time that is left, which a connection may lose if no packet follows
_JITTER_S = 1.5  # of the time that is left, where seconds are rounded down
_EMPTY_FRAME = bytes(64)
BYPASS = -1  # the destination's slot of a connection without one


def is_about_right(drift: float, left: float, second: float = 1.0) -> bool:
    """Return whether a connection may keep its time of expiry, of which so much is left.

    Packets have moved it by `drift` where it comes from. Else each pass would write all connections that are in use.
    """
    return 0 < drift <= left * _LOST_SHARE or abs(drift) <= _JITTER_S * second


def ticks_between(first: int, second: int) -> int:
    """Return the ticks from one to another, negative if that is earlier. Ticks wrap."""
    return (second - first + _LIMIT & MASK32) - _LIMIT


class Incoming(NamedTuple):
    """A connection or a template, as another data plane has it. Addresses are in network order, ports in host order."""

    protocol: int
    client: bytes
    client_port: int
    virtual: bytes
    virtual_port: int
    state: str  # as in listings; of a template NONE or ASSURED
    expires_s: float  # since the pass began
    slot: int  # of the destination, or BYPASS
    port: int  # of the real server
    method: int
    template: Key | None = None  # of the connection
    timeout: int = 0  # ticks, of a template
    is_template: bool = False

    @property
    def key(self) -> Key:
        """What identifies it."""
        return self[:5]


class _Inserted(NamedTuple):
    slot: int
    expiry: int
    state: int
    incoming: Incoming


class Insertion:
    """The connections that were inserted. The caller holds the lock at the first use, and withdraws it at the end."""

    def __init__(self, tables: Tables, renew: Callable[[], object] = lambda: None) -> None:
        """Load the program that inserts. Raises what `load.open_entry` does. `renew` is called between batches."""
        self._tables = tables
        self._renew = renew
        self._program = load.open_entry(tables.state, RESTORE)
        self._records = Records(tables.open_array("conn_records"), "conn_record")
        self._form = abi.struct("conn_record").view(*RECORD)
        self._names = [name.partition(":")[0] for name in RECORD]
        self._template = abi.constant("STATE_TEMPLATE")
        self._kinds = abi.constant("TUPLE_CONNECTION"), abi.constant("TUPLE_TEMPLATE")
        self._methods = {-1: abi.constant("METHOD_BYPASS")}
        self._assured = abi.constant("ASSURED")
        in_use = 1 << abi.constant("WORD_IN_USE") - abi.constant("WORD_SEEN_REPLY")
        self._kept = {"ESTABLISHED": in_use, "CLOSE": in_use, "CLOSED": in_use}
        self._states: dict[tuple[int, str], int] = {(Protocol.UDP, "UDP"): abi.constant("STATE_UDP")}
        for protocol, names in states().items():
            for number, name in names.items():
                self._states.setdefault((protocol, name), number)
            self._states[protocol, "NONE"] = abi.constant("STATE_NONE")
        self._second = load.ticks_per_second()
        self.there: dict[Key, _Inserted] = {}
        self.refused = 0  # connections for which the table had no space, in the last pass
        self.missed: set[Key] = set()  # what the last pass did not find and did not end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._program)

    def knows_state(self, protocol: int, state: str) -> bool:
        """Return whether a protocol has a state of this name."""
        return (protocol, state) in self._states

    def has_expired(self, key: Key) -> bool:
        """Return whether the timer may have ended what was inserted, because its time is over."""
        inserted = self.there.get(key)
        if inserted is None:
            return False
        return ticks_between(load.clock(self._tables.state), inserted.expiry) <= 0

    def run(self, found: Iterable[Incoming], ends: bool = True, seen: set[Key] | None = None) -> int:
        """Make one pass: insert what is new, update what changed, and end what is gone if `ends` is set.

        Those whose keys are in `seen` are as the last pass left them. `found` may add to it while it yields others.
        Return how many connections were inserted, updated or ended. The kernel lists its connections by position, page
        by page: when one ends between two pages, the next page skips (ip_vs_conn_array in ip_vs_conn.c). So what two
        passes in a row do not find is gone.
        """
        now, changed, self.refused = load.clock(self._tables.state), 0, 0
        seen = set() if seen is None else seen
        later = []
        batch: list[tuple[Incoming, _Inserted | None, bool]] = []
        for incoming in found:
            if incoming.key in seen:
                continue  # an older one of the same key
            seen.add(incoming.key)
            before = self.there.get(incoming.key)
            if before and not self._differs(incoming, before, now):
                continue
            changed += 1
            if incoming.template:  # its template first
                later.append(incoming)
            else:
                batch.append((incoming, before, False))
        self._put(batch, now)
        self._put([(each, self.there.get(each.key), False) for each in later], now)
        return changed + self._end(seen, now, ends)

    def _differs(self, incoming: Incoming, before: _Inserted, now: int) -> bool:
        if incoming[5] != before.incoming[5] or incoming[7:] != before.incoming[7:]:
            return True
        drift = ticks_between(before.expiry, self._expiry(incoming, now))
        return not is_about_right(drift, ticks_between(now, before.expiry), self._second)

    def _expiry(self, incoming: Incoming, now: int) -> int:
        return now + max(round(incoming.expires_s * self._second), 1) & MASK32

    def _end(self, seen: Collection[Key], now: int, ends: bool) -> int:
        missed = {key for key in self.there if key not in seen}
        gone = [self.there[key] for key in missed & self.missed] if ends else []
        self.missed = missed.difference(each.incoming.key for each in gone)
        gone.sort(key=lambda each: each.incoming.is_template)  # a template stays while connections refer to it
        self._put([(each.incoming, each, True) for each in gone], now)
        return len(gone)

    def _put(self, records: list[tuple[Incoming, _Inserted | None, bool]], now: int) -> None:
        count = self._records.count
        for start in range(0, len(records), count):
            self._renew()
            self._run(records[start : start + count], now)

    def _run(self, records: list[tuple[Incoming, _Inserted | None, bool]], now: int) -> None:
        size, array = self._form.size, self._records.array
        memory = bytearray()
        made = [self._record(*record, now) for record in records]
        for packed, _, _ in made:
            memory += packed
        if len(records) < self._records.count:
            memory += bytes(size)  # ends the batch
        array.memory[: len(memory)] = memory
        kernel.run_program(self._program, _EMPTY_FRAME)
        for at, ((incoming, _, has_ended), (_, expiry, state)) in enumerate(zip(records, made, strict=True)):
            slot = self._records.get(at, "slot")
            if has_ended:
                del self.there[incoming.key]
            elif slot:
                self.there[incoming.key] = _Inserted(slot, expiry, state, incoming)
            else:  # nor is one there that an earlier pass has inserted
                self.there.pop(incoming.key, None)
                self.refused += 1

    def _record(
        self, incoming: Incoming, before: _Inserted | None, has_ended: bool, now: int
    ) -> tuple[bytes, int, int]:
        """Return the record with its tick of expiry and its state."""
        is_template = incoming.is_template
        state = self._template if is_template else self._states[incoming.protocol, incoming.state]
        expiry = before.expiry if has_ended and before else self._expiry(incoming, now)
        template = self.there.get(incoming.template) if incoming.template else None
        family = 4 if len(incoming.client) == 4 else 6
        raw = incoming.client + incoming.virtual
        raw += incoming.client_port.to_bytes(2, "big") + incoming.virtual_port.to_bytes(2, "big")
        raw += bytes((incoming.protocol, self._kinds[is_template]))
        is_assured = is_template and incoming.state == "ASSURED"
        values = {
            "tuple": raw,
            "destination": 0 if incoming.slot == BYPASS else incoming.slot,
            "expiry": expiry,
            "was_expiry": before.expiry if before else 0,
            "template": template.slot if template else 0,
            "timeout": incoming.timeout,
            "port": incoming.port.to_bytes(2, "big"),
            "method": self._methods.get(incoming.slot, incoming.method),
            "state": state,
            "was_state": before.state if before else 0,
            "family": family,
            "kept": 0 if is_template else self._kept.get(incoming.state, 0),
            "assured": self._assured if is_assured else 0,
            "has_ended": has_ended,
        }
        packed = self._form.pack(*(values.get(name, 0) for name in self._names))
        return packed, expiry, state
