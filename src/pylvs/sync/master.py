"""The master: collects connections into messages, and sends these (IPVS-SEMANTICS 10.5)."""

from __future__ import annotations

import os
import socket
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import islice

from pylvs.model.errors import PylvsError
from pylvs.model.sync.connection import SyncedConnection
from pylvs.model.sync.daemons import SyncDaemon
from pylvs.sync import request, wire
from pylvs.sync.tables import Feed, Tables

# What a master counts, with its meaning.
COUNTERS = {
    "messages": "messages sent",
    "connections": "connections and templates in them",
    "queue full": "connections that were dropped because sync_qlen_max messages waited",
    "not in version 0": "connections of IPv6, which messages of version 0 cannot have",
    "lost": "connections that came faster than this daemon read them",
    "send errors": "messages that the network did not accept",
}
FLUSH_S = 2.0  # age of a message that is sent although it is not full
LOOK_S = 1.0  # between two looks for such messages
ANNOUNCED_AT_ONCE = 512  # connections of the whole table that are read in one turn
MOST_REQUESTS_AT_ONCE = 16  # requests that are read in one turn
LOST_S = 5.0  # after a loss of connections, if there was no further one, all are sent again
MOST_QUEUED = 64  # waiting messages beyond which the rest of the table waits


class Packer:
    """Collects connections into messages. Pure; times are in seconds.

    `longest` is the length of a message in bytes. Each of the `ports` has a message of its own, as IPVS's threads have.
    """

    def __init__(self, syncid: int, longest: int, ports: int) -> None:
        self.queue: deque[tuple[int, bytes, int]] = deque()  # port, message, connections
        self.counts: Counter[str] = Counter()
        self._syncid, self._longest, self._ports = syncid, longest, ports
        self._open: dict[int, wire.Message] = {}

    def add(self, connection: SyncedConnection, version: int, most_waiting: int, now_s: float) -> None:
        """Add a connection, for messages of a version; it is dropped if `most_waiting` messages wait."""
        if not version and connection.client.version != 4:
            self.counts["not in version 0"] += 1
            return
        record = wire.encode(connection) if version else wire.encode_v0(connection)
        port = _thread(connection) % self._ports
        message = self._open.get(port)
        if message is not None and message.version == version and message.add(record):
            return
        if message is not None:
            self._close(port, most_waiting)
        if len(self.queue) >= most_waiting:
            self.counts["queue full"] += 1
            return
        self._open[port] = wire.Message(version, self._syncid, self._longest, now_s, bytearray())
        self._open[port].add(record)

    def flush(self, before_s: float, most_waiting: int) -> None:
        """Queue the messages that were begun by this time."""
        for port in [port for port, message in self._open.items() if message.began_s <= before_s]:
            self._close(port, most_waiting)

    def _close(self, port: int, most_waiting: int) -> None:
        message = self._open.pop(port)
        if len(self.queue) >= most_waiting:
            self.counts["queue full"] += message.count
            return
        self.queue.append((port, message.encoded(), message.count))


def _thread(connection: SyncedConnection) -> int:
    """Return a number that is the same for all messages about a connection."""
    return zlib.crc32(connection.client.packed + connection.client_port.to_bytes(2, "big"))


