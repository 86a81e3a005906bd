"""The daemon as the process of the page sees it: requests through the parent, one sample for all pages, events."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from pylvs import __version__
from pylvs.model.dataclass import dataclass
from pylvs.system.http.server import Refusal
from pylvs.system.processes.channel import MAX_PACKET, BadMessage, Message
from pylvs.web.rings import History
from pylvs.web.snapshot import Snapshot

PERIOD_S, IDLE_S = 1.0, 10.0  # between samples, with pages and without
SHARE = 24  # a sample is followed by so many times its duration, so it takes the daemon less than 5 % of a core
MOST_PERIOD_S = 60.0
ANSWER_S, LONG_S = 15.0, 600.0  # for the daemon's reply; for edits and commands
MOST_EVENTS = 2000
_SLOW = {"/v1/reload", "/v1/check-now"}

Who = Mapping[str, str]  # the token and the client of a request
NO_USER: Who = {}


@dataclass(slots=True)
class State:
    """Whether the daemon answers."""

    connected: bool = False
    problem: str = "the daemon was not asked yet"
    version: str = ""
    pid: int = 0
    started_at: float | None = None

    @property
    def older(self) -> str:
        """What to do about a daemon of another version, "" for the same one."""
        if not self.version or self.version == __version__:
            return ""
        return f"the daemon is pylvs {self.version}, this page is of {__version__}: restart the older one of them"

    def encoded(self) -> dict[str, Any]:
        return {
            "connected": self.connected,
            "problem": self.problem,
            "version": self.version,
            "older": self.older,
            "pid": self.pid,
            "started_at": self.started_at,
        }


class Daemon:
    """Asks through `send`. `changed` is called with each sample, and when the daemon is lost or found."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.state = State()
        self.snapshot: Snapshot | None = None
        self.history = History()
        self.events: deque[bytes] = deque(maxlen=MOST_EVENTS)
        self.events_end = 0  # the number of the next event
        self.changed: Callable[[], None] = lambda: None
        self.watched: Callable[[], bool] = lambda: False
        self.period_s = PERIOD_S
        self._durations: deque[float] = deque(maxlen=5)  # of the last samples that count
        self._send = send
        self._number = 0
        self._replies: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._lines: dict[int, Callable[[str], None]] = {}
        self._wake = asyncio.Event()
        self._kept: dict[str, tuple[float, Any]] = {}  # replies for all pages, with the time until which they count
        self._locks: dict[str, asyncio.Lock] = {}

    def wake(self) -> None:
        """Sample soon: a page has come, or something has changed."""
        self._wake.set()

    # --- messages ---

    def receive(self, message: dict[str, Any], bodies: list[bytes]) -> None:
        """Take a message of the parent."""
        if "reply" in message:
            reply = self._replies.get(message["reply"])
            if reply is not None and not reply.done():
                body = bodies[0] if bodies else str(message.get("body", "")).encode()
                reply.set_result((int(message["status"]), body))
        elif "line" in message:
            call = self._lines.get(message["line"])
            if call is not None:
                call(str(message["text"]))
        elif "events" in message:
            for line in str(message["events"]).split("\n"):  # not splitlines: a text may have a separator of Unicode
                if line:
                    self.events.append(line.encode())
                    self.events_end += 1
            self.changed()

    async def ask(
        self, method: str, path: str, given: Mapping[str, Any], who: Who = NO_USER, sample: bool = False
    ) -> tuple[int, bytes]:
        """Return status and body of the daemon's reply, an error of an older daemon in words."""
        limit_s = LONG_S if path in _SLOW else ANSWER_S
        message = {"method": method, "path": path, "given": given, **({"sample": True} if sample else who)}
        status, body = await self._exchange("ask", message, limit_s)
        if status == HTTPStatus.NOT_FOUND and b": Not Found" in body:
            name = f"pylvs {self.state.version}" if self.state.version else "this version of pylvs"
            raise Refusal(HTTPStatus.NOT_FOUND, f"the daemon, {name}, has no {path}: it is older than this page")
        return status, body

    async def run(self, job: str, given: Mapping[str, Any], who: Who, line: Callable[[str], None]) -> tuple[int, bytes]:
        """Let the parent run a command. Cancellation ends it."""
        return await self._exchange("run", {"job": job, "given": given, **who}, LONG_S, line)

    async def _exchange(
        self, kind: str, message: Message, limit_s: float, line: Callable[[str], None] | None = None
    ) -> tuple[int, bytes]:
        """Raises Refusal."""
        self._number += 1
        number = self._number
        reply: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        if line is not None:
            self._lines[number] = line
        try:
            self._send({kind: number, **message})
            async with asyncio.timeout(limit_s):
                return await reply
        except BadMessage:
            text = f"the request has more than {MAX_PACKET} bytes"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text) from None
        except TimeoutError:
            text = f"the daemon did not reply within {limit_s:g} s: it hangs, or is very busy"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text) from None
        finally:
            if kind == "run" and (reply.cancelled() or not reply.done()):
                self._send({"cancel": number})
            del self._replies[number]
            self._lines.pop(number, None)

    async def read(self, path: str, given: Mapping[str, Any] = {}, age_s: float = 0.0) -> Any:
        """Return the JSON of a reply, which is used again for a while. Raises Refusal."""
        key = json.dumps([path, given], sort_keys=True)
        lock = self._locks.setdefault(key, asyncio.Lock())
        if len(self._locks) > 200:  # of servers' names, which clients choose
            self._locks, self._kept = {key: lock}, {}
        async with lock:
            until, content = self._kept.get(key, (0.0, None))
            if time.monotonic() < until:
                return content
            status, body = await self.ask("GET", path, given, sample=True)
            content = decoded(status, body)
            self._kept[key] = time.monotonic() + age_s, content
            return content

    # --- samples ---

    async def sample_for_ever(self) -> None:
        """Until cancelled, take samples."""
        while True:
            self._wake.clear()
            begin = time.monotonic()
            counts = await self._sample()
            least_s = self.pause_s(time.monotonic() - begin, counts)
            await asyncio.sleep(least_s)
            if not self.watched():
                try:
                    async with asyncio.timeout(max(0.0, IDLE_S - least_s)):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def pause_s(self, took_s: float, counts: bool) -> float:
        """Return how long to wait after a sample. One without a reply of a ready daemon does not count.

        Such a sample waited for the daemon's start, or for a hang's end. It is no measure of what samples cost.
        """
        if not counts:
            return PERIOD_S
        self._durations.append(took_s)
        shortest_s = min(self._durations)  # the others waited for a processor, or for a lock
        least_s = min(max(PERIOD_S - took_s, SHARE * shortest_s), MOST_PERIOD_S)
        self.period_s = max(PERIOD_S, round(least_s + shortest_s, 1))
        return least_s

    async def _sample(self) -> bool:
        """Return whether a daemon that is ready has replied."""
        try:
            status = decoded(*await self.ask("GET", "/v1/status", {}, sample=True))
            counters = await self._perhaps("/v1/counters")
            drains = await self._perhaps("/v1/drains")
            snapshot = Snapshot(time.time(), self.period_s, status, counters, drains)
            self.history.put(snapshot.at, snapshot.history_rows())
        except Refusal as refusal:
            self.state.connected, self.state.problem = False, refusal.text
        except (KeyError, TypeError, AttributeError) as error:  # a daemon of another version
            self.state.connected = False
            self.state.problem = self.state.older or f"the daemon's reply is not understood ({error!r})"
        else:
            started_at = status["started_at"]
            self.state = State(True, "", str(status["version"]), int(status["pid"]), started_at)
            self.snapshot = snapshot
        self.changed()
        return self.state.connected and bool(self.snapshot and self.snapshot.status["ready"])

    async def _perhaps(self, path: str) -> Any:
        """Return a reply, None without one: an older daemon, or a table that is locked."""
        try:
            return decoded(*await self.ask("GET", path, {}, sample=True))
        except Refusal:
            return None


def decoded(status: int, body: bytes) -> Any:
    """Return the JSON of a reply. Raises Refusal with the daemon's error."""
    try:
        content = json.loads(body)
    except ValueError:
        raise Refusal(HTTPStatus.BAD_GATEWAY, "the daemon's reply is no JSON") from None
    if status != HTTPStatus.OK:
        text = content.get("error", "") if isinstance(content, dict) else ""
        raise Refusal(status, str(text) or f"the daemon replied with the status {status}")
    return content
