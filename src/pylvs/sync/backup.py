"""The backup: a process without privileges receives, and this one stores what it sends (IPVS-SEMANTICS 10.5)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.model.sync.daemons import SyncDaemon
from pylvs.sync import records, request, wire
from pylvs.sync.receiver import DROPPED
from pylvs.sync.tables import Store, Tables
from pylvs.system.logs import get_logger
from pylvs.system.processes.channel import BadMessage
from pylvs.system.processes.child import Child
from pylvs.system.processes.event_loop import Loop

# What becomes of connections in the tables, as `Store.store` names it.
STORED = {
    "created": "connections and templates that were made in the table",
    "updated": "those that the table had already",
    "replaced": "connections whose former one, to another real server, was ended",
    "ignored": "inactive connections of which the table has one to another real server",
    "unlisted": "of these, connections to a real server that no service lists here; they are forwarded, too",
    "invalid": "connections with flags or a state that IPVS refuses, too",
    "full": "connections for which the table had no space",
    "newer": "connections of a whole table that this director knows better",
    "expiring": "connections that were just ending here; the next message makes them again",
}
WHAT, PROGRAM = "the receiver of the backup sync daemon", "pylvs.sync.receiver"
# What a backup counts besides `wire.COUNTERS` and what becomes of connections in the tables.
COUNTERS = {
    DROPPED: "messages that the kernel dropped: too many waited, or there was a flood of useless ones",
    "no tables": "connections that came while there were no tables",
    "receiver restarts": "unexpected ends of the process that receives",
    "requests": "requests for whole tables: at the start, and when messages of a master were missed",
    "send errors": "requests for whole tables that the network did not accept",
}


class Backup:
    """Stores what the receiver of these sockets sends. By the socket `asks` it requests the whole tables of masters."""

    def __init__(
        self,
        loop: Loop,
        daemon: SyncDaemon,
        tables: Tables,
        opened: Sequence[socket.socket],
        longest: int,
        asks: socket.socket | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._tables = tables
        self._store: Store | None = None
        self._received: Counter[str] = Counter()  # by the receiver that runs now
        self._loop = loop
        self._child = Child(loop, WHAT, PROGRAM, self._receive, on_down=self._restarted)
        own = os.urandom(request.BACKUP_BYTES)
        self._request, self._masters = request.Request(own), request.Masters()
        self._has_tables = asks is None
        self._asks, self._syncid = asks, daemon.syncid
        self._arguments = str(daemon.syncid), str(longest), own.hex(), *(str(each.fileno()) for each in opened)
        self._descriptors = [each.fileno() for each in opened]

    @property
    def up(self) -> bool:
        """Whether the receiver works."""
        return self._child.up

    def start(self) -> None:
        """Start the receiver."""
        self._child.start(*self._arguments, descriptors=self._descriptors)

    def work(self, now_s: float) -> None:
        """Show that a backup daemon runs, and repeat its request. Raises PylvsError while there are no tables."""
        self.ask(now_s)
        if self._store is None:
            self._store = self._tables.store()
        try:
            self._store.renew()
        except PylvsError:
            self._close_store()
            raise

    def ask(self, now_s: float) -> None:
        """Request the whole tables of masters, if that is due, once the receiver works."""
        if self._asks is None or not self.up:
            return
        reason = self._masters.missed(now_s) if self._has_tables else ""
        if reason and self._request.again(now_s):
            self._masters.asked()
            get_logger().warning(f"backup sync daemon: {reason}; it requests the whole tables")
        if self._request.is_due(now_s):
            self.counts["requests"] = self._request.count
            wanted = request.Notice(request.Kind.WANTED, self._request.token)
            try:
                self._asks.send(request.encode(wanted, self._syncid))
            except OSError:
                self.counts["send errors"] += 1

    def has_tables(self, now_s: float) -> bool:
        """Return whether the masters that replied have sent their first tables, or none replied in time."""
        self._has_tables = self._has_tables or self._request.is_over(now_s)
        return self._has_tables

    def close(self, now_s: float) -> None:
        """End the receiver."""
        self._child.close()
        if self._store is not None:
            with contextlib.suppress(PylvsError):  # the lease ended with the tables
                self._store.end()
            self._close_store()

    def _close_store(self) -> None:
        """Close the store; the next use opens another one. The lease of this one may go on until then."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _restarted(self) -> None:
        self.counts["receiver restarts"] += 1
        self._received.clear()

    def _receive(self, message: dict[str, Any]) -> None:
        if "counts" in message:
            self._count(message["counts"])
            return
        if "notice" in message:
            self._notice(_notice(message["notice"]))
            return
        connections = records.decode(message.get("connections"))
        try:
            if self._store is None:
                self._store = self._tables.store()
            self.counts.update(self._store.store(connections))
        except PylvsError:
            self._close_store()
            self.counts["no tables"] += len(connections)

    def _notice(self, found: request.Notice) -> None:
        if found.kind is request.Kind.ALIVE:
            self._masters.alive(found.sender, int.from_bytes(found.token), self._loop.now)
        elif self._request.receive(found) and found.kind is request.Kind.BEGUN:
            self._masters.begun(found.sender, self._loop.now)

    def _count(self, found: object) -> None:
        """Add what the receiver has counted since its last report. Raises BadMessage."""
        if not isinstance(found, dict) or not all(name in wire.COUNTERS or name == DROPPED for name in found):
            raise BadMessage("counters of other names")
        if not all(type(number) is int and number >= 0 for number in found.values()):
            raise BadMessage("a counter that is no number")
        self.counts.update(Counter(found) - self._received)
        self._received = Counter(found)


def _notice(found: object) -> request.Notice:
    """Return the notice of a master. Raises BadMessage."""
    try:
        kind, token, sender = found  # type: ignore[misc]  # a TypeError
        return request.Notice(request.Kind(kind), bytes.fromhex(token), bytes.fromhex(sender))  # type: ignore[has-type]
    except (TypeError, ValueError):
        raise BadMessage("a notice that is none") from None
