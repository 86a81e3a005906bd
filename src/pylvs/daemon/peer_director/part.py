"""`peer_director`: the daemon's end of the process that copies connections from and to the other director.

That process reports what is copied, and what the other director is configured for. The daemon compares that with its
own configuration. To virtual routers it reports whether all connections are here.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from pylvs.daemon.parts import Part
from pylvs.daemon.peer_director.summary import Digests, digests_of, summary_of
from pylvs.daemon.problems import Problem
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.health.engine import Engine
from pylvs.model.errors import Busy, InvalidOperation
from pylvs.model.plain import Malformed, from_plain, to_plain
from pylvs.model.service import Timeouts
from pylvs.model.wanted import Configuration, PeerSettings
from pylvs.peer.summary import Difference, Summary, differences
from pylvs.system.processes.asyncio_loop import AsyncioLoop, closed
from pylvs.system.processes.channel import BadMessage
from pylvs.system.processes.child import Child

WHAT, PROGRAM = "the process that copies connections", "pylvs.peer.copier"
LEASE_S = 60  # it loads programs, for which a slow machine needs many seconds
TELL_S = 1.0  # between reports to virtual routers
SETTLED_S = 10.0  # a difference in a state is one after so long: checks of two directors do not run at once
UNCONNECTED_S = 10.0  # likewise without a connection
SHARE = 0.9999  # of the other director's connections, with which a virtual router takes over from it
FRESH_S = 15.0  # copies that are older are behind: a very large table is searched every five seconds
LATE_S = 30.0  # a problem
COMPARE_S = 2.0  # between comparisons
MOST_DIFFERENCES = 20  # that are problems of their own


class Director(Part):
    """The other director. `report` passes a report to virtual routers."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        report: Callable[[float | None, str], Awaitable[None]],
        timeouts: Callable[[], Awaitable[Timeouts | None]],
        arguments: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`arguments` are more arguments of the process: the namespace of the tables."""
        self._engine, self._report_routers, self._timeouts, self._clock = engine, report, timeouts, clock
        self._arguments = tuple(arguments)
        self._settings = PeerSettings()
        self._key: tuple[int, ...] = ()  # what tells one key file from another
        self._child: Child | None = None
        self._status: Mapping[str, Any] = {}
        self._theirs: Summary | None = None
        self._ours = Summary()
        self._digested: tuple[Any, Digests] = (None, {})
        self._compared_at = -COMPARE_S
        self._seen: dict[Difference, float] = {}  # since when
        self._started_at = 0.0

    @property
    def configured(self) -> bool:
        """Whether there is a peer_director."""
        return self._settings.address is not None

    async def begin(self, tasks: BackgroundTasks) -> None:
        await self._follow(self._engine().configuration.settings.peer)
        tasks.keep_running(self._run, "comparing with the other director")

    async def apply(self, configuration: Configuration) -> None:
        await self._follow(configuration.settings.peer)

    async def stop(self, keep: bool) -> None:
        await self._end()

    async def close(self) -> None:
        await self._end()

    async def _follow(self, settings: PeerSettings) -> None:
        key = _identity(settings.key_file) if settings.address is not None else ()
        if (settings, key) == (self._settings, self._key):
            return
        await self._end()
        self._settings, self._key = settings, key
        if settings.address is None:
            return
        self._started_at = self._clock()
        self._child = Child(
            AsyncioLoop(), WHAT, PROGRAM, self._receive, self._up, self._down, equal=True, lease_s=LEASE_S
        )
        name = self._engine().configuration.settings.router_id or socket.gethostname()
        self._child.start(json.dumps(to_plain(settings)), name, *self._arguments)

    async def _end(self) -> None:
        child, self._child = self._child, None
        self._down()
        self._settings, self._key = PeerSettings(), ()
        if child is not None:
            await closed(child)

    def _up(self) -> None:
        self._send_summary()

    def _down(self) -> None:
        self._status, self._theirs = {}, None
        self._seen.clear()

    def _send_summary(self) -> None:
        if self._child is not None:
            self._child.send({"summary": to_plain(self._ours)})

    def _receive(self, message: dict[str, Any]) -> None:
        if isinstance(status := message.get("status"), dict):
            self._status = status
        elif "summary" in message:
            try:
                self._theirs = from_plain(Summary, message["summary"])
            except Malformed as error:
                raise BadMessage(str(error)) from None
        else:
            raise BadMessage("a message without its fields")

    async def _run(self) -> None:
        while True:
            await self.step()
            await asyncio.sleep(TELL_S)

    async def step(self) -> None:
        """Compare, and report to virtual routers."""
        if not self.configured:
            return
        await self._report_routers(self.current_at(), self.held_text())
        if self._clock() - self._compared_at < COMPARE_S:
            return
        self._compared_at = self._clock()
        engine = self._engine()
        if self._digested[0] is not engine.configuration:
            self._digested = engine.configuration, digests_of(engine.configuration.services)
        ours = summary_of(self._digested[1], engine.snapshot(), await self._timeouts())
        if ours != self._ours:
            self._ours = ours
            self._send_summary()
        self._compare()

    def _compare(self) -> None:
        now = self._clock()
        found = [] if self._theirs is None else list(differences(self._ours, self._theirs))
        self._seen = {each: self._seen.get(each, now) for each in found}

    def differences(self) -> list[Difference]:
        """Return what has not been the same in both directors for SETTLED_S."""
        settled = self._clock() - SETTLED_S
        return [each for each, since in self._seen.items() if since <= settled]

    @property
    def _taken(self) -> Mapping[str, Any]:
        return self._status.get("taken") or {}

    def current_at(self) -> float | None:
        """Return when all that the other director had then was here (CLOCK_MONOTONIC); None: it is not so now."""
        taken = self._taken
        if not self._status.get("connected") or not taken.get("complete") or share(taken) < SHARE:
            return None
        at: float = taken["current_at"]
        return at if at and self._clock() - at < FRESH_S else None

    def held_text(self) -> str:
        """Return what is here of the connections of the other director, as a text."""
        taken = self._taken
        if self.problem:
            return self.problem
        if not taken:
            return "nothing is known of them"
        if not taken["complete"]:
            live = max(taken["live"], taken["underway"])
            return f"{taken['underway']:,} of {live:,} connections copied" if live else "they are being counted"
        return f"{percent(share(taken))} of {taken['records']:,} connections held"

    @property
    def problem(self) -> str:
        """Why nothing is copied from the other director now, "" if that works."""
        if not self.configured:
            return ""
        if self._child is not None and self._child.problem:
            return self._child.problem
        if self._status.get("connected"):
            return ""
        return str(self._status.get("problem") or "") or "the process that copies has not reported yet"

    def problems(self) -> Iterator[Problem]:
        if not self.configured:
            return
        name, since = str(self._settings.address), self._status.get("since") or self._started_at
        if self.problem:
            if self._clock() - since >= UNCONNECTED_S:
                yield Problem("peer", name, f"connections are not copied: {self.problem}")
            return
        taken = self._taken
        if taken.get("complete") and share(taken) < SHARE:
            yield Problem("peer_connections", name, self._missing(taken))
        elif (age_s := self._clock() - max(taken.get("current_at", 0.0), since)) >= LATE_S:
            yield Problem("peer_connections", name, f"copies are {age_s:.0f} s old: {self.held_text()}")
        found = self.differences()
        for each in found[:MOST_DIFFERENCES]:
            yield Problem("peer_differs", each.object, each.text)
        if len(found) > MOST_DIFFERENCES:
            more = len(found) - MOST_DIFFERENCES
            yield Problem("peer_differs", name, f"{more} more differences: pylvs peer status")

    def _missing(self, taken: Mapping[str, Any]) -> str:
        reasons = [f"{taken['full']:,} found no space in the table"] if taken["full"] else []
        if taken["unknown_count"]:
            named = ", ".join(f"{server} ({count:,})" for server, count in taken["unknown"][:3])
            more = ", ..." if len(taken["unknown"]) > 3 else ""
            reasons.append(f"{taken['unknown_count']:,} are of servers that are not here: {named}{more}")
        return f"{self.held_text()}; {'; '.join(reasons)}"

    def ask(self) -> None:
        """Copy all connections of the other director again. Raises InvalidOperation, Busy."""
        if not self.configured:
            raise InvalidOperation("there is no peer_director in the configuration")
        if self.problem or self._child is None:
            raise Busy(f"nothing can be copied: {self.problem}")
        self._child.send({"ask": True})

    def encoded(self) -> dict[str, Any] | None:
        """Return the state for the API; None without a peer_director."""
        if not self.configured:
            return None
        taken, sent = self._taken, self._status.get("sent") or {}
        current = taken.get("current_at") or 0.0
        return {
            "address": str(self._settings.address),
            "name": self._status.get("name", ""),
            "version": self._status.get("version", ""),
            "connected": bool(self._status.get("connected")),
            "problem": self.problem,
            "complete": bool(taken.get("complete")),
            "copied": taken.get("underway", 0),
            "live": taken.get("live", 0),
            "records": taken.get("records", 0),
            "held": taken.get("held", 0),
            "newer": taken.get("newer", 0),
            "refused": dict(self._status.get("refused") or {}),
            "refused_full": taken.get("full", 0),
            "refused_unknown": taken.get("unknown_count", 0),
            "unknown": [{"server": server, "connections": count} for server, count in taken.get("unknown", ())],
            "seconds": taken.get("seconds", 0.0),
            "age_s": round(self._clock() - current, 1) if current else None,
            "other": None
            if not sent
            else {
                "sending": sent.get("underway", 0),
                "live": sent.get("live", 0),
                "records": sent.get("records"),
                "held": sent.get("held"),
            },
            "differences": [{"object": each.object, "text": each.text} for each in self.differences()],
            "compared": self._theirs is not None,
        }


def share(taken: Mapping[str, Any]) -> float:
    """Return the share of connections that are held, 1 if there are none."""
    return taken["held"] / taken["records"] if taken["records"] else 1.0


def percent(part: float) -> str:
    """Return a share as a text that is 100% only if nothing is missing."""
    return "100%" if part >= 1 else f"{int(part * 10000) / 100:.2f}%"


def _identity(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
