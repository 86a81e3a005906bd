"""The tracked objects that the helper process watches: scripts, files and processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import Track, TrackFile, TrackProcess, VrrpScript
from pylvs.system import inotify
from pylvs.system.inotify import Inotify
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Ended, Processes
from pylvs.vrrp.tracking import TrackedObject

SLACK_S = 0.25  # to start the run of a script

POLL_S = 1.0  # of files
SETTLED_S = 0.5  # a file modified more recently may be incomplete
_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_MAX_BYTES = 256
_INT = 1 << 31
_COMPLETE = inotify.CLOSE_WRITE | inotify.MOVED_FROM | inotify.MOVED_TO | inotify.DELETE
_DIRECTORY_GONE = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.IGNORED

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.25, 1.0  # between scans of /proc
_SHARE = 20  # scans take at most this fraction of the time
_MAX_PIDFDS = 256
_NAME_LENGTH = 15  # TASK_COMM_LEN - 1
_ENDED = "ZX"  # states in /proc/PID/stat


class TrackScripts:
    """All track_scripts of a configuration; `report` receives the first result and each change.

    A script runs periodically and is well or ill after `rise` successes or `fall` failures in a row. As in keepalived
    the first result counts regardless of `rise` and `fall`, and a run that lasts longer than the interval skips the
    next one. A run that times out has failed at its timeout, not when its process has ended.
    """

    def __init__(self, processes: Processes, report: Callable[[TrackedObject], None]) -> None:
        self._processes, self._report = processes, report
        self._watches: dict[str, ScriptWatch] = {}

    def configure(self, scripts: Iterable[VrrpScript]) -> None:
        """Replace the scripts; one whose command is the same keeps its result and its timing."""
        wanted = {script.name: script for script in scripts}
        for name, watch in list(self._watches.items()):
            if name not in wanted or wanted[name].script != watch.script.script:
                watch.task.cancel()
                del self._watches[name]
        for name, script in wanted.items():
            if name not in self._watches:
                self._watches[name] = ScriptWatch(script, self._processes, self._report)
            self._watches[name].script = script

    async def finish(self) -> None:
        """Stop all runs."""
        for watch in self._watches.values():
            watch.task.cancel()
        await asyncio.gather(*(watch.task for watch in self._watches.values()), return_exceptions=True)
        self._watches.clear()


class Hysteresis:
    """Turn results into a state by rise and fall.

    The first result counts at once; with `ill_at_start` only if it is a failure.
    """

    def __init__(self, ill_at_start: bool = False) -> None:
        self.well: bool | None = None  # before the first result
        self._ill_at_start = ill_at_start
        self._in_a_row = 0  # results that differ from `well`

    def add(self, success: bool, rise: int, fall: int) -> bool:
        """Add a result; return whether `well` changed."""
        if self.well is None and not (success and self._ill_at_start):
            self.well, self._in_a_row = success, 0
            return True
        if success == self.well:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row < (rise if success else fall):
            return False
        self.well, self._in_a_row = success, 0
        return True


class ScriptWatch:
    def __init__(self, script: VrrpScript, processes: Processes, report: Callable[[TrackedObject], None]) -> None:
        self.script = script
        self._processes, self._report = processes, report
        self._hysteresis = Hysteresis(script.ill_at_start)
        self._log = get_logger()
        self.task = asyncio.get_running_loop().create_task(self._run_periodically())

    async def _run_periodically(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            await self._run()
            interval_s = self.script.interval_s
            late_s = loop.time() - start
            start += interval_s * max(1, math.ceil(late_s / interval_s))
            await asyncio.sleep(start - loop.time())

    async def _run(self) -> None:
        timeout_s = float(self.script.timeout_s or self.script.interval_s)
        run = asyncio.get_running_loop().create_task(self._processes.run(self.script.script, timeout_s))
        try:
            done, _ = await asyncio.wait({run}, timeout=timeout_s + SLACK_S)
            if done:
                self._add(run.result())
            else:
                self._add(Ended(None, timed_out=True, seconds=timeout_s))
                await asyncio.wait({run})  # two runs never overlap
        finally:
            if not run.done():
                run.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await run

    def _add(self, ended: Ended) -> None:
        success = ended.status == 0 and not ended.timed_out and not ended.problem
        if self._hysteresis.add(success, self.script.rise, self.script.fall):
            write = self._log.info if success else self._log.warning
            write(f"track script {self.script.name} is {'well' if success else 'ill'}", end=str(ended))
            for line in ended.lines():
                self._log.info(f"output of track script {self.script.name}: {line}")
            self._report(TrackedObject("script", Track(self.script.name), success, detail=str(ended)))


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


class TrackFiles:
    """All track_files of a configuration; `report` receives the first number and each change.

    As in keepalived the number is what strtol(3) finds at the beginning, in any base. A file without a number, or no
    file, counts as 0; a number that exceeds int is ignored. inotify reports most changes immediately, those of an open
    file once the writer closes it. Polling finds the others: a directory created later, the target of a symbolic link.
    """

    def __init__(self, report: Callable[[TrackedObject], None]) -> None:
        self._report = report
        self._log = get_logger()
        self._watches: dict[str, FileWatch] = {}
        self._directories: dict[str, int] = {}  # inotify watch descriptors
        self._polling: asyncio.Task[None] | None = None
        self._inotify: Inotify | None = None

    def configure(self, files: Iterable[TrackFile]) -> None:
        """Replace the files; one whose path is the same is neither initialised nor reported again."""
        wanted = {file.name: file for file in files}
        for name in [name for name, watch in self._watches.items() if name not in wanted]:
            del self._watches[name]
        for name, file in wanted.items():
            known = self._watches.get(name)
            if known is not None and known.file.path == file.path:
                known.file = file
            else:
                self._watches[name] = FileWatch(file)
                self._initialise(file)
        if self._watches and self._polling is None:
            self._start()
        self._watch_directories()
        for watch in self._watches.values():
            self._check(watch)

    def finish(self) -> None:
        """Stop tracking."""
        self._watches.clear()
        if self._polling is not None:
            self._polling.cancel()
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
        self._polling = asyncio.get_running_loop().create_task(self._poll())

    def _initialise(self, file: TrackFile) -> None:
        if file.initial is None:
            return
        try:
            # Root writes where others may write, too: neither through a link, nor into a pipe.
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(file.path, flags | (0 if file.overwrite else os.O_EXCL), 0o644), "w") as out:
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
        while True:
            await asyncio.sleep(POLL_S)
            self._watch_directories()
            for watch in list(self._watches.values()):
                self._check(watch)

    def _check(self, watch: FileWatch) -> None:
        """Read a file if stat differs from the last read."""
        status = _stat(watch.file.path)
        recent = bool(status) and abs(time.time() - status[0] / 1e9) < SETTLED_S
        if watch.number is None or (status != watch.seen and not recent):
            self._read(watch)

    def _read(self, watch: FileWatch) -> None:
        watch.seen = _stat(watch.file.path)
        number: int | None = 0
        try:
            descriptor = os.open(watch.file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    number = parse_number(os.read(descriptor, _MAX_BYTES))
            finally:
                os.close(descriptor)
        except OSError:
            number = 0
        if number is None:
            self._log.warning(f"track file {watch.file.name}: the number in {watch.file.path} is too great: ignored")
            number = watch.number or 0
        if number != watch.number:
            watch.number = number
            self._log.info(f"track file {watch.file.name} is {number}")
            self._report(TrackedObject("file", Track(watch.file.name), number=number))


def _stat(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_dev, found.st_ino, found.st_size


def compares_line(wanted: TrackProcess) -> bool:
    """Return whether to compare the command line, not the kernel's name."""
    return wanted.full_command or wanted.match_arguments


