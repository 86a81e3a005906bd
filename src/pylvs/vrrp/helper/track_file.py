"""The track_files, which the helper process reads."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator

from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import Track, TrackFile
from pylvs.system import inotify
from pylvs.system.inotify import Inotify
from pylvs.system.logs import get_logger
from pylvs.system.syscalls import SHORTAGES
from pylvs.vrrp.helper.source import PROGRESS_S, Source
from pylvs.vrrp.tracking import Key, TrackedObject

POLL_S = 1.0
SETTLED_S = 0.5  # a file modified more recently may be incomplete
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_MAX_BYTES = 256
_INT = 1 << 31
_COMPLETE = inotify.CLOSE_WRITE | inotify.MOVED_FROM | inotify.MOVED_TO | inotify.DELETE
_DIRECTORY_GONE = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.IGNORED


def parse_number(text: bytes) -> int | None:
    """Return the number at the beginning of a text; None if it exceeds int."""
    found = _NUMBER.match(text)
    if found is None:
        return 0
    sign, hexadecimal, octal, decimal = found.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    value = -value if sign == b"-" else value
    return value if -_INT <= value < _INT else None


@dataclass(slots=True)
class FileWatch:
    file: TrackFile
    number: int | None = None  # last reported
    seen: tuple[int, ...] = field(default=())  # result of stat at the last read
    late: bool = False  # the number may not be current: read it, and report it again


class TrackFiles:
    """All track_files of a configuration; `report` receives the first number and each change.

    As in keepalived the number is what strtol(3) finds at the beginning, in any base. A file without a number, or no
    file, counts as 0; a number that exceeds int is ignored. If this machine lacks descriptors or memory, the number
    stays, but is late. inotify reports most changes immediately, those of an open file once the writer closes it.
    Polling finds the others: a directory created later, the target of a symbolic link.
    """

    def __init__(self, report: Callable[[TrackedObject], None]) -> None:
        self._report = report
        self._log = get_logger()
        self._watches: dict[str, FileWatch] = {}
        self._directories: dict[str, int] = {}  # inotify watch descriptors
        self._source: Source | None = None
        self._inotify: Inotify | None = None

    def configure(self, files: Iterable[TrackFile], again: bool = False) -> None:
        """Replace the files; one whose path is the same is neither initialised nor reported again.

        As in keepalived a reload (`again`) overwrites no file.
        """
        wanted = {file.name: file for file in files}
        for name in [name for name, watch in self._watches.items() if name not in wanted]:
            del self._watches[name]
        for name, file in wanted.items():
            known = self._watches.get(name)
            if known is not None and known.file.path == file.path:
                known.file = file
            else:
                self._watches[name] = FileWatch(file)
                self._initialise(file, file.overwrite and not again)
        if self._watches and self._source is None:
            self._start()
        self._watch_directories()
        for watch in self._watches.values():
            self._check(watch)

    def late(self) -> Iterator[Key]:
        """Yield the files without a current number."""
        late = self._source is not None and self._source.late
        return (("file", name) for name, watch in self._watches.items() if late or watch.late)

    def finish(self) -> None:
        """Stop tracking."""
        self._watches.clear()
        if self._source is not None:
            self._source.cancel()
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _start(self) -> None:
        try:
            self._inotify = Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._on_inotify)
        except OSError as error:
            self._log.warning("track files are polled every second: no inotify", reason=error.strerror)
        self._source = Source("polling of track files", self._poll, POLL_S + PROGRESS_S)

    def _initialise(self, file: TrackFile, overwrite: bool) -> None:
        if file.initial is None:
            return
        try:
            # Root writes where others may write, too: neither through a link, nor into a pipe.
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(file.path, flags | (0 if overwrite else os.O_EXCL), 0o644), "w") as out:
                if not stat.S_ISREG(os.fstat(out.fileno()).st_mode):
                    self._log.error(f"track file {file.name}: {file.path} is not written: it is no regular file")
                    return
                os.ftruncate(out.fileno(), 0)
                out.write(f"{file.initial}\n")
        except FileExistsError:
            return
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            self._log.error(f"track file {file.name}: {file.path} cannot be written: {reason}")

    def _watch_directories(self) -> None:
        if self._inotify is None:
            return
        wanted = {os.path.dirname(watch.file.path) or "/" for watch in self._watches.values()}
        for directory in [each for each in self._directories if each not in wanted]:
            self._inotify.forget(self._directories.pop(directory))
        for directory in wanted - self._directories.keys():
            try:
                self._directories[directory] = self._inotify.watch(directory)
            except OSError:
                continue  # missing or not watchable: polled

    def _on_inotify(self) -> None:
        assert self._inotify is not None
        changed: set[tuple[int, str]] = set()
        everything = False
        for number, mask, name in self._inotify.read():
            if mask & _DIRECTORY_GONE:
                self._directories = {directory: each for directory, each in self._directories.items() if each != number}
            everything = everything or bool(mask & (inotify.OVERFLOW | _DIRECTORY_GONE))
            if mask & _COMPLETE:
                changed.add((number, name))
        for watch in self._watches.values():
            directory, name = os.path.split(watch.file.path)
            if everything or (self._directories.get(directory or "/"), name) in changed:
                self._read(watch)

    async def _poll(self) -> None:
        assert self._source is not None
        while True:
            await asyncio.sleep(POLL_S)
            self._watch_directories()
            for watch in self._watches.values():
                self._check(watch)
            if self._source.advance(POLL_S + PROGRESS_S):
                for watch in self._watches.values():
                    watch.late = True

    def _check(self, watch: FileWatch) -> None:
        """Read a file if stat differs from the last read."""
        status = _stat(watch.file.path)
        recent = bool(status) and abs(time.time() - status[0] / 1e9) < SETTLED_S
        if watch.number is None or watch.late or (status != watch.seen and not recent):
            self._read(watch)

    def _read(self, watch: FileWatch) -> None:
        seen = _stat(watch.file.path)
        number: int | None = 0
        try:
            descriptor = os.open(watch.file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    number = parse_number(os.read(descriptor, _MAX_BYTES))
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in SHORTAGES:
                if not watch.late:
                    self._log.warning(f"track file {watch.file.name} cannot be read", reason=error.strerror)
                watch.late = True
                return
            number = 0
        watch.seen = seen
        if number is None:
            self._log.warning(f"track file {watch.file.name}: the number in {watch.file.path} is too great: ignored")
            number = watch.number or 0
        if number != watch.number:
            self._log.info(f"track file {watch.file.name} is {number}")
        elif not watch.late:
            return
        watch.number, watch.late = number, False
        self._report(TrackedObject("file", Track(watch.file.name), number=number))


def _stat(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_dev, found.st_ino, found.st_size
