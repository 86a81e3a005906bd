"""What the console shows, read from the daemon, or without one from the table, by a thread of its own.

Each kind of request has a period, and pauses for a multiple of its duration. So a large table is read less often, and
the console takes a small share of a processor. Rates are those that the packet path computes anyway.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pylvs.daemon.api.client import Client, NoDaemon
from pylvs.daemon.state.history import History as SavedEvents
from pylvs.dataplane.director import open_director
from pylvs.dataplane.ends import report
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.errors import NotPermitted, NotReadable, PylvsError, text_of
from pylvs.model.rows import ServiceRow
from pylvs.model.transfer import decode_row
from pylvs.system.unix_http import NEEDS
from pylvs.top.actions import Action
from pylvs.top.rates import End, EndRates, History
from pylvs.top.rows import Row, Totals, merged, totals

if TYPE_CHECKING:
    from pylvs.dataplane.director import BpfDirector

STATUS_S, TABLE_S, ENDS_S = 5.0, 2.0, 4.0  # the packet path counts every two seconds; events refresh the status
PAUSES = 30  # behind a request: so many times its duration, at least
REFRESH_S = 1.0  # between two snapshots, at least
RETRY_S = 2.0  # of a daemon that does not answer
PATIENCE_S = 5.0  # a restart of the daemon: what was read last stays for so long
EVENTS = 200


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read last. `fault` says why the daemon or the table could not be read, "" if they could."""

    host: str = ""
    rows: tuple[Row, ...] = ()
    totals: Totals = Totals()
    ends: tuple[End, ...] = ()
    status: Mapping[str, Any] | None = None  # of the daemon; None: the table alone
    events: tuple[Mapping[str, Any], ...] = ()
    fault: str = ""
    fault_since: float = 0  # Unix time
    read_at: float = 0  # Unix time of the table


class Pace:
    """When a request is due: a period after the last one began, and a multiple of its duration after its end."""

    def __init__(self, period_s: float, clock: Callable[[], float]) -> None:
        self._period_s, self._clock = period_s, clock
        self._earliest = self._due = 0.0
        self._begun = 0.0

    @property
    def due(self) -> float:
        """The time of the next request."""
        return self._due

    def begin(self) -> None:
        """A request begins."""
        self._begun = self._clock()

    def end(self, failed: bool = False) -> None:
        """It has ended. One that failed is repeated soon: waiting for a daemon that hangs costs nothing."""
        now = self._clock()
        if failed:
            self._earliest = self._due = now + RETRY_S
            return
        self._earliest = max(self._begun + REFRESH_S, now + PAUSES * (now - self._begun))
        self._due = max(self._begun + self._period_s, self._earliest)

    def hasten(self) -> None:
        """Make it due as soon as its duration allows."""
        self._due = min(self._due, self._earliest)


@contextlib.contextmanager
def _paced(pace: Pace) -> Iterator[None]:
    pace.begin()
    try:
        yield
    except BaseException:
        pace.end(failed=True)
        raise
    pace.end()


