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
from pylvs.dataplane.state import STORE
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
from pylvs.model.addresses import family_of
from pylvs.model.errors import PylvsError
from pylvs.model.service import DestinationKey, Method, Protocol, ServiceKey
from pylvs.model.synced import METHOD_MASK, SEQUENCE_BYTES, SyncedConnection, SyncFlag

_TEMPLATE_TIMEOUT_S = 180  # of a template without timeout: version 0
_BYPASS = 4  # the method
_FTP, _FTP_DATA, _FIRST_UNPRIVILEGED = 21, 20, 1024
_SEQUENCES = SyncFlag.OUT_SEQ | SyncFlag.IN_SEQ
_SLOT = struct.Struct("<I")
_RECORD = (
    "tuple:40s",
    "server:16s",
    "destination",
    "expiry",
    "timeout",
    "mark",
    "packets",
    "call",
    "port",
    "method",
    "state",
    "family",
    "server_family",
    "has_reply",
    "assured",
    "inactive",
    "sequence_flags",
    "result",
    f"sequence:{SEQUENCE_BYTES}s",
)
_ENDS = {4: struct.Struct("!4s4sHHBB"), 6: struct.Struct("!16s16sHHBB")}  # struct tuple4, struct tuple6


class StoreCounts(NamedTuple):
    """What became of connections. `unbound` ones are among those created or updated; the others are disjoint."""

    created: int = 0
    updated: int = 0
    replaced: int = 0  # the former connection, to another real server, ended
    ignored: int = 0  # inactive, and the connection has another real server now
    unbound: int = 0  # without a real server, because no service here has it
    invalid: int = 0  # a state or flags that IPVS refuses, too
    full: int = 0  # the connection table has no space
    expiring: int = 0  # being removed at this moment: the next announcement is stored

    def __add__(self, other: object) -> StoreCounts:
        if not isinstance(other, StoreCounts):
            return NotImplemented
        return StoreCounts(*(one + more for one, more in zip(self, other, strict=True)))


class _Bound(NamedTuple):
    """The destination of a connection here: its slot, or NO_INDEX, and the method."""

    destination: int
    method: int


