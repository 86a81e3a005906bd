"""The world of one simulation: real servers, tables, disk, other programs, a service manager, and a schedule of events.

Everything random comes from one generator, in the order of the loop's time. So a seed gives the same trace each time.
"""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from pylvs.daemon import Options
from pylvs.daemon.loading import Loaded
from pylvs.health.events import NO_OVERRIDE, Override, ServerName
from pylvs.health.probes import Outcome
from pylvs.model.addresses import Address
from pylvs.model.checks import AgentCheck, Check
from pylvs.model.errors import PylvsError
from pylvs.model.service import DestinationKey, ServiceKey
from pylvs.model.wanted import Configuration
from tests.unit.daemon.simulation.clock import Clock, SimPool, SimTask
from tests.unit.daemon.simulation.configurations import SERVERS, SERVICES, Drawn, last_octet, vip
from tests.unit.daemon.simulation.daemon import Daemon
from tests.unit.daemon.simulation.faults import CURRENT, Faults, Killed, Run, ScriptProcess, Table
from tests.unit.daemon.simulation.invariants import STEADY_S, STOP_S, Invariants, Violation, bound_s
from tests.unit.daemon.simulation.schedule import Schedule

CHECK_EVERY = 5  # seconds, at a desired state that nothing should have changed


@dataclass
class Truth:
    """The state of a real server."""

    mode: str = "good"  # good, dead, flapping, slow, broken
    weight: int = 1  # that it asks for