class Feed:
    """Reads snapshots. `first` decides whether the console can open at all; `run` and `follow` are for threads."""

    def __init__(
        self,
        state_dir: Path | None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.history = History()
        self._client = Client(state_dir)
        self._named = state_dir is not None  # its tables may be in another network namespace
        self._clock, self._wall = clock, wall
        self._status, self._table, self._ends = (Pace(each, clock) for each in (STATUS_S, TABLE_S, ENDS_S))
        self._end_rates = EndRates()
        self._director: BpfDirector | None = None
        self._services: list[ServiceRow] = []
        self._events: deque[Mapping[str, Any]] = deque(maxlen=EVENTS)
        self._lock = threading.Lock()  # of the events
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._lost_at: float | None = None  # the monotonic time at which the daemon did not answer first
        self._snapshot = Snapshot(host=socket.gethostname())

    # --- for the main thread ---

    def first(self) -> Snapshot:
        """Return the first snapshot. Raises PylvsError if neither a daemon nor the table can be read."""
        try:
            self._read_status()
        except NotPermitted:
            raise
        except PylvsError as error:
            if self._named:
                raise
            self._lose(error)
            self._lost_at = self._clock() - PATIENCE_S
            try:
                self._read_table()
            except NotPermitted:
                raise NotReadable(NEEDS) from None
            self._remember_events()
            if isinstance(error, NoDaemon):
                self._snapshot = replace(self._snapshot, fault="")  # it is normal, and not a loss
        return self.read()

    def stop(self) -> None:
        """Let `run` and `follow` return soon."""
        self._stopped.set()
        self._wake.set()

    def hasten(self) -> None:
        """Read as soon as the pauses allow."""
        for each in (self._status, self._table, self._ends):
            each.hasten()
        self._wake.set()

    def act(self, action: Action) -> str:
        """Make the request; return a message. Raises PylvsError."""
        reply = self._asked("POST", action.path, dict(action.content))
        self.hasten()
        lost = reply.get("not_kept", "")
        return f"{action.done}; a restart of the daemon ends it: {lost}" if lost else action.done

    # --- for threads ---

    def run(self, publish: Callable[[Snapshot], object]) -> None:
        """Publish snapshots until `stop`."""
        while not self._stopped.is_set():
            begun = self._clock()
            publish(self.read())
            self._stopped.wait(max(0.0, begun + REFRESH_S - self._clock()))
            self._wake.clear()
            self._wake.wait(max(0.0, min(self._next_due() - self._clock(), STATUS_S)))

    def follow(self) -> None:
        """Receive the daemon's events until `stop`. Between two daemons try again."""
        while not self._stopped.is_set():
            try:
                with self._client.stream("GET", "/v1/events?follow=true", endless=True) as response:
                    former = self._former_events()
                    for event in map(json.loads, response):
                        if event not in former:  # between both requests
                            self._receive(event)
            except (PylvsError, OSError, ValueError, http.client.HTTPException):
                pass  # requests report why it does not answer
            self._stopped.wait(RETRY_S)

    def read(self) -> Snapshot:
        """Read what is due, and return all that is known."""
        if self._clock() >= self._status.due:
            try:
                self._read_status()
            except PylvsError as error:
                self._lose(error)
        self._give_up()
        if self._clock() >= self._table.due:
            try:
                self._read_table()
            except (PylvsError, OSError) as error:
                self._complain(text_of(error))
        if self._clock() >= self._ends.due:
            self._read_ends()
        with self._lock:
            events = tuple(self._events)
        self._snapshot = replace(self._snapshot, events=events)
        return self._snapshot

    def _next_due(self) -> float:
        return min(self._status.due, self._table.due, self._ends.due)

    def _former_events(self) -> list[Mapping[str, Any]]:
        """Show the events that the daemon remembers, and return them."""
        with self._client.stream("GET", "/v1/events") as response:
            found = list(map(json.loads, response))[-EVENTS:]
        with self._lock:
            self._events = deque(found, maxlen=EVENTS)
        self._wake.set()
        return found

    def _receive(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._events.append(event)
        self._status.hasten()
        self._wake.set()

    def _asked(self, method: str, path: str, content: Any = None) -> Any:
        _, reply = self._client.ask(method, path, content)
        if isinstance(reply, dict) and "error" in reply:
            raise PylvsError(str(reply["error"]))
        return reply

    def _read_status(self) -> None:
        with _paced(self._status):
            reply = self._asked("GET", "/v1/status")
        self._lost_at = None
        self._snapshot = replace(self._snapshot, status=reply, fault="")
        self._merge()

    def _lose(self, error: PylvsError) -> None:
        """Note that the daemon does not answer; after some seconds the table alone is shown."""
        if self._lost_at is None:
            self._lost_at = self._clock()
        if self._snapshot.status is not None or self._snapshot.fault or not isinstance(error, NoDaemon):
            self._complain(str(error))

    def _give_up(self) -> None:
        """Show the table alone if the daemon has not answered for some seconds."""
        lost = self._lost_at is not None and self._clock() - self._lost_at >= PATIENCE_S
        if lost and not self._named and self._snapshot.status is not None:
            self._snapshot = replace(self._snapshot, status=None)

    def _complain(self, text: str) -> None:
        since = self._snapshot.fault_since if self._snapshot.fault else self._wall()
        self._snapshot = replace(self._snapshot, fault=text, fault_since=since)

    def _read_table(self) -> None:
        """Read the table of the daemon, or without one that of this network namespace."""
        if self._lost_at is not None and self._snapshot.status is not None:
            return  # a daemon that restarts: what was read last stays
        with _paced(self._table):
            if self._snapshot.status is not None:
                self._services = list(map(decode_row, self._asked("GET", "/v1/table")["services"]))
            else:
                self._director = self._director or open_director()
                self._services = self._director.services()
        fault = self._snapshot.fault if self._lost_at is not None else ""
        self._snapshot = replace(self._snapshot, read_at=self._wall(), fault=fault)
        self._merge()
        self.history.add(self._snapshot.rows)

    def _merge(self) -> None:
        status = self._snapshot.status
        known = None if status is None else status["services"]
        rows = merged(self._services, known, status["now"] if status else 0)
        self._snapshot = replace(self._snapshot, rows=rows, totals=totals(rows))

    def _read_ends(self) -> None:
        if self._lost_at is not None and self._snapshot.status is not None:
            return
        try:
            with _paced(self._ends):
                found = self._asked("GET", "/v1/drops") if self._snapshot.status is not None else report()
        except (PylvsError, OSError) as error:
            self._complain(text_of(error))
            return
        self._snapshot = replace(self._snapshot, ends=self._end_rates.add(found, self._clock()))

    def _remember_events(self) -> None:
        """Show the events of the last daemon, as `pylvs events` does."""
        self._events.extend(SavedEvents(self._client.state).saved(EVENTS))
