"""The connections that this director announces to others, as the packet path chooses them (IPVS-SEMANTICS 10.4).

One process reads them at a time. It renews a lease: without it the packet path announces nothing
(bpf/conntrack/sync.h). Its memory for counts of packets and for records exists while it reads.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from pylvs.bpf import abi, libbpf
from pylvs.bpf.maps import ArrayMap, RingBuffer
from pylvs.dataplane import load
from pylvs.dataplane.exchange.used_pages import UsedPageReader
from pylvs.dataplane.sync import missing
from pylvs.dataplane.sync.numbers import active_states, announced_states, flags_of, states_there
from pylvs.dataplane.tables import ADDRESS_BYTES, MASK32, Tables, Versions, address_of, half_in_force
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy
from pylvs.model.service import SIP
from pylvs.model.sync.connection import SEQUENCE_BYTES, SyncedConnection

LEASE_S = 3.0
_COUNTS, _RING, _LOST = "sync_counts", "sync_rings", "REASON_SYNC_LOST"
_ARRAY, _RINGBUF, _INNER_MAP = 2, 27, 1 << 12  # BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_RINGBUF, BPF_F_INNER_MAP
RING_BYTES = 1 << 22
_EVENT = (
    "tuple:40s",
    "server:16s",
    "slot",
    "timeout",
    "mark",
    "port",
    "family",
    "server_family",
    "method",
    "state",
    "flags",
    "has_reply",
    "assured",
)
_ENDS = {4: struct.Struct("!IIHHBB26x"), 6: struct.Struct("!16s16sHHBB2x")}  # struct tuple4, struct tuple6
_SEQUENCE = ("flags", f"data:{SEQUENCE_BYTES}s")
_CALL = ("client:16s", "daddr:16s", "family", "length", "id:256s")
_NO_SERVER = bytes(ADDRESS_BYTES)


class SyncFeed:
    """Reads what is announced until it is closed. Raises Busy while another process reads."""

    def __init__(self, tables: Tables, ring_bytes: int = RING_BYTES) -> None:
        """Let the packet path announce connections, into a ring of this size, a power of two.

        Raises PylvsError without tables, NoSpace.
        """
        self._state, self._ring_bytes = tables.state, ring_bytes
        self._renewed_s = 0.0
        self._lost = 0  # in former tables
        self.replaced = 0  # how often other tables have replaced those that it reads: announce everything then
        with missing.reported(self._state):
            self._open()

    def _open(self) -> None:
        """Make the counts and the ring, and take the lease."""
        missing.require(self._state)
        self._state.check_build()
        self._tables = tables = Tables(self._state)
        self._mark = tables.mark()
        self._lost_before = self._counted_lost()
        self._words = _Words(tables)
        size = abi.struct("sync_count").size
        with self._state.lock():
            self._refuse_another()
            ring = libbpf.create_map(_RINGBUF, "sync_ring", 0, 0, self._ring_bytes)
            self._ring = RingBuffer(ring)
            counts = libbpf.create_map(_ARRAY, "sync_count", 4, size, tables.controls.count, _INNER_MAP)
            try:
                for name, descriptor in (_COUNTS, counts), (_RING, ring):
                    with ArrayMap.open(tables.path(name)) as outer:
                        outer.put_descriptor(0, descriptor)
            finally:
                os.close(counts)
            self.renew()

    def _refuse_another(self) -> None:
        """Raise Busy if another process has the lease."""
        holder, until = divmod(self._tables.root.get(0, "sync"), 1 << 32)
        left = until - load.clock(self._state) & 0xFFFFFFFF
        if self._renewed_s and holder == os.getpid():
            return
        if holder and left < 1 << 31 and os.path.exists(f"/proc/{holder}"):
            raise Busy(f"process {holder} announces the connections of this network namespace: end it first")

    def renew(self) -> None:
        """Let the packet path announce for LEASE_S from now on. `read` calls it in time."""
        until = load.clock(self._state) + round(LEASE_S * load.ticks_per_second()) & 0xFFFFFFFF
        self._tables.root.publish(0, "sync", os.getpid() << 32 | until)
        self._renewed_s = time.monotonic()

    def fileno(self) -> int:
        """Return the descriptor that poll(2) finds readable. It changes with `replaced`.

        It wakes a process that waits only when much is unread, so look every 20 ms besides.
        """
        return self._ring.fd

    @property
    def lost(self) -> int:
        """The announcements that were lost: they came faster than they were read."""
        return self._lost + self._counted_lost() - self._lost_before

    def _counted_lost(self) -> int:
        return self._tables.reasons.sums(abi.constant(_LOST))[0]

    def read(self) -> list[SyncedConnection]:
        """Return what was announced since the last call, without waiting. Call it at least once a second.

        Raises Busy if it was not called for so long that another process reads now; PylvsError without tables. After an
        error only `lost` and `close` are of use.
        """
        records: list[SyncedConnection] = []
        with missing.reported(self._state):
            if time.monotonic() - self._renewed_s >= LEASE_S / 3:
                records = self._follow()
                self._refuse_another()
                self.renew()
            return records + self._read()

    def _read(self) -> list[SyncedConnection]:
        records = self._ring.records()
        return list(self._words.announcements(records)) if records else []

    def _follow(self) -> list[SyncedConnection]:
        """Use the tables that are pinned now: an upgrade or `pylvs down` has replaced them. Raises PylvsError.

        Return what was announced by the former ones.
        """
        if self._tables.mark() == self._mark:
            return []
        rest, counted = self._read(), self._counted_lost()
        self._lost += counted - self._lost_before
        self._lost_before = counted  # it counts again if there are no other tables
        self._ring.close()
        self._open()
        self.replaced += 1
        return rest

    def announce_all(self) -> Iterator[SyncedConnection]:
        """Yield all connections in the states that are announced, templates first. Raises PylvsError without tables."""
        with missing.reported(self._state):
            reader = _TableReader(self._tables, self._words)
            yield from reader.announcements(templates=True)
            yield from reader.announcements(templates=False)

    def close(self) -> None:
        """Let the packet path announce nothing any more, and free the memory, unless another process reads by now.

        Without these tables, and in a second call, there is nothing to free but the ring.
        """
        self._ring.close()
        with contextlib.suppress(FileNotFoundError):  # removed since
            if self._tables.mark() == self._mark and self._tables.root.get(0, "sync") >> 32 == os.getpid():
                self._tables.root.publish(0, "sync", 0)
                for name in _COUNTS, _RING:
                    with ArrayMap.open(self._tables.path(name)) as outer:
                        outer.remove(0)

    def __enter__(self) -> SyncFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Words:
    """Turns records of the ring, and entries of the table, into announcements."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._form = abi.struct("sync_event").view(*_EVENT)
        self._sequence_form = abi.struct("synced_sequence").view(*_SEQUENCE)
        self._call_form = abi.struct("call").view(*_CALL)
        self._numbers, self._active = states_there(), active_states()
        self._template, self._assured = abi.constant("STATE_TEMPLATE"), abi.constant("ASSURED")
        self._is_call, self._is_sequenced = abi.constant("CONN_CALL"), abi.constant("CONN_SEQUENCED")
        self._is_synced = abi.constant("CONN_SYNCED")
        self._second = load.ticks_per_second()
        self._addresses: dict[int | bytes, Address] = {}

    def _address(self, raw: int | bytes) -> Address:
        """Return an address, which recent records may share."""
        found = self._addresses.get(raw)
        if found is None:
            if len(self._addresses) > 1 << 14:
                self._addresses.clear()
            found = self._addresses[raw] = IPv4Address(raw) if isinstance(raw, int) else IPv6Address(raw)
        return found

    def announcements(self, records: list[bytes]) -> Iterator[SyncedConnection]:
        """Yield what records of the ring announce."""
        form, ntohs = self._form, socket.ntohs
        for record in records:
            ends, server, slot, timeout, mark, port, family, server_family, *rest = form.unpack(record)
            client, virtual, sport, dport, protocol, _ = _ENDS[family].unpack(ends)
            at = self._address(client), sport, self._address(virtual), dport
            here = self._server(server, server_family) if server_family else None
            yield self.announcement(slot, protocol, *at, here, ntohs(port), timeout, mark, *rest)

    def _server(self, raw: bytes, family: int) -> Address:
        return self._address(raw if family == 6 else int.from_bytes(raw[:4], "big"))

    def announcement(
        self,
        slot: int,
        protocol: int,
        client: Address,
        client_port: int,
        virtual: Address,
        virtual_port: int,
        server: Address | None,
        server_port: int,
        timeout: int,
        mark: int,
        method: int,
        state: int,
        flags: int,
        has_reply: int,
        assured: int,
        left: int | None = None,
    ) -> SyncedConnection:
        """Return one announcement. `timeout` is in ticks; `state` and `flags` are those of the packet path.

        `left`: of a connection of the whole table, the ticks until it expires.
        """
        is_template, engine, data, sequence = state == self._template, "", b"", b""
        if flags & self._is_call:
            raw = self._tables.calls.get(slot.to_bytes(4, "little"))
            if raw:
                client_raw, virtual_raw, family, length, text = self._call_form.unpack(raw)
                client, virtual = address_of(client_raw, family), address_of(virtual_raw, family)
                engine, data = SIP, text[:length]
        there = flags_of(
            method,
            has_reply=bool(has_reply),
            is_active=state in self._active,
            is_template=is_template,
            is_synced=bool(flags & self._is_synced),
        )
        if flags & self._is_sequenced:
            raw = self._tables.synced_sequences.get(slot.to_bytes(4, "little"))
            if raw:
                sequence_flags, sequence = self._sequence_form.unpack(raw)
                there |= sequence_flags << 8
        return SyncedConnection(
            protocol,
            client,
            client_port,
            virtual,
            virtual_port,
            server or address_of(_NO_SERVER, virtual.version),
            server_port,
            there,
            int(assured == self._assured) if is_template else self._numbers.get(state, 0),
            round(timeout / self._second) if left is None or is_template else max(1, round(left / self._second)),
            mark,
            sequence,
            engine,
            data,
            None if left is None else max(0, round((timeout - left) * 1000 / self._second)),
        )