class Master:
    """Sends what the feed of the tables has. `opened` are its sockets, one for each port.

    `asked` is the socket of requests for the whole table.
    """

    def __init__(
        self,
        daemon: SyncDaemon,
        tables: Tables,
        opened: Sequence[socket.socket],
        longest: int,
        asked: socket.socket | None = None,
    ) -> None:
        self._tables = tables
        self._sockets = opened
        self._packer = Packer(daemon.syncid, longest, len(opened))
        self._feed: Feed | None = None
        self._announces = False  # all connections of the tables that are found next
        self._replaced = 0  # tables of this feed
        self._all: Iterator[SyncedConnection] = iter(())
        self._looked_s = float("-inf")
        self._lost = 0  # of former feeds
        self._lost_s: float | None = None  # when connections that were due were lost last; None: all were sent since
        self._syncid = daemon.syncid
        self._asked = asked
        self._number = os.urandom(request.ID_BYTES)
        self._requests = request.Requests(self._number)
        self._alive = 0  # notices that it runs
        self._shows_alive = False  # a backup of pylvs may follow: none of IPVS needs these notices
        self._alive_s = float("-inf")  # of the last one

    @property
    def counts(self) -> Counter[str]:
        """What was counted so far, by the names in COUNTERS."""
        return self._packer.counts

    def announce_all(self) -> None:
        """Send all connections of the table again, as messages can be sent, and show from now on that it runs."""
        self._shows_alive = True
        self._begin_all()

    def _begin_all(self) -> None:
        """Begin with all connections; without tables, once there are some."""
        self._announces = self._feed is None
        if self._feed is not None:
            self._all = self._feed.announce_all()

    def work(self, now_s: float) -> None:
        """Read, collect and send. Raises PylvsError while there are no tables."""
        if self._feed is None:
            self._feed = self._tables.feed()
            if self._announces:
                self._begin_all()
        try:
            settings = self._tables.settings()
            version, most = settings["sync_version"], settings["sync_qlen_max"]
            full = self.counts["queue full"]
            for connection in self._feed.read():
                self._packer.add(connection, version, most, now_s)
            self._note_losses(self._feed.lost, self.counts["queue full"] > full, now_s)
            if self._feed.replaced != self._replaced:
                self._replaced = self._feed.replaced
                self._begin_all()
            self._receive_requests()
            if self._requests.begin(now_s):
                self._begin_all()
            if len(self._packer.queue) < MOST_QUEUED:
                self._send_more(version, most, now_s)
        except PylvsError:
            self._give_up()
            raise
        self._show_alive(now_s)
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._packer.flush(now_s - FLUSH_S, most)
        self._send()

    def _note_losses(self, of_feed: int, was_full: bool, now_s: float) -> None:
        """Count connections that were due and are not sent. When that has ended, send all of the table.

        `of_feed`: how many this feed has lost; `was_full`: others have just been dropped.
        """
        before, self.counts["lost"] = self.counts["lost"], self._lost + of_feed
        if was_full or self.counts["lost"] != before:
            self._lost_s = now_s
        elif self._lost_s is not None and now_s - self._lost_s >= LOST_S:
            self._lost_s = None
            self._requests.lost()

    def _receive_requests(self) -> None:
        if self._asked is None:
            return
        for _ in range(MOST_REQUESTS_AT_ONCE):
            try:
                found = request.decode(self._asked.recv(request.SIZE + 1), 0)
            except OSError:  # no more, or the device is down
                return
            reply = self._requests.receive(found.token) if found and found.kind is request.Kind.WANTED else None
            if reply:
                self._shows_alive = True
                self._packer.queue.appendleft((0, request.encode(reply, self._syncid), 0))

    def _show_alive(self, now_s: float) -> None:
        """Queue the next notice that this master runs, behind what was sent until now."""
        if self._shows_alive and now_s - self._alive_s >= request.ALIVE_S and len(self._packer.queue) < MOST_QUEUED:
            self._alive, self._alive_s = self._alive + 1, now_s
            notice = request.alive(self._alive, self._number)
            self._packer.queue.append((0, request.encode(notice, self._syncid), 0))

    def _send_more(self, version: int, most: int, now_s: float) -> None:
        """Add the next part of the whole table, and behind its end the replies to requests."""
        count = 0
        for connection in islice(self._all, ANNOUNCED_AT_ONCE):
            self._packer.add(connection, version, most, now_s)
            count += 1
        if count < ANNOUNCED_AT_ONCE and self._requests.is_serving:
            self._packer.flush(now_s, most)
            for reply in self._requests.end(now_s):
                self._packer.queue.append((0, request.encode(reply, self._syncid), 0))

    def _give_up(self) -> None:
        """Forget tables that are gone."""
        feed, self._feed, self._replaced, self._all = self._feed, None, 0, iter(())
        self._requests.wait_again()
        self._announces = True  # other tables may have connections that no packet announces
        if feed is not None:
            self._lost += feed.lost
            feed.close()

    def _send(self) -> None:
        queue = self._packer.queue
        while queue:
            port, data, count = queue[0]
            try:
                self._sockets[port].send(data)
            except BlockingIOError:
                return
            except OSError:  # the device is down, or has no address
                self.counts["send errors"] += 1
            else:
                self.counts["messages"] += 1
                self.counts["connections"] += count
            queue.popleft()

    def close(self, now_s: float) -> None:
        """Send what was collected, as far as the network accepts it at once."""
        if self._feed is not None:
            try:
                self.work(now_s)
            except PylvsError:
                return
            self._packer.flush(now_s, 1 << 31)
            self._send()
            self._give_up()