class SyncStore:
    """Stores connections into the tables that are pinned. Close it at the end."""

    def __init__(self, tables: Tables) -> None:
        """Load the program. Raises PylvsError."""
        self._state = tables.state
        self._program = -1
        self._open()

    def _open(self) -> None:
        if not self._state.exists:
            raise PylvsError("no tables in this network namespace: ipvsadm -A makes them")
        self._state.check_build()
        self.close()
        self._tables = tables = Tables(self._state)
        self._mark = tables.mark()
        with load.open_object(*load.pool_shape(tables), (STORE,)) as opened:
            load.reuse_maps(opened, tables)
            opened.load()
            self._program = os.dup(opened.program_fd(STORE))
        self._versions = Versions(tables)
        self._records = Records(tables.open_array("sync_records"), "sync_record")
        self._calls = Records(tables.open_array("sync_calls"), "call")
        self._form = abi.struct("sync_record").view(*_RECORD)
        self._result_at = abi.struct("sync_record").offset("result")
        self._most_calls = self._calls.count
        self._states, self._second = states_here(), load.ticks_per_second()
        self._template, self._none = abi.constant("STATE_TEMPLATE"), MASK32
        self._timeouts = self._versions.facts().get("timeouts")
        self._results = {number: name for name, number in abi.shipped().enum("sync_result").items()}
        self._bound: dict[tuple[int | bytes, ...], _Bound] = {}
        self._live = -1

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
        if self._tables.mark() != self._mark:
            self._open()  # an upgrade or `pylvs down` has replaced them
        live = self._versions.live
        if live != self._live:
            self._bound.clear()
            self._timeouts = self._versions.facts().get("timeouts")
            self._live = live
        now = load.clock(self._state)
        packets = self._tables.root.get(0, "settings.sync_threshold")
        memory, count, calls, counted = bytearray(), 0, 0, StoreCounts()
        unbound = invalid = 0
        for connection in connections:
            state = self._state_of(connection)
            if state is None:
                invalid += 1
                continue
            if connection.data:
                self._calls.replace(calls, self._call(connection))
                calls += 1
            record, is_unbound = self._record(connection, state, now, packets, calls if connection.data else 0)
            memory += record
            unbound += is_unbound
            count += 1
            if count == self._records.count or calls == self._most_calls:
                counted += self._run(memory, count)
                memory, count, calls = bytearray(), 0, 0
        if count:
            counted += self._run(memory, count)
        return counted + StoreCounts(unbound=unbound, invalid=invalid)

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
        if connection.flags & SyncFlag.TEMPLATE:
            refused = connection.flags & (SyncFlag.NO_CPORT | SyncFlag.ONE_PACKET)
            return None if refused or connection.state > TEMPLATE_ASSURED else self._template
        states = self._states.get(connection.protocol)
        if states is None or connection.state >= len(states) or connection.flags & SyncFlag.ONE_PACKET:
            return None
        return states[connection.state]

    def _record(
        self, connection: SyncedConnection, state: int, now: int, packets: int, call: int
    ) -> tuple[bytes, bool]:
        """Return a record, and whether it is unbound."""
        flags, virtual, server = connection.flags, connection.virtual, connection.server
        is_template, method = state == self._template, flags & METHOD_MASK
        bound = self._bind(connection)
        is_unbound = bound.destination == self._none and bound.method != _BYPASS
        if connection.timeout_s:
            timeout = min(round(connection.timeout_s * self._second), LONGEST_TICKS)
        elif is_template:
            timeout = round(_TEMPLATE_TIMEOUT_S * self._second)
        else:
            timeout = self._timeouts[state]
        kind = abi.constant("TUPLE_TEMPLATE" if is_template else "TUPLE_CONNECTION")
        ends = _ENDS[virtual.version].pack(
            connection.client.packed,
            virtual.packed,
            connection.client_port,
            connection.virtual_port,
            connection.protocol,
            kind,
        )
        has_sequence = flags & _SEQUENCES and len(connection.sequence) == SEQUENCE_BYTES
        record = self._form.pack(
            ends,
            address_bytes(server),
            bound.destination,
            now + timeout & MASK32,
            timeout,
            connection.mark,
            packets,
            call,
            socket.htons(connection.server_port),
            bound.method,
            state,
            virtual.version,
            server.version,
            # once it is bound, the destination decides (NOOUTPUT of ip_vs_bind_dest)
            is_unbound and method != Method.MASQ and not flags & SyncFlag.NOOUTPUT,
            is_template and connection.state == TEMPLATE_ASSURED,
            bool(flags & SyncFlag.INACTIVE),
            (flags & _SEQUENCES) >> 8 if has_sequence else 0,
            0,
            connection.sequence if has_sequence else b"",
        )
        return record, is_unbound

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

    def _bind(self, connection: SyncedConnection) -> _Bound:
        """Return the destination and method of a connection."""
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
        if found is None:
            found = self._bound[key] = self._found(connection, method)
        return found

    def _found(self, connection: SyncedConnection, method: int) -> _Bound:
        unbound = _Bound(self._none, method if method <= _BYPASS else int(Method.ROUTE))
        service = self._service(connection)
        if service is None:
            return unbound
        port = connection.server_port
        ports = (0, port) if connection.mark and method != Method.MASQ else (port, 0)
        for its_port in ports:
            name = destination_name(service, DestinationKey(connection.server, its_port))
            raw = self._tables.names.get(name)
            if raw is None:
                continue
            (slot,) = _SLOT.unpack(raw)
            one, other = self._tables.destinations.get(slot, "states")
            flags = (one, other)[half_in_force((one >> 32, other >> 32), self._live)]
            if flags & abi.constant("DESTINATION_AVAILABLE"):
                return _Bound(slot, flags >> abi.constant("DESTINATION_METHOD") & 0xF)
        return unbound

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