def matches(name: str, line: Sequence[str], wanted: TrackProcess) -> bool:
    """Return whether a process of this kernel's name and command line matches; a path is part, as in keepalived."""
    program, *arguments = wanted.command
    if not compares_line(wanted):
        return name == program[:_NAME_LENGTH]
    if not line or line[0] != program:
        return False
    actual = list(line[1:])
    if not wanted.match_arguments or actual == arguments:
        return True
    if wanted.arguments_partly or (wanted.arguments_begin and not arguments):
        return actual[: len(arguments)] == arguments
    if wanted.arguments_begin and len(actual) >= len(arguments):
        last = len(arguments) - 1
        return actual[:last] == arguments[:last] and actual[last].startswith(arguments[last])
    return False


def running_processes() -> Iterator[tuple[int, str]]:
    """Yield PID and name of every process that has not ended."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat", "rb", buffering=0) as file:
                    status = file.read(512).decode(errors="replace")
            except OSError:
                continue
            name, _, rest = status.partition("(")[2].rpartition(")")
            if rest.strip()[:1] not in _ENDED:
                yield int(entry), name


def matching_processes(wanted: Sequence[TrackProcess]) -> Mapping[str, frozenset[int]]:
    """Return the PIDs that match each track_process."""
    pids: dict[str, set[int]] = {each.name: set() for each in wanted}
    names = {each.command[0][:_NAME_LENGTH] for each in wanted}
    any_name = any(map(compares_line, wanted))
    for pid, name in running_processes():
        if not any_name and name not in names:
            continue
        line = _line(pid)
        for each in wanted:
            if matches(name, line, each):
                pids[each.name].add(pid)
    return {name: frozenset(found) for name, found in pids.items()}


def _line(pid: int) -> tuple[str, ...]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            line = file.read(1 << 16)
    except OSError:
        return ()
    return tuple(os.fsdecode(argument) for argument in line.removesuffix(b"\0").split(b"\0")) if line else ()


class TrackProcesses:
    """All track_processes of a configuration; `report` receives the first result and each change.

    /proc is scanned up to four times a second, less often if a scan takes long. A pidfd reports the end of a process
    that matches immediately.
    """

    def __init__(self, report: Callable[[TrackedObject], None]) -> None:
        self._report = report
        self._watches: dict[str, ProcessWatch] = {}
        self._pidfds: dict[int, int] = {}  # by PID
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def configure(self, processes: Iterable[TrackProcess]) -> None:
        """Replace the processes; one whose name is the same reports only changes."""
        wanted = {process.name: process for process in processes}
        for name in [each for each in self._watches if each not in wanted]:
            self._watches.pop(name).cancel_delayed()
        for name, process in wanted.items():
            if name not in self._watches:
                self._watches[name] = ProcessWatch(process, self._report)
            self._watches[name].process = process
        self._wake.set()
        if self._watches and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._scan_periodically())

    async def finish(self) -> None:
        """Stop tracking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for watch in self._watches.values():
            watch.cancel_delayed()
        self._watches.clear()
        self._watch_pids(frozenset())

    async def _scan_periodically(self) -> None:
        while True:
            self._wake.clear()
            begin = time.monotonic()
            if self._watches:
                now = await asyncio.to_thread(matching_processes, [watch.process for watch in self._watches.values()])
                for name, pids in now.items():
                    if name in self._watches:
                        self._watches[name].update(len(pids))
                self._watch_pids(frozenset().union(*now.values()))
            wait_s = min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, _SHARE * (time.monotonic() - begin)))
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _watch_pids(self, pids: frozenset[int]) -> None:
        loop = asyncio.get_running_loop()
        for pid in [each for each in self._pidfds if each not in pids]:
            loop.remove_reader(self._pidfds[pid])
            os.close(self._pidfds.pop(pid))
        for pid in pids - self._pidfds.keys():
            if len(self._pidfds) >= _MAX_PIDFDS:
                return
            try:
                self._pidfds[pid] = os.pidfd_open(pid)
            except OSError:
                self._wake.set()  # it has ended since the scan
                continue
            loop.add_reader(self._pidfds[pid], self._ended, pid)

    def _ended(self, pid: int) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfds[pid])
        os.close(self._pidfds.pop(pid))
        self._wake.set()


