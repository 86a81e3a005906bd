"""`simulate(seed)` plays one simulation, with everything around the daemon replaced by its world."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from pylvs.system import logs
from pylvs.system.processes.accounts import Account
from tests.unit.daemon.simulation.daemon import Daemon, SimApiServer, SimEngine, SimServices, sim_monitor_host
from tests.unit.daemon.simulation.faults import CURRENT, Disk, Killed, ScriptChild
from tests.unit.daemon.simulation.invariants import Violation
from tests.unit.daemon.simulation.world import World

LAST_EVENTS = 40  # that a failure shows
BUG_WORDS = ("this is a bug", "a listener to")  # log texts that must not occur


@dataclass
class Result:
    """The result of a simulation."""

    seed: int
    violation: BaseException | None
    trace: list[str]
    checked: int
    seconds: float  # simulated

    @property
    def report(self) -> str:
        """The message of a failed test."""
        last = "\n".join(self.trace[-LAST_EVENTS:])
        again = f"python -m tests.unit.daemon.simulation --seed {self.seed} --trace"
        return f"seed {self.seed}: {self.violation}\n{last}\nplay it again: {again}"


class _Logger:
    """Receives the log of the daemons of one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, level: str, fields: dict[str, Any]) -> None:
        daemon = CURRENT.get()
        if daemon is not None and daemon.killed:
            return
        self.world.note("log {}: {}", level, dict(fields))
        if isinstance(daemon, Daemon):
            daemon.logged(fields)
        text = str(fields["event"])
        if "exception" in fields or any(each in text for each in BUG_WORDS):
            self.world.failed(Violation(f"the log says: {fields}"))


class _Handler(logging.Handler):
    """Receives the log of libraries and of the engine."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.world.note("log {}: {}", record.levelname, text)
        daemon = CURRENT.get()
        if daemon is not None and daemon.killed:
            return
        expected = "a checker raised" in text or record.levelno < logging.ERROR
        if not expected or any(each in text for each in BUG_WORDS):
            self.world.failed(Violation(f"the log says: {text} {record.exc_info}"))


@contextlib.contextmanager
def _replaced(world: World) -> Iterator[None]:
    """Within the block, daemons run in this world."""
    handler, root = _Handler(world), logging.root
    former, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    ScriptChild.world = world
    former_write = logs.write_with(_Logger(world))
    supervisor, services = "pylvs.daemon.supervisor", "pylvs.daemon.services"
    account = Account("nobody", 65534, 65534)
    try:
        with (
            world.clock.in_force(),
            patch(f"{services}.Engine", SimEngine),
            patch(f"{supervisor}.ApiServer", SimApiServer),
            patch(f"{supervisor}.Services", SimServices),
            patch("pylvs.daemon.host.changes.monitor_host", sim_monitor_host),
            patch(f"{supervisor}.StateDirectory", lambda *_: Disk(world)),
            patch(f"{supervisor}.settle_garbage", lambda: None),
            patch("pylvs.daemon.virtual_routers.forwarding.POLL_S", 5.0),  # its reports go to no virtual router
            patch("pylvs.system.table_thread.ThreadPoolExecutor", world.pool),
            patch("pylvs.system.processes.scripts.Child", ScriptChild),
            patch("pylvs.system.processes.scripts.script_account", lambda *_: account),
        ):
            yield
    finally:
        logs.write_with(former_write)
        root.handlers[:] = former
        root.setLevel(level)
        del ScriptChild.world


def simulate(seed: int, trace: bool = False) -> Result:
    """Play a seed. The trace is formatted only if asked for, and for a failure."""
    collecting = gc.isenabled()
    gc.disable()  # a world is collected at once, when nothing refers to it
    try:
        return _simulate(seed, trace)
    finally:
        gc.collect(0)
        if collecting:
            gc.enable()


def _simulate(seed: int, trace: bool) -> Result:
    world = World(seed)
    begin = world.clock.now()
    with _replaced(world):
        try:
            world.loop.run_until_complete(world.play())
        except (Exception, Killed) as error:
            world.failed(error)
        finally:
            world.end()
    lines = world.lines() if trace or world.violation else []
    return Result(seed, world.violation, lines, world.invariants.checked, world.clock.now() - begin)
