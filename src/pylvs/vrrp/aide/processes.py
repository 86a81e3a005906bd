"""Track processes: whether as many of them run as should.

/proc is looked through several times a second at most, and less often where that takes long. The end of a process that
counts is heard of at once.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import TrackProcess
from pylvs.system.logs import get_logger
from pylvs.vrrp.aide.messages import ProcessesWell

OFTEN_S, SELDOM_S = 0.25, 1.0
_SHARE = 20  # looking takes one part in so many of the time
_MOST_WATCHED = 256  # processes whose end is heard of
_NAME_LENGTH = 15  # of a process's name in the kernel
_GONE = "ZX"


@dataclass(frozen=True, slots=True)
class Seen:
    """A process: the name that the kernel has for it, and its command line."""

    name: str
    line: tuple[str, ...]


def by_line(wanted: TrackProcess) -> bool:
    """Whether the command line is compared, and not the kernel's name."""
    return wanted.full_command or wanted.match_arguments


def counts(seen: Seen, wanted: TrackProcess) -> bool:
    """Whether the process is one of those; a path is part of the name, as in keepalived."""
    program, *arguments = wanted.command
    if not by_line(wanted):
        return seen.name == program[:_NAME_LENGTH]
    if seen.line[:1] != (program,):
        return False
    there = list(seen.line[1:])
    if not wanted.match_arguments or there == arguments:
        return True
    if wanted.arguments_partly or (wanted.arguments_begin and not arguments):
        return there[: len(arguments)] == arguments
    if wanted.arguments_begin and len(there) >= len(arguments):
        last = len(arguments) - 1
        return there[:last] == arguments[:last] and there[last].startswith(arguments[last])
    return False


def running() -> Iterator[tuple[int, str]]:
    """Number and name of every process that has not ended."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat", "rb", buffering=0) as file:
                    about = file.read(512).decode(errors="replace")
            except OSError:
                continue
            name, _, rest = about.partition("(")[2].rpartition(")")
            if rest.strip()[:1] not in _GONE:
                yield int(entry), name


def found(wanted: Sequence[TrackProcess]) -> Mapping[str, frozenset[int]]:
    """Under each name, the processes that count."""
    among: dict[str, set[int]] = {each.name: set() for each in wanted}
    names = {each.command[0][:_NAME_LENGTH] for each in wanted}
    any_name = any(map(by_line, wanted))
    for pid, name in running():
        if not any_name and name not in names:
            continue
        seen = Seen(name, _line(pid))
        for each in wanted:
            if counts(seen, each):
                among[each.name].add(pid)
    return {name: frozenset(pids) for name, pids in among.items()}


def _line(pid: int) -> tuple[str, ...]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            told = file.read(1 << 16)
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in told.removesuffix(b"\0").split(b"\0")) if told else ()


class TrackProcesses:
    """All of a configuration; `report` is told of the first count and of each change of what it means."""

    def __init__(self, report: Callable[[ProcessesWell], None]) -> None:
        self._report = report
        self._watches: dict[str, Watch] = {}
        self._ends: dict[int, int] = {}  # by process, a descriptor that tells of its end
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def configure(self, processes: Iterable[TrackProcess]) -> None:
        """These from now on; of one whose name was there before only changes are told."""
        wanted = {process.name: process for process in processes}
        for name in [each for each in self._watches if each not in wanted]:
            self._watches.pop(name).end()
        for name, process in wanted.items():
            known = self._watches.get(name)
            if known is not None:
                known.process = process
            else:
                self._watches[name] = Watch(process, self._report)
        self._wake.set()
        if self._watches and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_looking())

    async def finish(self) -> None:
        """The end of all of them."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for watch in self._watches.values():
            watch.end()
        self._watches.clear()
        self._follow_ends(frozenset())

    async def _keep_looking(self) -> None:
        while True:
            self._wake.clear()
            begin = time.monotonic()
            if self._watches:
                now = await asyncio.to_thread(found, [watch.process for watch in self._watches.values()])
                for name, pids in now.items():
                    if name in self._watches:
                        self._watches[name].see(len(pids))
                self._follow_ends(frozenset().union(*now.values()))
            wait_s = min(SELDOM_S, max(OFTEN_S, _SHARE * (time.monotonic() - begin)))
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _follow_ends(self, pids: frozenset[int]) -> None:
        loop = asyncio.get_running_loop()
        for pid in [each for each in self._ends if each not in pids]:
            loop.remove_reader(self._ends[pid])
            os.close(self._ends.pop(pid))
        for pid in pids - self._ends.keys():
            if len(self._ends) >= _MOST_WATCHED:
                return
            try:
                self._ends[pid] = os.pidfd_open(pid)
            except OSError:
                self._wake.set()  # it has gone meanwhile
                continue
            loop.add_reader(self._ends[pid], self._ended, pid)

    def _ended(self, pid: int) -> None:
        asyncio.get_running_loop().remove_reader(self._ends[pid])
        os.close(self._ends.pop(pid))
        self._wake.set()


class Watch:
    """What one process's count means, and since when."""

    def __init__(self, process: TrackProcess, report: Callable[[ProcessesWell], None]) -> None:
        self.process = process
        self._report = report
        self._well: bool | None = None
        self._count = 0
        self._later: asyncio.TimerHandle | None = None  # a change that must last before it counts
        self._log = get_logger()

    def see(self, count: int) -> None:
        """So many run now."""
        before, self._count = self._count, count
        well = self.process.least <= count <= self.process.most
        if well == self._well:
            self.end()
        elif self._well is None:
            self._change(well)
        elif self._later is None:
            delay_s = self.process.fork_delay_s if count > before else self.process.terminate_delay_s
            if delay_s > 0:
                self._later = asyncio.get_running_loop().call_later(delay_s, self._change, well)
            else:
                self._change(well)

    def end(self) -> None:
        """No change waits any more."""
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _change(self, well: bool) -> None:
        self._later = None
        first, self._well = self._well is None, well
        if not (first and well):
            tell = self._log.info if well else self._log.warning
            tell(f"track process {self.process.name} is {'well' if well else 'ill'}", count=self._count)
        self._report(ProcessesWell(self.process.name, well, self._count))