class World:
    """See above."""

    daemon: Daemon

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.loop = self.clock.loop
        self.loop.delay_s = lambda: self.rng.uniform(0.0001, 0.005)
        self.trace: list[tuple[float, str, tuple[Any, ...]]] = []
        self.violation: BaseException | None = None
        self.faults = Faults()
        self.invariants = Invariants(self)
        self.table = Table(self)
        self.disk: dict[str, str] = {}
        self.disk_owner: Any = None
        self.disk_failed: set[str] = set()
        self.drawn = Drawn(self.rng)
        self.file = Loaded(self.drawn.first())
        self.truth = {number: Truth() for number in range(1, SERVERS + 1)}
        self.here: list[Address] = [vip(number) for number in range(1, SERVICES + 1)]
        self.at_once = self.rng.choice((0, 0, 0, 0, 0, 0, 2, 5))
        self.expected = 0.0, False  # by the model: seconds to the next probe, and whether the check changed
        self.disturbed_at = 0.0
        self.disturbances: dict[ServiceKey, float] = {}
        self.script_processes: list[ScriptProcess] = []
        self.recalled = 0  # daemons that found a table that was right
        self.quiet = False
        self.over = False
        self.unhung = asyncio.Event()
        self._known_overrides: dict[ServerName, Override] | None = None  # what a killed daemon's successor must know
        self._unchanged: tuple[Configuration, int] | None = None  # edits so far, if the table is right since then

    # --- the trace ---

    def note(self, text: str, *arguments: Any) -> None:
        """Add to the trace; it is formatted only if needed."""
        self.trace.append((self.clock.now(), text, arguments))

    def lines(self) -> list[str]:
        """Return the trace."""
        begin = self.trace[0][0] if self.trace else 0.0
        return [f"{at - begin:11.6f} {text.format(*arguments)}" for at, text, arguments in self.trace]

    def failed(self, violation: BaseException) -> None:
        """Note the first violation; later ones may follow from it."""
        if self.violation is None:
            self.violation = violation
            self.note("VIOLATION: {}", violation)

    def disturbed(self, key: ServiceKey | None = None) -> None:
        """Note a disturbance of the daemon now: of one service, or of all."""
        if key is None:
            self.disturbed_at = max(self.disturbed_at, self.clock.now())
        else:
            self.disturbances[key] = max(self.disturbances.get(key, 0.0), self.clock.now())

    # --- servers and scripts ---

    def is_good(self, server: int) -> bool:
        """Return whether a real server is good, at the end."""
        return self.truth[server].mode == "good"

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def probed(self, check: Check, key: DestinationKey) -> Outcome:
        """Return the outcome of a probe of this real server, within the check's timeout."""
        rng, truth = self.rng, self.truth[last_octet(key)]
        mode, timeout_s = truth.mode, check.pace.timeout_s
        quick = rng.uniform(0.001, 0.05)
        if mode == "broken":
            return await self._broken(check, rng.random())
        good = mode == "good" or (mode != "dead" and rng.random() < 0.5)
        if mode == "slow" or (not good and rng.random() < 0.5):
            await asyncio.sleep(timeout_s * (rng.uniform(0.5, 0.999) if good else 1.0))
        else:
            await asyncio.sleep(quick)
        if not good:
            return Outcome(False, "refused or timed out")
        weight = truth.weight if isinstance(check, AgentCheck) else None
        return Outcome(True, "ok", weight)

    async def _broken(self, check: Check, draw: float) -> Outcome:
        if draw < 0.3:
            return Outcome(False, "this process has too many open files", inconclusive=True)
        await asyncio.sleep(0.01)
        if draw < 0.5:
            raise RuntimeError("a bug in a checker")
        if draw < 0.6:
            raise asyncio.CancelledError
        if draw < 0.8 and not self.at_once:
            await self.unhung.wait()  # it ends only if it is cancelled
        return Outcome(draw < 0.95, "neither good nor bad")

    def script_takes(self, arguments: tuple[str, ...]) -> tuple[float, int]:
        """Return how long a script runs, and its exit status."""
        rng = self.rng
        hangs = bool(self.faults.scripts) and rng.random() < self.faults.scripts
        if arguments[0] == "notify":
            return rng.uniform(1, 60) if hangs else rng.uniform(0.005, 0.3), rng.choice((0, 0, 0, 1))
        truth = self.truth[int(arguments[2])]
        good = truth.mode == "good" or (truth.mode != "dead" and rng.random() < 0.5)
        return 1000.0 if hangs else rng.uniform(0.005, 0.1), 0 if good else 1

    def ran(self, run: Run) -> None:
        """Note that a script has begun."""
        self.note("script: {}", " ".join(run.arguments))
        daemon = CURRENT.get()
        if run.arguments[0] == "notify" and isinstance(daemon, Daemon):
            daemon.listener.runs.setdefault(run.arguments[1:4], []).append(run)

    # --- others ---

    def edit_as_others(self) -> None:
        """Edit the table by ipvsadm, if it is not locked."""
        token = CURRENT.set(None)
        try:
            self.schedule.edit_as_others()
        finally:
            CURRENT.reset(token)

    # --- daemons ---

    def pool(self, *_: Any, **__: Any) -> SimPool:
        """Replaces ThreadPoolExecutor."""
        made = SimPool(self.loop)
        daemon = CURRENT.get()
        daemon.pools.append(made)
        return made

    def tasks_of(self, daemon: Daemon) -> list[asyncio.Task[Any]]:
        """Return the daemon's unfinished tasks, without its main one."""
        every = asyncio.all_tasks(self.loop) - {daemon.task}
        return [task for task in every if isinstance(task, SimTask) and task.context.get(CURRENT) is daemon]

    def remember(self, daemon: Daemon) -> None:
        """Remember what the next daemon must know: this one ends and leaves its table."""
        self._known_overrides = None
        self._unchanged = None
        if not daemon.supervisor.started_at:
            return
        saved = not daemon.supervisor.saving  # a command that waits for the disk has no reply yet
        if saved and "overrides" not in self.disk_failed:
            model = daemon.model
            self._known_overrides = {
                (model.services[server.service].wanted.name, server.key): server.override
                for server in model.servers()
                if server.override != NO_OVERRIDE
            }
        disturbed = max([self.disturbed_at, *self.disturbances.values()])
        calm = saved and disturbed < self.clock.now() and not self.disk_failed and not daemon.reloads_under_way
        if calm and self.invariants.right() and self.invariants.note_due(daemon):
            assert daemon.engine is not None
            self._unchanged = daemon.engine.configuration, self.table.edits_by_daemon

    def forget_table(self) -> None:
        """Note that the table may have changed."""
        self._unchanged = None

    def recall_overrides(self, daemon: Daemon) -> None:
        """Check the overrides of a new daemon: they are those of the last one."""
        known, self._known_overrides = self._known_overrides, None
        if known is None:
            return
        model = daemon.model
        for service in model.services.values():
            for key, server in service.servers.items():
                override = known.get((service.wanted.name, key))
                self.invariants.holds(
                    override is None or server.override == override,
                    "{} of {}: override {} was forgotten",
                    key,
                    service.number,
                    override,
                )

    def ready(self, daemon: Daemon) -> None:
        """Check the edits of a new daemon, whose first table is complete."""
        self.note("ready")
        unchanged, self._unchanged = self._unchanged, None
        if unchanged is None or daemon.engine is None:
            return
        configuration, edits = unchanged
        same = configuration == daemon.engine.configuration and not any(
            each.sorry_server is not None
            and each.sorry_server.key in {server.destination.key for server in each.servers}
            for each in configuration.services
        )
        if same and self.drawn.hands_off and not self.drawn.via_vip:
            self.recalled += 1
            self.invariants.holds(
                edits == self.table.edits_by_daemon, "the daemon that starts again edits a table that is right"
            )

    async def _manage(self) -> None:
        """Act as service manager: restart a daemon that has ended."""
        while not self.over:
            self.invariants.daemon_begins()
            self.disturbed()
            options = Options("test.conf", keep_table=self.rng.random() < 0.3)
            self.note("the daemon starts")
            daemon = self.daemon = Daemon(self, options)
            await asyncio.wait({daemon.task})
            error = None if daemon.task.cancelled() else daemon.task.exception()
            self.note("the daemon ended: {}", "killed" if daemon.killed else repr(error))
            if daemon.killed:
                await asyncio.sleep(self.rng.choice((0.05, 0.5, 3.0)))
                continue
            self.invariants.holds(
                error is None or isinstance(error, PylvsError | OSError), "the daemon ended with {!r}", error
            )
            if error is None:
                self.forget_table()
                if daemon.options.keep_table:
                    self.remember(daemon)
                self.invariants.after_end(daemon)
                self.invariants.scripts(daemon, complete=False)
            if error is not None:
                self.file = replace(self.file, findings=())  # the operator repairs the file
            if not self.over:
                await asyncio.sleep(1.0)

    async def play(self) -> None:
        """Play the simulation."""
        begin = self.clock.now()
        manager = asyncio.create_task(self._manage(), name="service manager")
        self.schedule = Schedule(self)
        self.schedule.set()
        ticking = asyncio.create_task(self._tick(), name="ticks")
        both = {manager, ticking}
        try:
            await self._wait(both, self.schedule.length_s)
            self.schedule.calm()
            self.note("all faults have ended")
            await self._wait(both, 0.01)
            configuration = self.file.configuration
            running = self.daemon.engine.configuration if self.daemon.engine else configuration
            await self._wait(both, max(bound_s(configuration), bound_s(running)))
            self._check_the_end()
            edits = self.table.edits_by_daemon
            await self._wait(both, STEADY_S)
            self._check_the_end()
            self.invariants.holds(edits == self.table.edits_by_daemon, "the table is edited on and on")
            self.invariants.scripts(self.daemon, complete=True)
            await self._end(manager)
            self.note("over after {:.3f} s", self.clock.now() - begin)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    def _check_the_end(self) -> None:
        self.invariants.converged(self.daemon)
        running = self.daemon.engine.configuration if self.daemon.engine else None
        if self.schedule.last_reload:
            self.invariants.holds(running == self.file.configuration, "the last reload was not done")

    async def _end(self, manager: asyncio.Task[None]) -> None:
        self.over = True
        daemon = self.daemon
        self.terminate()
        done, _ = await asyncio.wait({manager}, timeout=STOP_S)
        self.invariants.holds(done, "the daemon does not end within {} s", STOP_S)
        manager.result()
        self.invariants.holds(daemon.task.exception() is None, "ended with {!r}", daemon.task.exception())

    def terminate(self) -> None:
        """SIGTERM."""
        if self.loop.signal_(signal.SIGTERM):
            self.daemon.ending = True
            self.note("SIGTERM")

    def end(self) -> None:
        """Clean up, also a daemon that a violation interrupted."""
        self.over = True
        daemon = getattr(self, "daemon", None)
        if daemon is not None:
            daemon.kill()
        for _ in range(10):
            left = asyncio.all_tasks(self.loop)
            if not left:
                break
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(left, timeout=100.0))
        self.loop.close()

    async def _wait(self, both: set[asyncio.Task[None]], seconds: float) -> None:
        done, _ = await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if self.violation is not None:
            raise self.violation

    async def _tick(self) -> None:
        for number in count():
            await asyncio.sleep(1.0)
            if self.over:
                return
            self.invariants.tick()
            if number % CHECK_EVERY == 0 and self.daemon.steady and self.daemon.engine is not None:
                self.daemon.engine.check_invariants()
            if self.violation is not None:
                raise self.violation
            errors = [each for each in self.loop.errors if not isinstance(each.get("exception"), Killed)]
            if errors:
                raise Violation(f"the event loop reports: {errors[0]}")
