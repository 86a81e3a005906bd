"""Store the connections that another director announces (IPVS-SEMANTICS 10.5).

A packet program inserts them (bpf/conntrack/store.h), in batches. It is loaded for the process that stores, and is not
pinned.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from pylvs.bpf import abi, kernel
from pylvs.dataplane import load
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.state import STORE
from pylvs.dataplane.sync import missing
from pylvs.dataplane.sync.numbers import TEMPLATE_ASSURED, states_here
from pylvs.dataplane.tables import (
    LONGEST_TICKS,
    MASK32,
    Records,
    Tables,
    Versions,
    address_bytes,
    destination_name,
    half_in_force,
    service_key,
)
from pylvs.dataplane.transaction import Transaction
from pylvs.model.addresses import family_of
from pylvs.model.errors import NoSpace
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey
from pylvs.model.sync.connection import METHOD_MASK, SEQUENCE_BYTES, SyncedConnection, SyncFlag
from pylvs.netlink.links import Routes

_TEMPLATE_TIMEOUT_S = 180  # of a template without timeout: version 0
_BYPASS = 4  # the method
_UNLISTED = 4  # at most this part of all destinations is of real servers that no service lists
_ANY_MARK = MASK32  # of a template without service
_FTP, _FTP_DATA, _FIRST_UNPRIVILEGED = 21, 20, 1024
_SEQUENCES = int(SyncFlag.OUT_SEQ | SyncFlag.IN_SEQ)
_INACTIVE, _TEMPLATE, _ONE_PACKET = int(SyncFlag.INACTIVE), int(SyncFlag.TEMPLATE), int(SyncFlag.ONE_PACKET)
_NO_CPORT = int(SyncFlag.NO_CPORT)
_SLOT = struct.Struct("<I")
_SEQUENCE = struct.Struct(f"<B7x{SEQUENCE_BYTES}s")  # struct synced_sequence
_RECORD = (
    "tuple:40s",
    "server:16s",
    "destination",
    "expiry",
    "timeout",
    "packets",
    "call",
    "port",
    "method",
    "state",
    "family",
    "assured",
    "inactive",
    "result",
    f"sequence:{_SEQUENCE.size}s",
    "refreshed",
)
_ENDS = {4: struct.Struct("!4s4sHHBB"), 6: struct.Struct("!16s16sHHBB")}  # struct tuple4, struct tuple6


class StoreCounts(NamedTuple):
    """What became of connections. `unlisted` ones are among those created, updated or replaced; else each is one."""

    created: int = 0
    updated: int = 0
    replaced: int = 0  # the former connection, to another real server, ended
    ignored: int = 0  # inactive, and the connection has another real server now
    invalid: int = 0  # a state or flags that IPVS refuses, too
    full: int = 0  # no space for the connection or for its real server
    expiring: int = 0  # being removed at this moment: the next announcement is stored
    newer: int = 0  # of a whole table, and known better here
    unlisted: int = 0  # no service here lists its real server

    def __add__(self, other: object) -> StoreCounts:
        if not isinstance(other, StoreCounts):
            return NotImplemented
        return StoreCounts(*(one + more for one, more in zip(self, other, strict=True)))


class _Bound(NamedTuple):
    """The destination of a connection here: its slot, or NO_INDEX; the method; and whether a service lists it."""

    destination: int
    method: int
    is_listed: bool


class _Server(NamedTuple):
    """A real server that no service lists, and the service that it would belong to."""

    service: ServiceKey
    destination: Destination


class SyncStore:
    """Stores connections into the tables that are pinned. Close it at the end."""

    def __init__(self, tables: Tables) -> None:
        """Load the program. Raises PylvsError."""
        self._state = tables.state
        self._program = -1
        with missing.reported(self._state):
            self._open()

    def _open(self) -> None:
        missing.require(self._state)
        self._state.check_build()
        self.close()
        self._tables = tables = Tables(self._state)
        mark = tables.mark()
        self._versions = Versions(tables)
        self._records = Records(tables.open_array("sync_records"), "sync_record")
        self._calls = Records(tables.open_array("sync_calls"), "call")
        self._form = abi.struct("sync_record").view(*_RECORD)
        self._result_at = abi.struct("sync_record").offset("result")
        self._most_calls = self._calls.count
        self._states, self._second = states_here(), load.ticks_per_second()
        self._template = abi.constant("STATE_TEMPLATE")
        self._kinds = abi.constant("TUPLE_CONNECTION"), abi.constant("TUPLE_TEMPLATE")
        self._timeouts = self._versions.facts().get("timeouts")
        self._results = {number: name for name, number in abi.shipped().enum("sync_result").items()}
        self._bound: dict[tuple[int | bytes, ...], _Bound] = {}
        self._unknown: dict[tuple[int | bytes, ...], _Server] = {}  # servers to add
        self._most_unlisted = self._tables.destinations.count // _UNLISTED
        self._live = -1
        # Last: nothing can fail while only this method has the descriptor.
        with load.open_object(*load.pool_shape(tables), (STORE,)) as opened:
            load.reuse_maps(opened, tables)
            opened.load()
            self._program = os.dup(opened.program_fd(STORE))
        self._mark = mark

    def close(self) -> None:
        """Unload the program. A second call does nothing."""
        if self._program >= 0:
            os.close(self._program)
            self._program = -1

    def __enter__(self) -> SyncStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def store(self, connections: Iterable[SyncedConnection]) -> StoreCounts:
        """Insert or update connections and templates, in their order. Raises PylvsError without tables."""
        with missing.reported(self._state):
            return self._store(connections)

    def _store(self, connections: Iterable[SyncedConnection]) -> StoreCounts:
        if self._tables.mark() != self._mark:
            self._open()  # an upgrade or `pylvs down` has replaced them
        self._follow_edits()
        stored = list(connections)
        destinations = list(map(self._bind, stored))
        if self._unknown:
            self._add_servers()
            destinations = [self._bind(each) for each in stored]
            self._unknown.clear()  # no space
        now = load.clock(self._state)
        packets = self._tables.root.get(0, "settings.sync_threshold")
        memory, count, calls, counted = bytearray(), 0, 0, StoreCounts()
        unlisted = invalid = full = 0
        for connection, bound in zip(stored, destinations, strict=True):
            state = self._state_of(connection)
            if state is None:
                invalid += 1
                continue
            if bound is None:
                full += 1
                continue
            is_call = connection.data and state == self._template  # the engine's data of others mean nothing
            if is_call:
                self._calls.replace(calls, self._call(connection))
                calls += 1
            memory += self._record(connection, bound, state, now, packets, calls if is_call else 0)
            unlisted += not bound.is_listed
            count += 1
            if count == self._records.count or calls == self._most_calls:
                counted += self._run(memory, count)
                memory, count, calls = bytearray(), 0, 0
        if count:
            counted += self._run(memory, count)
        return counted + StoreCounts(unlisted=unlisted, invalid=invalid, full=full)

    def _follow_edits(self) -> None:
        """Forget what may have changed since the last edit of the tables."""
        live = self._versions.live
        if live != self._live:
            self._bound.clear()
            self._timeouts = self._versions.facts().get("timeouts")
            self._live = live

    def _run(self, memory: bytearray, count: int) -> StoreCounts:
        """Let the packet program take the records."""
        size, array = self._form.size, self._records.array
        if count < self._records.count:
            memory += bytes(size)  # ends the batch
        array.memory[: len(memory)] = memory
        kernel.run_program(self._program, bytes(64))
        results = bytes(array.memory[self._result_at : size * count : size])
        return StoreCounts(
            **{
                name.removeprefix("SYNC_").lower(): results.count(number)
                for number, name in self._results.items()
                if number
            }
        )

    def _state_of(self, connection: SyncedConnection) -> int | None:
        """Return the state of the packet path; None for what IPVS refuses."""
        flags = connection.flags
        if flags & _TEMPLATE:
            refused = flags & (_NO_CPORT | _ONE_PACKET)
            return None if refused else self._template
        states = self._states.get(connection.protocol)
        if states is None or connection.state >= len(states) or flags & _ONE_PACKET:
            return None
        return states[connection.state]

    def _record(
        self, connection: SyncedConnection, bound: _Bound, state: int, now: int, packets: int, call: int
    ) -> bytes:
        flags, virtual, server = connection.flags, connection.virtual, connection.server
        is_template = state == self._template
        if connection.timeout_s:
            timeout = min(round(connection.timeout_s * self._second), LONGEST_TICKS)
        elif is_template:
            timeout = round(_TEMPLATE_TIMEOUT_S * self._second)
        else:
            timeout = self._timeouts[state]
        ends = _ENDS[virtual.version].pack(
            connection.client.packed,
            virtual.packed,
            connection.client_port,
            connection.virtual_port,
            connection.protocol,
            self._kinds[is_template],
        )
        has_sequence = flags & _SEQUENCES and len(connection.sequence) == SEQUENCE_BYTES
        return self._form.pack(
            ends,
            address_bytes(server),
            bound.destination,
            now + timeout & MASK32,
            timeout,
            packets,
            call,
            socket.htons(connection.server_port),
            bound.method,
            state,
            virtual.version,
            is_template and bool(connection.state & TEMPLATE_ASSURED),  # IPVS stores other bits, too, and ignores them
            bool(flags & _INACTIVE),
            0,
            _SEQUENCE.pack((flags & _SEQUENCES) >> 8, connection.sequence) if has_sequence else b"",
            self._refreshed(connection, now),
        )

    def _refreshed(self, connection: SyncedConnection, now: int) -> int:
        """Return the tick at which the other director refreshed a connection of its whole table; 0 for another one."""
        if connection.age_ms is None:
            return 0
        return now - round(min(connection.age_ms / 1000 * self._second, LONGEST_TICKS)) & MASK32 | 1

    def _call(self, connection: SyncedConnection) -> bytes:
        """Return what the template of a SIP call stands for."""
        return abi.struct("call").pack(
            client=address_bytes(connection.client),
            daddr=address_bytes(connection.virtual),
            family=connection.virtual.version,
            length=len(connection.data),
            id=connection.data,
        )

    # The destination here (ip_vs_find_dest).

    def _bind(self, connection: SyncedConnection) -> _Bound | None:
        """Return the destination of a connection; None if its real server is unknown, and note that one."""
        virtual, server, method = connection.virtual, connection.server, connection.flags & METHOD_MASK
        key = (
            connection.protocol,
            virtual.packed,
            connection.virtual_port,
            connection.mark,
            server.packed,
            connection.server_port,
            method,
        )
        found = self._bound.get(key)
        if found is None and key not in self._unknown:
            found = self._found(connection, method)
            if found is not None:
                self._bound[key] = found
            elif self._state_of(connection) is not None:
                self._unknown[key] = self._unlisted(connection, method)
        return found

    def _found(self, connection: SyncedConnection, method: int) -> _Bound | None:
        service, port = self._service(connection), connection.server_port
        if service is not None:
            for its_port in (0, port) if connection.mark and method != Method.MASQ else (port, 0):
                found = self._destination(service, DestinationKey(connection.server, its_port))
                if found is not None and found.is_listed:
                    return found
        if method == _BYPASS:
            return _Bound(MASK32, method, is_listed=True)
        server = self._unlisted(connection, method)
        return self._destination(server.service, server.destination.key)

    def _destination(self, service: ServiceKey, key: DestinationKey) -> _Bound | None:
        """Return a destination, listed or not."""
        raw = self._tables.names.get(destination_name(service, key))
        if raw is None:
            return None
        (slot,) = _SLOT.unpack(raw)
        one, other = self._tables.destinations.get(slot, "states")
        flags = (one, other)[half_in_force((one >> 32, other >> 32), self._live)]
        is_listed = bool(flags & abi.constant("DESTINATION_AVAILABLE"))
        return _Bound(slot, flags >> abi.constant("DESTINATION_METHOD") & 0xF, is_listed)

    def _unlisted(self, connection: SyncedConnection, method: int) -> _Server:
        """Return the real server of a connection as the one that its service would list."""
        service = self._service(connection)
        virtual, port = connection.virtual, connection.virtual_port
        if service is None and connection.protocol in list(Protocol):
            service = ServiceKey(Protocol(connection.protocol), virtual, port)
        elif service is None:
            service = ServiceKey.of_mark(connection.mark or _ANY_MARK, family_of(virtual))
        its_method = Method(method) if method in list(Method) else Method.ROUTE
        port = 0 if service.mark and its_method != Method.MASQ else connection.server_port
        return _Server(service, Destination(DestinationKey(connection.server, port), its_method, 0))

    def _add_servers(self) -> None:
        """Add the unknown real servers, as IPVS forwards connections to servers that no service lists.

        Those that do not fit remain unknown.
        """
        unknown, self._unknown = self._unknown, {}
        slots = DestinationSlots(self._tables)
        with self._state.lock(), Routes() as routes, Transaction(self._tables) as edit:
            added = list[int]()
            space = self._most_unlisted - len(edit.trash.slots())
            try:
                for server in dict.fromkeys(unknown.values()):
                    if len(added) < space and slots.find(server.service, server.destination.key) is None:
                        route = routes.to(server.destination.key.address)
                        added.append(slots.bring_unlisted(edit, *server, route))
            except NoSpace:
                pass  # those that were added are complete
            edit.commit()
            for slot in added:
                edit.trash.put(slot)
            slots.sweep(edit)
        self._follow_edits()

    def _service(self, connection: SyncedConnection) -> ServiceKey | None:
        """Return the service of a connection: that of the mark, of its port, of FTP, or of all ports."""
        virtual, port = connection.virtual, connection.virtual_port
        if connection.mark and self._has(key := ServiceKey.of_mark(connection.mark, family_of(virtual))):
            return key
        if connection.protocol not in list(Protocol):
            return None
        protocol = Protocol(connection.protocol)
        may_be_ftp = protocol == Protocol.TCP and (port == _FTP_DATA or port >= _FIRST_UNPRIVILEGED)
        for its_port in (port, *((_FTP,) if may_be_ftp else ()), 0):
            if self._has(key := ServiceKey(protocol, virtual, its_port)):
                return key
        return None

    def _has(self, key: ServiceKey) -> bool:
        raw = self._tables.service_keys(key.address.version).get(service_key(key))
        if raw is None:
            return False
        (slot,) = _SLOT.unpack(raw)
        return bool(self._versions.version(slot, self._live)["present"])
