"""Faults around a daemon: a table that fails, a full disk, a killed process that runs scripts.

The schedule of a seed sets and lifts `Faults`. The table is the real MemoryDirector. Faults occur before or after its
edits, never within one.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.errors import (
    Busy,
    InvalidOperation,
    NoSpace,
    NoSuchDevice,
    NoSuchScheduler,
    NotPermitted,
    OutOfRange,
    PylvsError,
    Unsupported,
)
from pylvs.model.plain import from_plain, to_plain
from pylvs.model.rows import ServiceRow
from pylvs.model.service import Destination, DestinationKey, ServiceKey, Timeouts, VirtualService
from pylvs.system.processes import runner
from pylvs.system.processes.child import RESTART_S
from pylvs.system.processes.runner import Answer
from tests.memory import MemoryDirector

if TYPE_CHECKING:
    from tests.unit.daemon.simulation.world import World

REFUSALS: tuple[type[PylvsError], ...] = (
    Busy,
    InvalidOperation,
    NoSpace,
    NoSuchDevice,
    NoSuchScheduler,
    NotPermitted,
    OutOfRange,
    Unsupported,
)
ERRNOS = (errno.EAGAIN, errno.ENOSPC, errno.ENOMEM, errno.EIO, errno.EPERM)


class Killed(BaseException):
    """The daemon was killed."""


@dataclass
class Faults:
    """The faults in force. Shares are probabilities."""

    refuse: float = 0.0  # an edit raises a PylvsError
    refuse_key: ServiceKey | None = None  # only edits of this service; None: of any
    breaks: float = 0.0  # an edit raises OSError, before or after it is done
    locked: float = 0.0  # the lock of the table is held by others
    locked_s: float = 0.0  # how long the daemon waits for it in vain
    unreadable: float = 0.0  # the table cannot be read
    most: int | None = None  # highest number of destinations
    edit_s: float = 0.0  # that each edit takes
    lock_s: float = 0.0  # that each batch takes
    meddling: float = 0.0  # others edit between a plan and its batch
    kill_in: int | None = None  # edits until the daemon is killed
    disk: float = 0.0  # nothing can be kept
    no_process: float = 0.0  # no process can be made
    scripts: float = 0.0  # scripts hang until their timeout


CURRENT: ContextVar[Any] = ContextVar("CURRENT", default=None)  # the daemon that runs; None: other programs


class Table(MemoryDirector):
    """The tables of the host, which outlive daemons."""

    def __init__(self, world: World) -> None:
        super().__init__(clock=world.clock.now)
        self.world = world
        self.gone = False  # nothing was made, or pylvs down took it away
        self.edits_by_daemon = 0
        self.planned = False  # by the daemon: the first batch of edits comes
        self.edit_broke = False  # since then

    # --- faults ---

    def _daemon(self) -> Any:
        daemon = CURRENT.get()
        if daemon is not None and daemon.killed:
            raise Killed
        return daemon

    def _edit(self, what: str, key: ServiceKey, edit: Callable[[], None], adds: bool = False) -> None:
        daemon = self._daemon()
        if daemon is None:
            edit()
            return
        world, faults = self.world, self.world.faults
        world.invariants.daemon_edits(key)
        if faults.kill_in is not None:
            faults.kill_in -= 1
            if faults.kill_in < 0:
                faults.kill_in = None
                world.note("killed before: {} {}", what, key)
                daemon.kill()
                raise Killed
        if faults.edit_s:
            world.disturbed()
            world.clock.spend(faults.edit_s)
            world.disturbed()
        if faults.refuse and faults.refuse_key in (None, key) and world.rng.random() < faults.refuse:
            self._refused(key, world.rng.choice(REFUSALS), what)
        if adds and faults.most is not None and self._count() >= faults.most:
            self._refused(key, NoSpace, what)
        broken = bool(faults.breaks) and world.rng.random() < faults.breaks
        if not broken or world.rng.random() < 0.5:
            edit()
            self.edits_by_daemon += 1
            world.note("edit: {} {}", what, key)
            world.invariants.after_edit(key)
        if broken:
            world.disturbed()
            self.edit_broke = True
            code = world.rng.choice(ERRNOS)
            world.note("edit breaks: {} {} errno {}", what, key, code)
            raise OSError(code, "simulated")

    def _refused(self, key: ServiceKey, error: type[PylvsError], what: str) -> None:
        self.world.disturbed(key)
        self.world.note("edit refused: {} {} {}", what, key, error.__name__)
        raise error(f"{key}: simulated")

    def _count(self) -> int:
        return sum(len(row.destinations) for row in super().services())

    def _reads(self) -> None:
        if self._daemon() is None:
            return
        world, faults = self.world, self.world.faults
        if faults.unreadable and world.rng.random() < faults.unreadable:
            world.disturbed()
            if world.rng.random() < 0.5:
                raise OSError(world.rng.choice(ERRNOS), "simulated")
            raise world.rng.choice((Busy, Unsupported, NotPermitted))("simulated: cannot be read")

    # --- LongLivedDirector ---

    def batch(self) -> AbstractContextManager[None]:
        return self._locked()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self._daemon() is None:
            yield
            return
        world, faults = self.world, self.world.faults
        if faults.meddling and world.rng.random() < faults.meddling:
            world.edit_as_others()
        if faults.lock_s:
            world.disturbed()
            world.clock.spend(faults.lock_s)
            world.disturbed()
        if faults.locked and world.rng.random() < faults.locked:
            world.disturbed()
            world.clock.spend(faults.locked_s)
            world.disturbed()
            raise Busy("the tables are locked by process 4711; try again later")
        if self.gone:
            self.gone = False
            self._edition += 1
        if self.planned:
            self.planned = self.edit_broke = False
            world.invariants.edits_begin()
        yield

    def take_away(self) -> None:
        """`pylvs down`."""
        super().flush()
        self.gone = True

    def edition(self) -> int:
        self._reads()
        return 0 if self.gone else super().edition()

    def services(self) -> list[ServiceRow]:
        self._reads()
        return super().services()

    def rows(self) -> list[ServiceRow]:
        """Return the table without faults."""
        return super().services()

    def timeouts(self) -> Timeouts:
        self._reads()
        return super().timeouts()

    def add_service(self, service: VirtualService) -> None:
        self._edit("add", service.key, lambda: super(Table, self).add_service(service))

    def edit_service(self, service: VirtualService) -> None:
        self._edit("edit", service.key, lambda: super(Table, self).edit_service(service))

    def delete_service(self, key: ServiceKey) -> None:
        self._edit("delete", key, lambda: super(Table, self).delete_service(key))

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        what = f"add {destination.key} weight {destination.weight} to"
        self._edit(what, key, lambda: super(Table, self).add_destination(key, destination), adds=True)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        what = f"edit {destination.key} weight {destination.weight} of"
        self._edit(what, key, lambda: super(Table, self).edit_destination(key, destination))

    def rename_destination(self, key: ServiceKey, former: DestinationKey, name: DestinationKey) -> None:
        self._edit(f"rename {former} of", key, lambda: super(Table, self).rename_destination(key, former, name))

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        self._edit(f"delete {destination} of", key, lambda: super(Table, self).delete_destination(key, destination))


class Disk(StateDirectory):
    """A state directory in memory, which outlives daemons. Writes of a killed daemon have no effect."""

    def __init__(self, world: World) -> None:
        super().__init__(Path("/nonexistent/pylvs-simulation"))
        self.world = world
        self._daemon = CURRENT.get()

    @property
    def _dead(self) -> bool:
        return bool(self._daemon is not None and self._daemon.killed)

    def acquire(self) -> None:
        owner = self.world.disk_owner
        assert owner is None or owner.killed, "two daemons with one state directory"
        self.world.disk_owner = self._daemon

    def release(self) -> None:
        if self.world.disk_owner is self._daemon:
            self.world.disk_owner = None

    def read(self, name: str) -> Any:
        text = self.world.disk.get(name)
        return None if text is None else json.loads(text)

    def write(self, name: str, content: Any) -> None:
        """Write a file, unless the disk is full."""
        if self._dead:
            return
        world = self.world
        if world.faults.disk and world.rng.random() < world.faults.disk:
            world.disturbed()
            world.disk_failed.add(name)
            raise PylvsError(f"{name}: No space left on device: this state would be lost in a crash")
        world.disk_failed.discard(name)
        if content:
            world.disk[name] = json.dumps(content)
        else:
            world.disk.pop(name, None)


class ScriptChild:
    """Replaces `Child` for the process that runs scripts."""

    world: World  # set by the world, for the time of one simulation

    def __init__(self, _: object, what: str, __: str, *calls: Any, **___: object) -> None:
        self.problem = ""
        self.started = False
        self.on_message, self._on_up, self._on_down = calls
        self._what = what
        self._process: ScriptProcess | None = None

    @property
    def up(self) -> bool:
        return self._process is not None

    def start(self, *_: str) -> None:
        """Start a process, and another one whenever it ends."""
        self.started, self.daemon = True, CURRENT.get()
        self._launch_in(self.world.rng.uniform(0.001, 0.05))

    def _launch_in(self, seconds: float) -> None:
        self.world.loop.call_later(seconds, self._launch)

    def _launch(self) -> None:
        world = self.world
        if not self.started or self.daemon.killed:
            return
        if world.faults.no_process and world.rng.random() < world.faults.no_process:
            self.lost("cannot be started: Resource temporarily unavailable")
            return
        self._process = ScriptProcess(self)
        world.script_processes.append(self._process)
        self._on_up()

    def lost(self, reason: str) -> None:
        """Report the end of the process."""
        self._process, self.problem = None, f"{self._what} {reason}"
        if self.started and not self.daemon.killed:
            self._on_down()
            self._launch_in(RESTART_S)

    def send(self, message: Mapping[str, Any]) -> None:
        if self._process is not None:
            self._process.take(message)

    def close(self, _: float, on_closed: Callable[[], None]) -> None:
        """End the process: the daemon has closed it."""
        self.started = False
        if self._process is not None:
            self._process.kill()
        on_closed()


class ScriptProcess:
    """A process that runs scripts. It can be killed, or stopped."""

    def __init__(self, child: ScriptChild) -> None:
        self.over = False
        self.stopped = False  # SIGSTOP
        self.world, self.daemon = child.world, child.daemon
        self._child = child
        self._running: dict[int, tuple[Run, Answer]] = {}  # by request, with the answer to come
        self._held: list[Callable[[], None]] = []  # calls for SIGCONT

    def take(self, message: Mapping[str, Any]) -> None:
        """Receive a request, later."""
        if "kill" in message:
            self.world.loop.call_soon(self._later(lambda: self._end(message["kill"])))
        else:
            request: runner.Run = from_plain(runner.Run, message["run"])
            self.world.loop.call_soon(self._later(lambda: self._start(message["id"], request)))

    def _later(self, what: Callable[[], None]) -> Callable[[], None]:
        def unless_over() -> None:
            if self.over:
                return
            if self.stopped:
                self._held.append(what)
            else:
                what()

        return unless_over

    def _start(self, number: int, request: runner.Run) -> None:
        world = self.world
        seconds, status = world.script_takes(request.arguments)
        run = Run(request.arguments)
        world.ran(run)
        most = inf if request.timeout_s is None else request.timeout_s
        if seconds > most:
            answer = Answer(id=number, signal=15, timed_out=True, seconds=most)
        else:
            answer = Answer(id=number, status=status, seconds=seconds)
        self._running[number] = run, answer
        world.loop.call_later(answer.seconds, self._later(lambda: self._answer(number)))

    def _answer(self, number: int) -> None:
        found = self._running.pop(number, None)
        if found is not None:
            run, answer = found
            run.ended = True
            self.daemon.answered[run.arguments] += 1
            self._child.on_message(to_plain(answer))

    def calm(self) -> None:
        """End hanging scripts, and continue."""
        self.go_on()
        for number in list(self._running):
            self._answer(number)

    def _end(self, number: int) -> None:
        self._running.pop(number, None)

    def kill(self) -> None:
        """SIGKILL: all its scripts end, too."""
        if self.over:
            return
        self.over = True
        self._running.clear()
        self._child.lost("has ended")

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True

    def go_on(self) -> None:
        """SIGCONT."""
        self.stopped = False
        held, self._held = self._held, []
        for each in held:
            self._later(each)()

    @property
    def running(self) -> int:
        """Return the scripts that run."""
        return len(self._running)


@dataclass
class Run:
    """One run of a script."""

    arguments: tuple[str, ...]
    ended: bool = False  # and the daemon got the result
