"""Track files: the number in each, at first and at each change.

As in keepalived the number is what strtol(3) finds at the beginning, in any base; no number, or no file, is 0, and one
that no int holds leaves what there was. The kernel tells of changes as they come (of a file that is written, once the
writer closes it); what it does not tell of (a folder that comes later, a link to elsewhere) is seen within seconds.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from collections.abc import Callable, Iterable

from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import TrackFile
from pylvs.system import inotify
from pylvs.system.inotify import Inotify
from pylvs.system.logs import get_logger
from pylvs.vrrp.aide.messages import FileNumber

LOOK_S = 1.0
SETTLED_S = 0.5  # what was written more lately may be half there
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_LONGEST = 256  # bytes that are read
_INT = 1 << 31
_COMPLETE = inotify.CLOSE_WRITE | inotify.MOVED_FROM | inotify.MOVED_TO | inotify.DELETE
_FOLDER_GONE = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.IGNORED


def number_in(text: bytes) -> int | None:
    """What the text says; None if that is too great."""
    found = _NUMBER.match(text)
    if found is None:
        return 0
    sign, hexadecimal, octal, decimal = found.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    value = -value if sign == b"-" else value
    return value if -_INT <= value < _INT else None


@dataclass(slots=True)
class _Watch:
    file: TrackFile
    number: int | None = None  # as it was told last
    seen: tuple[int, ...] = field(default=())  # what stat said when it was read last


class TrackFiles:
    """All of a configuration; `report` is told of the first number and of each change."""

    def __init__(self, report: Callable[[FileNumber], None]) -> None:
        self._report = report
        self._log = get_logger()
        self._watches: dict[str, _Watch] = {}
        self._folders: dict[str, int] = {}  # with their numbers
        self._looking: asyncio.Task[None] | None = None
        self._inotify: Inotify | None = None

    def configure(self, files: Iterable[TrackFile]) -> None:
        """These from now on; one whose path is the same is neither made again nor told again."""
        wanted = {file.name: file for file in files}
        for name in [name for name, watch in self._watches.items() if name not in wanted]:
            del self._watches[name]
        for name, file in wanted.items():
            known = self._watches.get(name)
            if known is not None and known.file.path == file.path:
                known.file = file
            else:
                self._watches[name] = _Watch(file)
                self._make(file)
        if self._watches and self._looking is None:
            self._begin()
        self._follow_folders()
        for watch in self._watches.values():
            self._look(watch)

    def finish(self) -> None:
        """The end of all of them."""
        self._watches.clear()
        if self._looking is not None:
            self._looking.cancel()
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _begin(self) -> None:
        try:
            self._inotify = Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._told)
        except OSError as error:
            self._log.warning("track files are looked at once a second: no inotify", reason=error.strerror)
        self._looking = asyncio.get_running_loop().create_task(self._keep_looking())

    def _make(self, file: TrackFile) -> None:
        if file.initial is None:
            return
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if file.overwrite else os.O_EXCL)
            with open(os.open(file.path, flags, 0o644), "w") as out:
                out.write(f"{file.initial}\n")
        except FileExistsError:
            return
        except OSError as error:
            self._log.error(f"track file {file.name}: {file.path} cannot be written: {error.strerror}")

    # --- looking ---

    def _follow_folders(self) -> None:
        if self._inotify is None:
            return
        wanted = {os.path.dirname(watch.file.path) or "/" for watch in self._watches.values()}
        for folder in [each for each in self._folders if each not in wanted]:
            self._inotify.forget(self._folders.pop(folder))
        for folder in wanted - self._folders.keys():
            try:
                self._folders[folder] = self._inotify.watch(folder)
            except OSError:
                continue  # which comes later, or cannot be watched: looked at once a second

    def _told(self) -> None:
        assert self._inotify is not None
        changed: set[tuple[int, str]] = set()
        everything = False
        for number, mask, name in self._inotify.read():
            if mask & _FOLDER_GONE:
                self._folders = {folder: each for folder, each in self._folders.items() if each != number}
            everything = everything or bool(mask & (inotify.OVERFLOW | _FOLDER_GONE))
            if mask & _COMPLETE:
                changed.add((number, name))
        for watch in self._watches.values():
            folder, name = os.path.split(watch.file.path)
            if everything or (self._folders.get(folder or "/"), name) in changed:
                self._read(watch)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._follow_folders()
            for watch in list(self._watches.values()):
                self._look(watch)

    def _look(self, watch: _Watch) -> None:
        """Read it if it is not as it was."""
        about = _about(watch.file.path)
        fresh = bool(about) and abs(time.time() - about[0] / 1e9) < SETTLED_S
        if watch.number is None or (about != watch.seen and not fresh):
            self._read(watch)

    def _read(self, watch: _Watch) -> None:
        watch.seen = _about(watch.file.path)
        number: int | None = 0
        try:
            descriptor = os.open(watch.file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    number = number_in(os.read(descriptor, _LONGEST))
            finally:
                os.close(descriptor)
        except OSError:
            number = 0
        if number is None:
            self._log.warning(f"track file {watch.file.name}: the number in {watch.file.path} is too great: ignored")
            number = watch.number or 0
        if number != watch.number:
            watch.number = number
            self._log.info(f"track file {watch.file.name} says {number}")
            self._report(FileNumber(watch.file.name, number))


def _about(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_dev, found.st_ino, found.st_size
