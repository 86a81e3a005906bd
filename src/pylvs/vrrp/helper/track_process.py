"""The track_processes, which the helper process finds in /proc."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pylvs.model.vrrp import Track, TrackProcess
from pylvs.system.logs import get_logger
from pylvs.system.syscalls import SHORTAGES
from pylvs.system.threads import DaemonThread
from pylvs.vrrp.helper.source import Source
from pylvs.vrrp.tracking import Key, TrackedObject

MIN_INTERVAL_S, MAX_INTERVAL_S = 0.25, 1.0  # between scans of /proc
_SHARE = 20  # scans take at most this fraction of the time
_MAX_PIDFDS = 256
_NAME_LENGTH = 15  # TASK_COMM_LEN - 1
_ENDED = "ZX"  # states in /proc/PID/stat


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
    """Yield PID and name of every process that has not ended. Raises OSError without descriptors or memory."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat", "rb", buffering=0) as file:
                    status = file.read(512).decode(errors="replace")
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise
                continue  # it has ended, or is hidden
            name, _, rest = status.partition("(")[2].rpartition(")")
            if rest.strip()[:1] not in _ENDED:
                yield int(entry), name


def matching_processes(wanted: Sequence[TrackProcess]) -> Mapping[str, frozenset[int]]:
    """Return the PIDs that match each track_process. Raises OSError without descriptors or memory."""
    pids: dict[str, set[int]] = {each.name: set() for each in wanted}
    names = {each.command[0][:_NAME_LENGTH] for each in wanted}
    any_name = any(map(compares_line, wanted))
    for pid, name in running_processes():
        if not any_name and name not in names:
            continue
        line = _line(pid)
        for track in wanted:
            if matches(name, line, track):
                pids[track.name].add(pid)
    return {name: frozenset(found) for name, found in pids.items()}


def _line(pid: int) -> tuple[str, ...]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            line = file.read(1 << 16)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
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
        self._thread = DaemonThread("pylvs-proc")  # reading a command line may wait for its process's memory
        self._source: Source | None = None

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
        if self._watches and self._source is None:
            self._source = Source("the scan of /proc for track_process", self._scan_periodically)

    def late(self) -> Iterator[Key]:
        """Yield the processes without a current result."""
        late = self._source is not None and self._source.late
        return (("process", name) for name in self._watches if late)

    async def finish(self) -> None:
        """Stop tracking."""
        if self._source is not None:
            await self._source.finish()
        self._thread.shutdown()
        for watch in self._watches.values():
            watch.cancel_delayed()
        self._watches.clear()
        self._watch_pids(frozenset())

    async def _scan_periodically(self) -> None:
        assert self._source is not None
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            begin = time.monotonic()
            wanted = [watch.process for watch in self._watches.values()]
            now = await loop.run_in_executor(self._thread, matching_processes, wanted) if wanted else {}
            was_late = self._source.advance()
            for name, pids in now.items():
                if name in self._watches:
                    self._watches[name].update(len(pids), was_late)
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
            except ProcessLookupError:
                self._wake.set()  # it has ended since the scan
                continue
            except OSError:
                return  # no descriptor is left: scans suffice
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
        self._up: bool | None = None
        self._count = 0
        self._delayed: asyncio.TimerHandle | None = None  # a change that must last for the delay
        self._log = get_logger()

    def update(self, count: int, again: bool = False) -> None:
        """Handle a scan that found `count` processes; `again`: report even if nothing has changed."""
        known = self._up
        before, self._count = self._count, count
        up = self.process.least <= count <= self.process.most
        if up == self._up:
            self.cancel_delayed()
        elif self._up is None:
            self._change(up)
        elif self._delayed is None:
            delay_s = self.process.fork_delay_s if count > before else self.process.terminate_delay_s
            if delay_s > 0:
                self._delayed = asyncio.get_running_loop().call_later(delay_s, self._change, up)
            else:
                self._change(up)
        if again and known is not None and known == self._up:  # a change has been reported
            self._send(known)

    def cancel_delayed(self) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None

    def _change(self, up: bool) -> None:
        self._delayed = None
        first, self._up = self._up is None, up
        if not (first and up):
            write = self._log.info if up else self._log.warning
            write(f"track process {self.process.name} is {'up' if up else 'down'}", count=self._count)
        self._send(up)

    def _send(self, up: bool) -> None:
        detail = f"{self._count} of them"
        self._report(TrackedObject("process", Track(self.process.name), up, detail=detail))
