"""Save the state of the daemon, such as the overrides of operators. A thread writes, because the disk may block."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial

from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.state import saved
from pylvs.daemon.state.directory import OVERRIDES_FILE, StateDirectory
from pylvs.daemon.state.saved import SavedOverrides
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.health.engine import Engine
from pylvs.health.events import Event, Overridden
from pylvs.model.errors import PylvsError, text_of
from pylvs.system.logs import get_logger
from pylvs.system.threads import DaemonThread

SLOW_S = 5.0  # for a write, before commands and `pylvs status` report it as not done
RETRY_S = 30.0  # of a file that the disk refused
END_S = 10.0  # for the last writes, at the stop

Prepare = Callable[[], Callable[[], None]]  # takes the content, and returns what writes it


class NotSaved(PylvsError):
    """The disk refused a file. `StateWriter` has logged that, and has it as a problem."""


class StateWriter(Part):
    """Writes the files: fsync(2) may block for long, and checks must not wait for it.

    It writes one file at a time, in the order of the last `put` of each, and always the newest content. What the disk
    refused is written again.
    """

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._thread = DaemonThread("pylvs-state")
        self._waiting: dict[str, tuple[float, Prepare]] = {}  # with the time of the first `put`
        self._writing: tuple[str, float] | None = None
        self._errors: dict[str, str] = {}
        self._refused: dict[str, Prepare] = {}  # by the disk
        self._tried: dict[str, Prepare] = {}  # last
        self._task: asyncio.Task[None] | None = None

    def put(self, name: str, prepare: Prepare) -> None:
        """Write a file soon. `prepare` runs in the event loop and returns the write, which runs in the thread."""
        since, _ = self._waiting.pop(name, (time.monotonic(), None))
        self._waiting[name] = since, prepare
        if not self.busy:
            self._task = asyncio.get_running_loop().create_task(self._write_all())

    async def begin(self, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._write_again, "saving the state")

    async def _write_again(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            for name, prepare in list(self._refused.items()):
                if name not in self._waiting:
                    self.put(name, prepare)

    async def close(self) -> None:
        """Write the last content, and release the directory."""
        if not await self.end(END_S):
            get_logger().error(f"{self._state.path}: the disk does not answer; the process ends without it")

    def problems(self) -> Iterator[Problem]:
        if self.problem:
            yield Problem("state", "", self.problem)

    async def write(self, name: str, work: Callable[[], None], patience_s: float | None = None) -> None:
        """Write a file, and wait for that at most `patience_s`, by default SLOW_S.

        Raises NotSaved after a failure, and PylvsError if it takes longer: then the file is still written, but later.
        """
        limit_s = SLOW_S if patience_s is None else patience_s

        def prepare() -> Callable[[], None]:
            return work

        self.put(name, prepare)
        await self.idle(limit_s)
        waits = name in self._waiting or (self._writing is not None and self._writing[0] == name)
        if waits and self._tried.get(name) is not prepare:  # else it was refused, and is already tried again
            raise PylvsError(self._late(name, limit_s))
        if self._errors.get(name):
            raise NotSaved(self._errors[name])

    @property
    def problem(self) -> str:
        """Why the newest content of some file is not saved, "" if all is."""
        names = [*self._errors, *self._waiting, *([self._writing[0]] if self._writing else [])]
        return next(filter(None, map(self.error, names)), "")

    def error(self, name: str) -> str:
        """Return why the file does not have the newest content, "" also for a write that began just now."""
        begun = [self._writing] if self._writing else []
        begun += [(each, since) for each, (since, _) in self._waiting.items()]
        if any(each == name and time.monotonic() - since >= SLOW_S for each, since in begun):
            return self._late(name, SLOW_S)
        return self._errors.get(name, "")

    def _late(self, name: str, limit_s: float) -> str:
        return f"{self._state.file(name)}: not written within {limit_s:g} s: this state would be lost in a crash"

    @property
    def busy(self) -> bool:
        """Whether a write runs or waits."""
        return self._task is not None and not self._task.done()

    async def idle(self, timeout_s: float) -> bool:
        """Wait for the writes; return whether they ended in time."""
        if self._task is not None and self.busy:
            await asyncio.wait({self._task}, timeout=timeout_s)
        return not self.busy

    async def end(self, timeout_s: float) -> bool:
        """Wait for the last writes, and release the directory; return whether that ended in time.

        The thread may still write if it did not: then the kernel releases the lock when the process has ended.
        """
        deadline = time.monotonic() + timeout_s
        ended = await self.idle(timeout_s)
        if self._task is not None:
            self._task.cancel()
        if ended:
            ended = await self._release(deadline - time.monotonic())
        self._thread.shutdown()
        return ended

    async def _release(self, timeout_s: float) -> bool:
        releasing = asyncio.get_running_loop().run_in_executor(self._thread, self._state.release)
        _, late = await asyncio.wait({releasing}, timeout=timeout_s)
        if late:
            releasing.cancel()
        return not late

    async def _write_all(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            since, prepare = self._waiting.pop(name)
            self._writing = name, since
            self._refused.pop(name, None)  # now: `_write_again` must not replace newer content
            error = await self._write(name, prepare())
            if error and not self._errors.get(name):  # only the first of several failures
                get_logger().error(error)
            self._tried[name] = prepare
            if error:
                self._refused[name] = prepare
            self._errors[name] = error
            self._writing = None

    async def _write(self, name: str, write: Callable[[], None]) -> str:
        """Return why the write failed, "" if it did not."""
        writing: asyncio.Future[None] | None = None
        try:
            writing = asyncio.get_running_loop().run_in_executor(self._thread, write)
            done, _ = await asyncio.wait({writing}, timeout=SLOW_S)
            if not done:
                get_logger().error(f"{self._state.file(name)}: the disk has not answered for {SLOW_S:g} s")
            await writing
        except (PylvsError, OSError) as error:
            return text_of(error)  # "" is success
        finally:
            if writing is not None:
                writing.cancel()  # when this task is: its result must not reach a closed loop
        return ""


class OverrideSaver:
    """Saves the engine's overrides."""

    def __init__(self, state: StateDirectory, writer: StateWriter, engine: Engine) -> None:
        self._state = state
        self._writer = writer
        self._engine = engine

    @property
    def error(self) -> str:
        """Why the overrides could not be saved."""
        return self._writer.error(OVERRIDES_FILE)

    def on_event(self, event: Event) -> None:
        """Save soon after an override, once: one command may override many servers."""
        if isinstance(event, Overridden):
            self.save()

    def save(self) -> None:
        """Let the thread save the overrides as they are when it begins."""
        self._writer.put(OVERRIDES_FILE, self._prepare)

    def _prepare(self) -> Callable[[], None]:
        overrides = self._engine.overrides()
        services = {name: self._engine.identity(name) for name in {service for service, _ in overrides}}
        return partial(saved.save_overrides, self._state, SavedOverrides(overrides, services))
