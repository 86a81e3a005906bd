"""`reload_time_file`: a file whose first line is the time of the next reload, as in keepalived.

    HH:MM:SS   YY-MM-DD HH:MM:SS   YYYY-MM-DD HH:MM:SS      each with an optional Z, for UTC

The file is removed when its time has come, unless `reload_repeat` is configured: then a time without a date is that of
each day. A date in the past is ignored.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable

from pylvs.daemon.parts import Part
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.wanted import Configuration, GlobalSettings
from pylvs.system.logs import get_logger

POLL_S = 1.0
_FORMAT = re.compile(r"(?:((?:\d\d)?\d\d)-(\d\d)-(\d\d) )?(\d\d):(\d\d):(\d\d)(Z?)\Z", re.ASCII)
_LONGEST = 64  # bytes that are read of the file

Identity = tuple[int, int, int, int]  # device, inode, time of modification, size


def next_time(text: str, now: float) -> float | None:
    """Return the Unix time that a line names, from `now` on; None if it is past. Raises ValueError."""
    from datetime import UTC, datetime, timedelta  # late: few daemons have such a file, and datetime takes 0.4 MB

    match = _FORMAT.match(text)
    if match is None:
        raise ValueError(f"'{text}' is not HH:MM:SS, YY-MM-DD HH:MM:SS or YYYY-MM-DD HH:MM:SS")
    year, month, day, hour, minute, second, utc = match.groups()
    zone = UTC if utc else None  # None: local time
    here = datetime.fromtimestamp(now, zone)
    at = here.replace(hour=int(hour), minute=int(minute), second=int(second), microsecond=0, fold=0)
    if year:
        number = int(year) if len(year) == 4 else 2000 + int(year)
        due = at.replace(year=number, month=int(month), day=int(day))
        return due.timestamp() if due.timestamp() >= now else None
    return (at if at.timestamp() >= now else at + timedelta(days=1)).timestamp()


class ReloadTimer(Part):
    """Reloads at the time in the file of the settings in force."""

    def __init__(
        self,
        settings: Callable[[], GlobalSettings],
        reload: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._clock = clock
        self._path = ""
        self._seen: Identity | None = None
        self._due: float | None = None
        self._configured = asyncio.Event()
        self._log = get_logger()

    async def begin(self, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self.run, "watching the reload_time_file")
        self.configure()

    async def apply(self, configuration: Configuration) -> None:
        self.configure()

    async def run(self) -> None:
        """Watch the file until cancelled."""
        while True:
            await self._configured.wait()
            await self.poll()
            await asyncio.sleep(POLL_S)

    def configure(self) -> None:
        """Use the settings that are in force now."""
        if self._settings().reload_time_file or self._path:
            self._configured.set()

    async def poll(self) -> None:
        """Read the file if it changed, and reload if its time has come."""
        settings = self._settings()
        path, now = settings.reload_time_file, self._clock()
        identity = _identity(path)
        if not path:
            self._configured.clear()
        if (path, identity) != (self._path, self._seen):
            self._path, self._seen = path, identity
            self._schedule(now)
        if self._due is None or now < self._due:
            return
        self._due = None
        self._log.info("reload at the time of the reload_time_file", file=path)
        if not settings.reload_repeat:
            self._remove(path)
        await self._reload()
        if settings.reload_repeat:
            self._seen = None  # read again: a time without a date is that of tomorrow now

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:  # the file system is read-only, for example by ProtectSystem= of the unit
            text = f"reload_time_file {path} cannot be removed: {error.strerror}"
            self._log.error(f"{text}; pylvs reads it again when it changes")

    def _schedule(self, now: float) -> None:
        before, self._due = self._due, None
        if self._seen is not None:
            try:
                text = _first_line(self._path)
                self._due = next_time(text, now)
            except (OSError, ValueError) as error:
                self._log.error(f"reload_time_file {self._path}: {error}: no reload is scheduled")
                return
            if self._due is None:
                self._log.info("the time in the reload_time_file is past", file=self._path, time=text)
            elif self._due != before:
                self._log.info("reload scheduled", file=self._path, time=text)
        elif before is not None:
            self._log.info("the scheduled reload is cancelled: the reload_time_file is gone", file=self._path)


def _identity(path: str) -> Identity | None:
    if not path:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _first_line(path: str) -> str:
    """Return the first line without its newline. Raises OSError, ValueError if it is no text."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _LONGEST).split(b"\n", 1)[0].decode("ascii")
    finally:
        os.close(descriptor)
