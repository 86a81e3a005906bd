"""The last events on disk: they survive restarts of the daemon, and commands read them without one.

`events.jsonl` in the state directory has one JSON object per line. At `MAX_BYTES` it replaces `events.jsonl.1`, so both
take twice this much at most. A disk that is full or read-only loses events, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.wanted import Configuration
from pylvs.system.http.lines import json_line
from pylvs.system.logs import get_logger
from pylvs.system.threads import DaemonThread

MAX_BYTES = 1 << 20  # of one of the two files
MAX_UNWRITTEN = 10_000  # events; the oldest are dropped
PAUSE_S = 0.1  # between two writes
SLOW_S = 5.0  # for a write, before it counts as an error
RETRY_S = 30.0  # of events that the disk refused
END_S = 10.0  # for the last write, at the stop
FILE_NAME = "events.jsonl"
MAX_LINE = 1 << 16  # bytes; of a longer event, as of a reload with many differences, the short fields are saved
_SHORT = 1000  # characters

Event = Mapping[str, Any]


class History(Part):
    """Writes events to the file, in a thread of its own: the disk may block for ever."""

    def __init__(self, state: StateDirectory) -> None:
        self.path = state.path / FILE_NAME
        self._error = ""  # of the last write that ended
        self._begun: float | None = None  # the write that runs, by the monotonic clock
        self._unwritten: deque[Event] = deque(maxlen=MAX_UNWRITTEN)
        self._thread = DaemonThread("pylvs-history")
        self._pending = asyncio.Event()
        self._log = get_logger()

    def put(self, event: Event) -> None:
        """Keep an event for `write`."""
        self._unwritten.append(event)
        self._pending.set()

    @property
    def unwritten(self) -> bool:
        """Whether events wait for `write`."""
        return bool(self._unwritten)

    @property
    def error(self) -> str:
        """Why the last events could not be written, "" if they are, or are written now."""
        begun = self._begun
        if begun is not None and time.monotonic() - begun >= SLOW_S:
            return self._late
        return self._error

    @property
    def _late(self) -> str:
        return f"{self.path}: not written within {SLOW_S:g} s: events would be lost at a restart"

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self.run, "saving events")

    def problems(self) -> Iterator[Problem]:
        if self.error:
            yield Problem("history", "", self.error)

    async def run(self) -> None:
        """Until cancelled, write the events, and again those that the disk refused."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self.unwritten else None):
                    await self._pending.wait()
            self._pending.clear()
            await self._write_in_thread()
            await asyncio.sleep(PAUSE_S)

    async def _write_in_thread(self) -> None:
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self.write)
        try:
            _, late = await asyncio.wait({writing}, timeout=SLOW_S)
            if late:
                self._log.error(self._late)
            await writing
        finally:
            writing.cancel()  # when this task is: its result must not reach a closed loop

    async def close(self) -> None:
        """Write the last events, in bounded time: the disk, or a write that runs, may block."""
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self.write)
        self._thread.shutdown()
        _, late = await asyncio.wait({writing}, timeout=END_S)
        if late:
            writing.cancel()
            self._log.error(f"{self.path}: the disk does not answer; the last events are lost")

    def saved(self, count: int) -> list[Event]:
        """Return the last events of this daemon and those before it, oldest first. Damaged lines are left out."""
        found: deque[Event] = deque(maxlen=count)
        for path in (rotated(self.path), self.path):
            try:
                with open(path, "rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * MAX_BYTES))
                    found.extend(_events(file.read(2 * MAX_BYTES).splitlines()))
            except OSError:  # the history is for people: a daemon must start without it
                continue
        return list(found)

    def write(self) -> None:
        """Write the events that wait. It may wait for the disk, so `run` calls it in the thread; it raises nothing."""
        events = []
        while self._unwritten:
            events.append(self._unwritten.popleft())
        if not events:
            return
        written = 0
        self._begun = time.monotonic()
        try:
            for count, data in _slices(events):
                self._append(data)
                written += count
        except OSError as error:
            free = max(0, MAX_UNWRITTEN - len(self._unwritten))
            self._unwritten.extendleft(reversed(events[max(written, len(events) - free) :]))
            self._report(f"{self.path}: {error.strerror}: events would be lost at a restart")
        else:
            self._report("")
        finally:
            self._begun = None

    def _append(self, data: bytes) -> None:
        """Append whole lines or nothing, so that a full disk leaves no part of a line."""
        with self._opened() as file:
            size = os.fstat(file.fileno()).st_size
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"  # by a crash of the machine
            whole = b"\n" + data if torn else data
            if not size or size + len(whole) <= MAX_BYTES:
                _write_at_end(file.fileno(), size, whole)
                return
        self.path.replace(rotated(self.path))
        with self._opened() as file:
            _write_at_end(file.fileno(), 0, data)

    def _opened(self) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0)

    def _report(self, error: str) -> None:
        """Log an error once, and its end."""
        if error and not self._error:
            self._log.error(error)
        elif self._error and not error:
            self._log.info("events are saved again", file=str(self.path))
        self._error = error


def rotated(path: Path) -> Path:
    """Return the path of the older file."""
    return path.with_name(f"{path.name}.1")


def _slices(events: Sequence[Event]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of all events in pieces of at most MAX_BYTES, each with its number of lines."""
    lines: list[bytes] = []
    size = 0
    for line in map(_line, events):
        if lines and size + len(line) > MAX_BYTES:
            yield len(lines), b"".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    yield len(lines), b"".join(lines)


def _write_at_end(descriptor: int, size: int, data: bytes) -> None:
    """Write all of it, or leave the file with this size. Raises OSError."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _events(lines: Sequence[bytes]) -> list[Event]:
    found: list[Event] = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if (
            isinstance(event, dict)
            and isinstance(event.get("event"), str)
            and isinstance(event.get("at"), (int, float))
        ):
            found.append(event)
    return found


def _line(event: Event) -> bytes:
    line = json_line(event)
    if len(line) <= MAX_LINE:
        return line
    short = {name: value for name, value in event.items() if not isinstance(value, list | dict)}
    return json_line({name: value[:_SHORT] if isinstance(value, str) else value for name, value in short.items()})
