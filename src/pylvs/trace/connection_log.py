"""The connection log: which connections were made and ended, as the packet path records them (bpf/conntrack/log.h).

One process reads it at a time. It renews a lease: without it the packet path records nothing.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

from pylvs.bpf import abi
from pylvs.bpf.maps import RingBuffer
from pylvs.dataplane.connections import states
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables, address_of
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, PylvsError
from pylvs.model.service import Method, Protocol
from pylvs.trace import lease

LEASE_S = 3.0
_NAME, _LOST = "conn_log", "REASON_LOG_LOST"
_PORTS = struct.Struct("!HHB")
_EVENT = ("time_ns", "tuple", "server", "mark", "port", "event", "family", "server_family", "method", "state")
_ADDRESS_BYTES = {4: 4, 6: 16}
# States after a FIN, a RST or a SHUTDOWN.
_CLOSED = (
    *("FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK"),
    *("S-SENT", "S-RECEIVED", "S-ACK-SENT", "REJECTED", "CLOSED"),
)
_WHY = {"KILLED": "evicted", "ORPHAN": "server deleted", "REPLACED": "replaced"}


@dataclass(frozen=True, slots=True)
class Event:
    """A connection that was made, or ended. `why` is empty, or why it ended; `server` None for a bypass of the service.

    `time` is in seconds since 1970. `mark` is that of the service, or 0.
    """

    time: float
    why: str
    protocol: Protocol | int
    client: Address
    client_port: int
    virtual: Address
    virtual_port: int
    mark: int
    server: Address | None
    server_port: int
    method: str
    state: str


class ConnectionLog:
    """Reads the log of one state until it is closed. Raises Busy while another process reads it."""

    def __init__(self, state: State) -> None:
        if not state.exists:
            raise PylvsError("no tables in this network namespace: ipvsadm -A makes them")
        state.check_build()
        self._state = state
        self._form = abi.struct("conn_event").view(*_EVENT)
        self._kinds = {number: name for name, number in abi.shipped().enum("conn_event_kind").items()}
        self._names = states()
        self._renewed_s = 0.0
        self._seen_lost = -1
        self._open()
        with state.lock():
            self._refuse_another()
            self._renew()
        self._ring.records()  # of a former reader

    def _open(self) -> None:
        self._tables = Tables(self._state)
        self._ring = RingBuffer.open(self._tables.path(_NAME))
        self._inode = os.stat(self._tables.path(_NAME)).st_ino
        self._seen_lost = -1

    def _refuse_another(self) -> None:
        """Raise Busy if another process has the lease."""
        holder, until = divmod(self._tables.root.get(0, "log"), 1 << 32)
        if self._renewed_s and holder == os.getpid():
            return
        if holder and not lease.is_over(self._state, until) and os.path.exists(f"/proc/{holder}"):
            raise Busy(f"process {holder} reads the connection log: end it first")

    def _renew(self) -> None:
        """Let the packet path record for LEASE_S from now on."""
        self._tables.root.publish(0, "log", os.getpid() << 32 | lease.until(self._state, LEASE_S))
        self._renewed_s = time.monotonic()

    def read(self) -> list[Event]:
        """Return the events since the last call. Call it at least once a second.

        Raises Busy if it was not called for so long that another process reads now.
        """
        records = []
        if time.monotonic() - self._renewed_s >= LEASE_S / 3:
            records = self._follow()
            self._refuse_another()
            self._renew()
        for _ in range(2):  # the record of a connection may follow that of its end, from another CPU
            records += self._ring.records()
        return sorted(map(self._event, records), key=lambda event: event.time)

    def _follow(self) -> list[bytes]:
        """Open the tables that are pinned now: an upgrade or `pylvs down` has replaced them. Raises PylvsError.

        Return the last records of the former ones.
        """
        try:
            inode = os.stat(self._tables.path(_NAME)).st_ino
        except FileNotFoundError:
            raise PylvsError("the tables were removed") from None
        if inode == self._inode:
            return []
        rest = self._ring.records()
        self._ring.close()
        self._open()
        return rest

    def lost(self) -> int:
        """Return how many records were lost since the last call: they came faster than they were read."""
        now = self._tables.reasons.sums(abi.constant(_LOST))[0]
        before, self._seen_lost = self._seen_lost, now
        return now - before if before >= 0 else 0

    def close(self) -> None:
        """Let the packet path record nothing any more, unless another process reads by now."""
        if self._tables.root.get(0, "log") >> 32 == os.getpid():
            self._tables.root.publish(0, "log", 0)
        self._ring.close()

    def _event(self, record: bytes) -> Event:
        fields = self._form.unpack_from(record)
        time_ns, ends, server, mark, port, event, family, server_family, method, state = fields
        size = _ADDRESS_BYTES[family]
        client, virtual = (address_of(ends[start : start + size], family) for start in (0, size))
        client_port, virtual_port, protocol = _PORTS.unpack_from(ends, 2 * size)
        kind = self._kinds[event].removeprefix("CONN_")
        name = self._names.get(protocol, {}).get(state, "UDP" if protocol == Protocol.UDP else "NONE")
        why = "" if kind == "OPENED" else _WHY.get(kind) or ("finished" if name in _CLOSED else "timeout")
        return Event(
            lease.CLOCK.epoch(time_ns),
            why,
            Protocol(protocol) if protocol in list(Protocol) else protocol,
            client,
            client_port,
            virtual,
            virtual_port,
            mark,
            address_of(server, server_family) if server_family else None,
            int.from_bytes(port.to_bytes(2, "little"), "big"),
            Method(method).name.lower() if method in list(Method) else "bypass",
            name,
        )


def events(log: ConnectionLog, pause_s: float = 0.1) -> Iterator[list[Event]]:
    """Yield the events as they come, in lists of one or more. Raises PylvsError when the tables are removed."""
    while True:
        if found := log.read():
            yield found
        else:
            time.sleep(pause_s)