class ProcessWatch:
    """One track_process: turn counts into results, with the configured delays."""

    def __init__(self, process: TrackProcess, report: Callable[[TrackedObject], None]) -> None:
        self.process = process
        self._report = report
        self._well: bool | None = None
        self._count = 0
        self._delayed: asyncio.TimerHandle | None = None  # a change that must last for the delay
        self._log = get_logger()

    def update(self, count: int) -> None:
        """Handle a scan that found `count` processes."""
        before, self._count = self._count, count
        well = self.process.least <= count <= self.process.most
        if well == self._well:
            self.cancel_delayed()
        elif self._well is None:
            self._change(well)
        elif self._delayed is None:
            delay_s = self.process.fork_delay_s if count > before else self.process.terminate_delay_s
            if delay_s > 0:
                self._delayed = asyncio.get_running_loop().call_later(delay_s, self._change, well)
            else:
                self._change(well)

    def cancel_delayed(self) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None

    def _change(self, well: bool) -> None:
        self._delayed = None
        first, self._well = self._well is None, well
        if not (first and well):
            write = self._log.info if well else self._log.warning
            write(f"track process {self.process.name} is {'well' if well else 'ill'}", count=self._count)
        detail = f"{self._count} of them"
        self._report(TrackedObject("process", Track(self.process.name), well, detail=detail))