class _TableReader(UsedPageReader):
    """Reads the connection table as announcements."""

    def __init__(self, tables: Tables, words: _Words) -> None:
        super().__init__(tables)
        self._words = words
        self._announced = announced_states()
        self._shift, self._mask = abi.constant("WORD_STATE"), abi.constant("STATES") - 1
        self._reply, self._controlled = abi.constant("WORD_SEEN_REPLY"), abi.constant("CONN_CONTROLLED")
        self._dying, self._retired = 1 << abi.constant("WORD_DYING"), abi.constant("TUPLE_RETIRED")
        self._template = abi.constant("STATE_TEMPLATE")
        self._no_destination = abi.constant("NOTHING")

    def announcements(self, templates: bool) -> Iterator[SyncedConnection]:
        """Yield the templates, or all else, as `SyncFeed.announce_all` does."""
        versions = Versions(self._tables)
        timeouts, live, ntohs = versions.facts().get("timeouts"), versions.live, socket.ntohs
        leaves_out = self._tables.root.get(0, "settings.sync_persist_mode")
        marks: dict[int, tuple[int, int]] = {}
        words = self._words
        for entry in self._entries():
            slot, word, destination, port, method, flags, _, client, sport, virtual, dport, protocol, kind = entry
            state = word >> self._shift & self._mask
            if (state == self._template) != templates or word & self._dying or kind == self._retired:
                continue
            assured, timeout = 0, timeouts[state]
            if templates:
                assured = self._assurance(slot)
                timeout = self._tables.controls.get(slot, "timeout")
            elif state not in self._announced or (leaves_out and flags & self._controlled):
                continue
            server, mark = None, 0
            if destination != self._no_destination:
                server = self._server(destination, method, 0)
                if destination not in marks:
                    marks[destination] = self._mark_and_method(destination, live)
                mark, its_method = marks[destination]
                method = its_method if templates else method
            yield words.announcement(
                *(slot, protocol, client, ntohs(sport), virtual, ntohs(dport), server, ntohs(port), timeout, mark),
                *(method, state, flags, word >> self._reply & 1, assured, min(_signed(word - self._now), timeout)),
            )

    def _mark_and_method(self, destination: int, live: int) -> tuple[int, int]:
        table = self._tables.destinations
        one, other = table.get(destination, "states")
        flags = (one, other)[half_in_force((one >> 32, other >> 32), live)]
        return table.get(destination, "mark"), flags >> abi.constant("DESTINATION_METHOD") & 0xF


def _signed(ticks: int) -> int:
    """Return a difference of ticks, of which the lower 32 bits count."""
    return (ticks + (1 << 31) & MASK32) - (1 << 31)
