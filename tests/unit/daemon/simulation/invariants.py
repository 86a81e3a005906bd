"""What must hold in every simulation, whatever fails.

"Trouble" is a fault in force that met the daemon, an edit by others, or the daemon's absence; it is of one service
alone where only its edits were refused. The desired state is that of `model.py`, not of the engine.

1. **Desired state.** After each probe result, operator's word, reload and change of addresses, the engine's desired
   state equals the model's: servers up and down after `retry` failures in a row, weights, quorum with hysteresis, sorry
   server only while the quorum is lost, overrides kept through reloads and restarts.
2. **Convergence.** `LAG_S` after a change, and `RETRY_S` after the last trouble, each service of the table equals the
   desired one. So a server that is down has no weight above 0 for longer, and an edit that was refused is tried again;
   a service whose edits are refused does not hold up another. After the last fault the whole table equals the desired
   one within `bound_s` of simulated time, which follows from the paces of the checks; from then on there is no edit.
3. **Whole edits.** While the daemon carries out a plan, a service that has a server with a weight before it, and shall
   have one after it, has one at every moment; unless an edit of the plan was refused.
4. **Notifications.** Of each quorum and each server the events alternate, and match the model's state. Each script runs
   once for each transition, in order, or the log says why it did not.
5. **Punctual probes.** Each probe begins exactly at the end of the one before plus the delay that the model gives, or
   within its warm-up where it is new; neither edits nor scripts nor other probes delay it. A check is never forgotten,
   and none runs while all its services are suspended. The death of a helper process never counts against a server.
6. **Others' services** are never edited, unless a configuration of the seed says `exclusive` or flushes the table.
7. **No leaks.** After the end there is no task, script, signal handler or service left, and nobody complained: no event
   loop, no "this is a bug", no listener's exception.
8. **Restart.** A daemon that starts again with the same configuration, and finds the table right because the one before
   was killed or left it, makes no edit before its first probes. Its overrides are those that were said, unless they
   could not be kept. (Not so where a sorry server is one of the real servers: the table cannot tell them apart.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pylvs.health.events import (
    Event,
    QuorumGained,
    QuorumLost,
    ServerDown,
    ServerUp,
    SorryServerIn,
    SorryServerOut,
    WeightChanged,
)
from pylvs.model.destination import DestinationKey
from pylvs.model.director import ServiceRow
from pylvs.model.service import ServiceKey, is_probe_mark
from pylvs.model.wanted import Configuration, WantedRow
from tests.unit.daemon.simulation.configurations import last_octet, number_of
from tests.unit.daemon.simulation.faults import Run
from tests.unit.daemon.simulation.model import CheckModel, HealthModel, Rows

if TYPE_CHECKING:
    from tests.unit.daemon.simulation.daemon import Daemon
    from tests.unit.daemon.simulation.world import World

LAG_S = 0.6  # from a change of the desired state to the table, without trouble
RETRY_S = 3.5  # from the end of trouble to the table
STEADY_S = 5.0  # without any edit, at the end
STOP_S = 45.0  # for an orderly end
TINY_S = 1e-6

Subject = tuple[str, ...]  # ("quorum", "web-1", "") or ("server", "web-1", "2")


class Violation(AssertionError):
    """An invariant does not hold."""


def bound_s(configuration: Configuration) -> float:
    """From the last fault to the desired state: probes that come to a result, a restart, and edits."""
    checks = [check for service in configuration.services for each in service.servers for check in each.checks]
    slowest = 0.0
    for check in checks:
        pace = check.pace
        pages = len(getattr(check, "urls", ())) or 1
        wait = max(pace.delay_loop_s, pace.warmup_s) + pace.timeout_s
        again = pace.retry * (pace.delay_before_retry_s + pace.timeout_s)
        slowest = max(slowest, wait + again + (pages + 1) * (pace.delay_loop_s + pace.timeout_s))
    return slowest + 10.0


class Told:
    """What a listener knows of one daemon, from events alone."""

    def __init__(self) -> None:
        self.up: dict[tuple[int, DestinationKey], bool] = {}
        self.weight: dict[tuple[int, DestinationKey], int] = {}
        self.quorum: dict[int, bool] = {}
        self.sorry: dict[int, DestinationKey] = {}
        self.due: dict[Subject, list[str]] = {}  # scripts that must run, in order: "up", "down"
        self.logged: dict[Subject, list[tuple[str, str]]] = {}  # direction, and how it ended
        self.runs: dict[Subject, deque[Run]] = {}


class Invariants:
    """Those of one simulation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.foreign: dict[ServiceKey, ServiceRow] = {}
        self.checked = 0
        self._changed_at: dict[ServiceKey, float] = {}
        self._desired: Rows = {}
        self._serving: set[ServiceKey] = set()

    def holds(self, condition: object, text: str, *arguments: Any) -> None:
        """Raise a Violation unless it does."""
        self.checked += 1
        if not condition:
            violation = Violation(text.format(*arguments))
            self.world.failed(violation)
            raise violation

    # --- 1 and 4: the engine ---

    def daemon_begins(self) -> None:
        """Another one: the desired state before it is of no importance."""
        self._changed_at.clear()
        self._desired = {}

    def after_engine(
        self, daemon: Daemon, wanted: Sequence[WantedRow], events: Sequence[Event], reloaded: bool = False
    ) -> None:
        """The engine did something, and told these events."""
        model = daemon.model
        self._hear(daemon, model, events, reloaded)
        found = {row.service.key: (row.service, {each.key: each for each in row.destinations}) for row in wanted}
        desired = model.desired()
        self.holds(found == desired, "the engine desires {}, the model {}", _Rows(found), _Rows(desired))
        now = self.world.clock.now()
        for key in desired.keys() | self._desired.keys():
            if desired.get(key) != self._desired.get(key):
                self._changed_at[key] = now
        self._desired = desired
        told = daemon.told
        if not model.started:
            return
        for service in model.services.values():
            number = service.number
            self.holds(told.quorum.get(number) == service.has_quorum, "quorum of {}: told otherwise", number)
            sorry = service.wanted.sorry_server if service.sorry else None
            self.holds(told.sorry.get(number) == (sorry and sorry.key), "sorry server of {}: told otherwise", number)
            for name, server in service.servers.items():
                known = told.up.get((number, name))
                self.holds(known == server.up, "{} of {}: told {}, is {}", name, number, known, server.up)
                if server.up:
                    weight = told.weight.get((number, name))
                    self.holds(
                        weight == server.weight, "{} of {}: weight told {}, is {}", name, number, weight, server.weight
                    )

    @staticmethod
    def _presume(told: Told, model: HealthModel) -> None:
        """What needs no event: how new servers and services begin."""
        for number, key in model.new_servers:
            service = model.services.get(number)
            if service is not None and key in service.servers:
                server = service.servers[key]
                told.up[number, key] = server.up
                told.weight[number, key] = server.weight
        model.new_servers.clear()
        model.new_services.clear()

    def _hear(self, daemon: Daemon, model: HealthModel, events: Sequence[Event], reloaded: bool) -> None:
        told = daemon.told
        presumed = set(model.new_servers)
        ending = [event for event in events if getattr(event, "ending", False)]
        for event in ending:
            self._hear_end(daemon, event)
        if reloaded:
            self._forget(told, model)
        self._presume(told, model)
        for event in events:
            if event in ending:
                continue
            number = number_of(event.service)
            if isinstance(event, ServerUp):
                self.holds(told.up.get((number, event.server)) is False, "{} comes up twice", event)
                told.up[number, event.server] = True
                told.weight[number, event.server] = event.weight
                daemon.expect(event)
            elif isinstance(event, ServerDown):
                was = told.up.get((number, event.server))
                self.holds(was is (not event.initial), "{} goes down twice", event)
                told.up[number, event.server] = False
                daemon.expect(event)
            elif isinstance(event, WeightChanged):
                new = (number, event.server) in presumed
                before = told.weight.get((number, event.server))
                self.holds(new or before == event.before, "{}: weight before was {}", event, before)
                told.weight[number, event.server] = event.weight
            elif isinstance(event, QuorumGained | QuorumLost):
                gained = isinstance(event, QuorumGained)
                was = told.quorum.get(number)
                self.holds(was is None if event.initial else was is not gained, "{} follows {}", event, was)
                told.quorum[number] = gained
                daemon.expect(event)
            elif isinstance(event, SorryServerIn):
                self.holds(number not in told.sorry, "{}: serves already", event)
                self.holds(not told.quorum.get(number), "{}: there is a quorum", event)
                told.sorry[number] = event.server
            elif isinstance(event, SorryServerOut):
                self.holds(told.sorry.pop(number, None) == event.server, "{}: does not serve", event)

    def _hear_end(self, daemon: Daemon, event: Event) -> None:
        told, number = daemon.told, number_of(event.service)
        daemon.expect(event)
        if isinstance(event, ServerDown):
            self.holds(told.up.pop((number, event.server), None), "{}: was not up", event)
        else:
            self.holds(told.quorum.pop(number, None), "{}: was lost already", event)

    @staticmethod
    def _forget(told: Told, model: HealthModel) -> None:
        """Services and servers that the configuration has no more."""
        servers = {(number, key) for number, each in model.services.items() for key in each.servers}
        servers -= model.new_servers
        services = set(model.services) - model.new_services
        told.up = {name: up for name, up in told.up.items() if name in servers}
        told.quorum = {number: up for number, up in told.quorum.items() if number in services}
        told.sorry = {number: key for number, key in told.sorry.items() if number in services}

    # --- 5: probes ---

    def probe_begins(self, check: CheckModel | None, name: str) -> None:
        """A probe begins now."""
        self.holds(check is not None, "{}: a probe of a check that is not there", name)
        assert check is not None
        now, window = self.world.clock.now(), check.window
        self.holds(not check.running, "{}: two probes at once", name)
        self.holds(not check.suspended, "{}: a probe while its services are suspended", name)
        self.holds(window is not None, "{}: a probe that nobody asked for", name)
        assert window is not None
        first, last = window
        on_time = first - TINY_S <= now and (now <= last + TINY_S or self.world.at_once)
        self.holds(on_time, "{}: began at {:.6f}, due from {:.6f} to {:.6f}", name, now, first, last)
        check.running, check.window = True, None

    def _none_forgotten(self, model: HealthModel) -> None:
        now = self.world.clock.now()
        for check in model.checks():
            if check.running or check.suspended or self.world.at_once:
                continue
            due = check.window is not None and now <= check.window[1] + TINY_S
            self.holds(due, "{}: no probe, due {}", check.check, check.window)

    # --- 3 and 6: edits ---

    def daemon_edits(self, key: ServiceKey) -> None:
        """Before an edit by the daemon."""
        if self.world.drawn.hands_off and key in self.foreign:
            self.holds(False, "the daemon edits {}, which belongs to others", key)

    def edits_begin(self) -> None:
        """The daemon has the lock, for the first edits of a plan."""
        desired = self.world.daemon.desired_rows()
        self._serving = {key for key, rows in self._weights().items() if rows and desired.get(key)}

    def after_edit(self, key: ServiceKey) -> None:
        """The daemon edited a service."""
        if key in self._serving and not self.world.table.daemon_refused:
            self.holds(self._weights().get(key), "{} has no server in the middle of an edit", key)

    def _weights(self) -> dict[ServiceKey, int]:
        """Servers with a weight, by service."""
        return {
            row.service.key: sum(each.destination.weight > 0 for each in row.destinations)
            for row in self.world.table.rows()
        }

    # --- 2: the table ---

    def tick(self) -> None:
        """From time to time."""
        world, daemon = self.world, self.world.daemon
        self._foreign_as_left()
        if not daemon.steady:
            world.trouble()
            return
        self._none_forgotten(daemon.model)
        if daemon.reloads_under_way:
            world.trouble()
        now = world.clock.now()
        table = self.table()
        for key in self._desired.keys() | table.keys():
            trouble = max(world.troubled_at, world.troubles.get(key, 0.0), daemon.ready_at)
            if now - self._changed_at.get(key, 0.0) > LAG_S and now - trouble > RETRY_S:
                self._same(key, table)

    def _foreign_as_left(self) -> None:
        if not self.world.drawn.hands_off:
            return
        found = {row.service.key: row for row in self.world.table.rows()}
        for key, row in self.foreign.items():
            self.holds(found.get(key) == row, "{}: others left it as {}, it is {}", key, row, found.get(key))

    def table(self) -> Rows:
        """The actual state, without services of others and of checks through virtual addresses."""
        return {
            row.service.key: (
                row.service,
                {each.destination.key: each.destination for each in row.destinations},
            )
            for row in self.world.table.rows()
            if row.service.key not in self.foreign and not is_probe_mark(row.service.key.mark)
        }

    def right(self) -> bool:
        """Whether the table is as desired."""
        return self.table() == self._desired

    def _same(self, key: ServiceKey, table: Rows) -> None:
        self.holds(
            table.get(key) == self._desired.get(key),
            "{}: the table has {}, desired is {}",
            key,
            _Rows({key: table[key]} if key in table else {}),
            _Rows({key: self._desired[key]} if key in self._desired else {}),
        )

    def converged(self, daemon: Daemon) -> None:
        """After the bound."""
        self.holds(daemon.steady, "the daemon does not run")
        table = self.table()
        for key in self._desired.keys() | table.keys():
            self._same(key, table)
        probes = {row.service.key for row in self.world.table.rows() if is_probe_mark(row.service.key.mark)}
        through = {row.service.key for row in daemon.outside.rows()}
        self.holds(probes == through, "services of checks: {}, desired {}", probes, through)
        self.holds(daemon.supervisor.keeper.last.complete, "the keeper still has trouble")
        for service in daemon.model.services.values():
            for name, server in service.servers.items():
                good = self.world.is_good(last_octet(name))
                alike = not server.checks or server.up == good
                self.holds(alike, "{} of {} is up: {}, good: {}", name, service.number, server.up, good)

    # --- 4: scripts ---

    def scripts(self, daemon: Daemon, complete: bool) -> None:
        """Each ran once, in order, or the log says why not; with `complete` all have ended."""
        told = daemon.told
        for subject in sorted(told.due.keys() | told.logged.keys() | told.runs.keys()):
            due = told.due.get(subject, [])
            logged = told.logged.get(subject, [])
            runs = deque(told.runs.get(subject, ()))
            names = [direction for direction, _ in logged]
            if any(ended == "lost" for _, ended in logged):
                continue  # too many waited, and the log says so
            wanted = due if complete else due[: len(names)]
            self.holds(names == wanted, "scripts of {}: due {}, logged {}", subject, due, logged)
            for direction, ended in logged:
                mine = bool(runs) and runs[0].arguments[-1] == direction
                if ended == "ran":
                    self.holds(
                        mine and runs[0].ended,
                        "scripts of {}: {} did not run: {}, {}",
                        subject,
                        direction,
                        logged,
                        [*runs],
                    )
                    runs.popleft()
                elif mine and not runs[0].ended:
                    runs.popleft()  # it began, and died with the process that ran it
            self.holds(len(runs) <= (0 if complete else 1), "scripts of {} ran more than once: {}", subject, [*runs])

    # --- 7: the end ---

    def after_end(self, daemon: Daemon) -> None:
        """An orderly end."""
        world = self.world
        left = sorted(task.get_name() for task in world.tasks_of(daemon))
        self.holds(not left, "tasks are left: {}", left)
        self.holds(not any(each.running for each in daemon.script_processes), "scripts still run")
        self.holds(not world.loop.handlers, "signal handlers are left")
        self.holds(world.disk_owner is None, "the lock of the state directory is held")
        self.holds(not any(check.running for check in daemon.probing), "probes still run")
        if not daemon.options.keep_table and daemon.steady and not daemon.leaving_failed:
            self.holds(not self.table(), "left in the table: {}", _Rows(self.table()))
            self.holds("services" not in world.disk, "the daemon's own services are still noted")
        self._foreign_as_left()


class _Rows:
    """For messages: written only where they are needed."""

    def __init__(self, rows: Mapping[ServiceKey, Any]) -> None:
        self._rows = rows

    def __format__(self, _: str) -> str:
        return str(self)

    def __str__(self) -> str:
        parts = []
        for key, (service, servers) in self._rows.items():
            weights = ", ".join(f"{name}={each.weight}" for name, each in servers.items())
            parts.append(f"[{key} {service.scheduler}: {weights}]")
        return " ".join(parts) or "nothing"
