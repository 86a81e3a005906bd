"""The invariants of every simulation, under every fault.

A disturbance is a fault that affected the daemon, an edit by another program, or the daemon's absence. If only edits
of one service were refused, only this service is disturbed. The desired state is that of `model.py`, not the engine's.

1. **Desired state.** The engine's desired state equals the model's after each outcome, override, reload and change of
   addresses. A server is down after `retry` failures in a row. The quorum has hysteresis. The sorry server serves only
   while the quorum is lost. Overrides survive reloads and restarts.
2. **Convergence.** `LAG_S` after a change, and `RETRY_S` after the last disturbance, each service of the table is as
   desired. So a server that is down has no weight above 0 for longer, and refused edits are tried again. A service
   with refused edits does not delay another. After the last fault the whole table is as desired within `bound_s`
   of simulated time, which follows from the timing of the checks. From then on there is no edit.
3. **Whole edits.** A plan does not leave a service without a server. A service that has a server with a weight before
   and after the plan has one at every moment. This does not apply if an edit of the plan was refused.
4. **Notifications.** Of each quorum and each server the events alternate, and match the model's state. Each script runs
   once for each transition, and begins in order, or the log has the reason why not.
5. **Punctual probes.** Each probe begins exactly at the end of the one before plus the delay of the model. A program
   begins at the start of the one before plus that delay, or when that one has ended. A new probe begins within its
   warm-up. Neither edits nor scripts nor other probes delay it. A check is never forgotten, and none runs while all its
   services are suspended. The death of a helper process never counts against a server.
6. **Others' services** are never edited, unless a configuration of the seed has `exclusive` or flushes the table.
7. **No leaks.** After the stop no task, script, signal handler or service is left. The log has no error of the event
   loop, no "this is a bug" and no listener's exception.
8. **Restart.** A daemon that starts with the configuration of the one before, and with a table that is right, makes no
   edit before its first probes. Its overrides are those of the operator, unless they could not be saved. This does not
   apply if a sorry server is one of the real servers, because the table does not distinguish them. Nor does it apply
   while overrides wait for the disk. Nor within `NOTE_S` of the change of a service that the state directory does not
   have yet.
9. **Notes.** When a service of the table is as desired, the state directory has its servers. So it does not depend on
   the edits of other services which servers the next daemon takes for new ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pylvs.daemon.state.directory import SERVICES_FILE
from pylvs.daemon.state.saved import load_owned
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
from pylvs.model.rows import ServiceRow
from pylvs.model.service import Destination, DestinationKey, ServiceKey, VirtualService, is_probe_mark
from pylvs.model.wanted import Configuration, WantedRow
from tests.memory import MemoryDirector
from tests.unit.daemon.simulation.configurations import last_octet, number_of
from tests.unit.daemon.simulation.faults import Disk, Run
from tests.unit.daemon.simulation.model import CheckModel, HealthModel, Rows

if TYPE_CHECKING:
    from tests.unit.daemon.simulation.daemon import Daemon
    from tests.unit.daemon.simulation.world import World

LAG_S = 0.6  # from a change of the desired state to the table, without disturbance
RETRY_S = 3.5  # from the end of a disturbance to the table
NOTE_S = 0.1  # from a change of the table to the state directory, without disturbance
STEADY_S = 5.0  # without any edit, at the end
STOP_S = 45.0  # for an orderly end
TINY_S = 1e-6

Subject = tuple[str, ...]  # ("quorum", "web-1", "") or ("server", "web-1", "2")


class Violation(AssertionError):
    """An invariant is violated."""


def bound_s(configuration: Configuration) -> float:
    """Return the time from the last fault to the desired state: probes, a restart, and edits."""
    checks = [check for service in configuration.services for each in service.servers for check in each.checks]
    slowest = 0.0
    for check in checks:
        pace = check.pace
        pages = len(getattr(check, "urls", ())) or 1
        wait = max(pace.delay_loop_s, pace.warmup_s) + pace.timeout_s
        again = pace.retry * (pace.delay_before_retry_s + pace.timeout_s)
        slowest = max(slowest, wait + again + (pages + 1) * (pace.delay_loop_s + pace.timeout_s))
    return slowest + 10.0


class Listener:
    """The state of one daemon, as derived from its events."""

    def __init__(self) -> None:
        self.up: dict[tuple[int, DestinationKey], bool] = {}
        self.weight: dict[tuple[int, DestinationKey], int] = {}
        self.quorum: dict[int, bool] = {}
        self.sorry: dict[int, DestinationKey] = {}
        self.due: dict[Subject, list[str]] = {}  # scripts that must run, in order: "up", "down"
        self.logged: dict[Subject, list[tuple[str, str]]] = {}  # direction, and how it ended
        self.runs: dict[Subject, list[Run]] = {}


class Invariants:
    """The invariants of one simulation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.foreign: dict[ServiceKey, ServiceRow] = {}
        self.checked = 0
        self._changed_at: dict[ServiceKey, float] = {}
        self._desired: Rows = {}
        self._serving: set[ServiceKey] = set()
        self._rows: dict[ServiceKey, tuple[WantedRow, tuple[VirtualService, dict[DestinationKey, Destination]]]] = {}
        self._left: tuple[int, dict[ServiceKey, ServiceRow]] = 0, {}  # edition and `foreign` of the last comparison
        self._table: Rows = {}
        self._table_of: tuple[int, dict[ServiceKey, ServiceRow]] = 0, {}  # edition and `foreign` of `_table`
        self._noted: set[ServiceKey] = set()
        self._noted_of: tuple[str, Configuration | None] = (
            "",
            None,
        )  # content of the file, and configuration, of `_noted`

    def holds(self, condition: object, text: str, *arguments: Any) -> None:
        """Raise a Violation unless it holds."""
        self.checked += 1
        if not condition:
            violation = Violation(text.format(*arguments))
            self.world.failed(violation)
            raise violation

    # --- 1 and 4: the engine ---

    def daemon_begins(self) -> None:
        """Begin with a new daemon, without an earlier desired state."""
        self._changed_at.clear()
        self._desired = {}

    def after_engine(
        self, daemon: Daemon, wanted: Sequence[WantedRow], events: Sequence[Event], reloaded: bool = False
    ) -> None:
        """Check the engine after an action with these events."""
        model = daemon.model
        self._check_events(daemon, model, events, reloaded)
        found = {row.service.key: self._converted(row) for row in wanted}
        desired = model.desired()
        self.holds(found == desired, "the engine desires {}, the model {}", _Rows(found), _Rows(desired))
        now = self.world.clock.now()
        for key in desired.keys() | self._desired.keys():
            if desired.get(key) != self._desired.get(key):
                self._changed_at[key] = now
        self._desired = desired
        listener = daemon.listener
        if not model.started:
            return
        for service in model.services.values():
            number = service.number
            self.holds(listener.quorum.get(number) == service.has_quorum, "quorum of {}: reported otherwise", number)
            sorry = service.wanted.sorry_server if service.sorry else None
            self.holds(
                listener.sorry.get(number) == (sorry and sorry.key), "sorry server of {}: reported otherwise", number
            )
            for name, server in service.servers.items():
                known, up = listener.up.get((number, name)), server.up
                self.holds(known == up, "{} of {}: reported {}, is {}", name, number, known, up)
                if up:
                    announced, weight = listener.weight.get((number, name)), server.weight
                    self.holds(
                        announced == weight, "{} of {}: weight reported {}, is {}", name, number, announced, weight
                    )

    def _converted(self, row: WantedRow) -> tuple[VirtualService, dict[DestinationKey, Destination]]:
        """Return a row of the engine as in `Rows`; the engine returns the same object while nothing changes."""
        known = self._rows.get(row.service.key)
        if known is None or known[0] is not row:
            known = self._rows[row.service.key] = row, (row.service, {each.key: each for each in row.destinations})
        return known[1]

    @staticmethod
    def _presume(listener: Listener, model: HealthModel) -> None:
        """Note the first state of new servers and services, which has no event."""
        for number, key in model.new_servers:
            service = model.services.get(number)
            if service is not None and key in service.servers:
                server = service.servers[key]
                listener.up[number, key] = server.up
                listener.weight[number, key] = server.weight
        model.new_servers.clear()
        model.new_services.clear()

    def _check_events(self, daemon: Daemon, model: HealthModel, events: Sequence[Event], reloaded: bool) -> None:
        listener = daemon.listener
        presumed = set(model.new_servers)
        ending = [event for event in events if getattr(event, "ending", False)]
        for event in ending:
            self._check_end(daemon, event)
        if reloaded:
            self._forget(listener, model)
        self._presume(listener, model)
        for event in events:
            if event in ending:
                continue
            number = number_of(event.service)
            if isinstance(event, ServerUp):
                self.holds(listener.up.get((number, event.server)) is False, "{} comes up twice", event)
                listener.up[number, event.server] = True
                listener.weight[number, event.server] = event.weight
                daemon.expect(event)
            elif isinstance(event, ServerDown):
                was = listener.up.get((number, event.server))
                self.holds(was is (not event.initial), "{}: down twice", event)
                listener.up[number, event.server] = False
                daemon.expect(event)
            elif isinstance(event, WeightChanged):
                new = (number, event.server) in presumed
                before = listener.weight.get((number, event.server))
                self.holds(new or before == event.before, "{}: weight before was {}", event, before)
                listener.weight[number, event.server] = event.weight
            elif isinstance(event, QuorumGained | QuorumLost):
                gained = isinstance(event, QuorumGained)
                was = listener.quorum.get(number)
                self.holds(was is None if event.initial else was is not gained, "{} follows {}", event, was)
                listener.quorum[number] = gained
                daemon.expect(event)
            elif isinstance(event, SorryServerIn):
                self.holds(number not in listener.sorry, "{}: serves already", event)
                self.holds(not listener.quorum.get(number), "{}: there is a quorum", event)
                listener.sorry[number] = event.server
            elif isinstance(event, SorryServerOut):
                self.holds(listener.sorry.pop(number, None) == event.server, "{}: does not serve", event)

    def _check_end(self, daemon: Daemon, event: Event) -> None:
        listener, number = daemon.listener, number_of(event.service)
        daemon.expect(event)
        if isinstance(event, ServerDown):
            self.holds(listener.up.pop((number, event.server), None), "{}: was not up", event)
        else:
            self.holds(listener.quorum.pop(number, None), "{}: was lost already", event)

    @staticmethod
    def _forget(listener: Listener, model: HealthModel) -> None:
        """Forget services and servers that the configuration does not have."""
        servers = {(number, key) for number, each in model.services.items() for key in each.servers}
        servers -= model.new_servers
        services = set(model.services) - model.new_services
        listener.up = {name: up for name, up in listener.up.items() if name in servers}
        listener.quorum = {number: up for number, up in listener.quorum.items() if number in services}
        listener.sorry = {number: key for number, key in listener.sorry.items() if number in services}

    # --- 5: probes ---

    def probe_begins(self, check: CheckModel | None, name: str) -> None:
        """Check the time of a probe that begins."""
        self.holds(check is not None, "{}: a probe of a check that is not there", name)
        assert check is not None
        now, window = self.world.clock.now(), check.window
        self.holds(not check.running, "{}: two probes at once", name)
        self.holds(not check.suspended, "{}: a probe while its services are suspended", name)
        self.holds(window is not None, "{}: an unscheduled probe", name)
        assert window is not None
        first, last = window
        on_time = first - TINY_S <= now and (now <= last + TINY_S or self.world.at_once)
        self.holds(on_time, "{}: began at {:.6f}, due from {:.6f} to {:.6f}", name, now, first, last)
        check.running, check.window, check.begun = True, None, now

    def _none_forgotten(self, model: HealthModel) -> None:
        now = self.world.clock.now()
        for check in model.checks():
            if check.running or check.suspended or self.world.at_once:
                continue
            due = check.window is not None and now <= check.window[1] + TINY_S
            self.holds(due, "{}: no probe, due {}", check.check, check.window)

    # --- 3 and 6: edits ---

    def daemon_edits(self, key: ServiceKey) -> None:
        """Check an edit before the daemon makes it."""
        if self.world.drawn.hands_off and key in self.foreign:
            self.holds(False, "the daemon edits {}, which belongs to others", key)

    def edits_begin(self) -> None:
        """Note the services with a server, before the first edit of a plan."""
        desired = self.world.daemon.desired_rows()
        self._serving = {key for key, rows in self._weights().items() if rows and desired.get(key)}

    def after_edit(self, key: ServiceKey) -> None:
        """Check a service after an edit."""
        if key in self._serving and not self.world.table.edit_broke:
            self.holds(self._weights().get(key), "{} has no server in the middle of an edit", key)

    def _weights(self) -> dict[ServiceKey, int]:
        """Return the number of servers with a weight by service."""
        return {
            row.service.key: sum(each.destination.weight > 0 for each in row.destinations)
            for row in self.world.table.rows()
        }

    # --- 2: the table ---

    def tick(self) -> None:
        """Check the table, regularly."""
        world, daemon = self.world, self.world.daemon
        self._foreign_as_left()
        if not daemon.steady:
            world.disturbed()
            return
        self._none_forgotten(daemon.model)
        if daemon.reloads_under_way:
            world.disturbed()
        now = world.clock.now()
        table = self.table()
        for key in self._desired.keys() | table.keys():
            disturbed = max(world.disturbed_at, world.disturbances.get(key, 0.0), daemon.ready_at)
            if now - self._changed_at.get(key, 0.0) > LAG_S and now - disturbed > RETRY_S:
                self._same(key, table)
                self.holds(key not in self._desired or self._noted_as_configured(daemon, key), "{}: not noted", key)

    def _noted_as_configured(self, daemon: Daemon, key: ServiceKey) -> bool:
        """Return whether the state directory has the servers of the service."""
        assert daemon.engine is not None
        text, configuration = self.world.disk.get(SERVICES_FILE, ""), daemon.engine.configuration
        if self._noted_of[0] != text or self._noted_of[1] is not configuration:
            self._noted_of = text, configuration
            noted = load_owned(Disk(self.world))
            services = daemon.model.services.values()
            self._noted = {
                each
                for service in services
                for each in service.wanted.keys
                if noted.get(each) == frozenset(DestinationKey(name.address, each.port) for name in service.servers)
            }
        return key in self._noted

    def note_due(self, daemon: Daemon) -> bool:
        """Return whether the state directory has each service, or had the time for it since its last change."""
        now, world = self.world.clock.now(), self.world
        for key in self._desired:
            changed_at = max(self._changed_at.get(key, 0.0), world.disturbed_at, world.disturbances.get(key, 0.0))
            if now - changed_at <= NOTE_S and not self._noted_as_configured(daemon, key):
                return False
        return True

    def _foreign_as_left(self) -> None:
        edition = MemoryDirector.edition(self.world.table)
        if not self.world.drawn.hands_off or (self._left[0] == edition and self._left[1] is self.foreign):
            return
        self._left = edition, self.foreign
        found = {row.service.key: row for row in self.world.table.rows()}
        for key, row in self.foreign.items():
            self.holds(found.get(key) == row, "{}: others left it as {}, it is {}", key, row, found.get(key))

    def table(self) -> Rows:
        """Return the actual state, without other programs' services and services of marks."""
        edition = MemoryDirector.edition(self.world.table)
        if self._table_of[0] != edition or self._table_of[1] is not self.foreign:
            self._table_of = edition, self.foreign
            self._table = {
                row.service.key: (
                    row.service,
                    {each.destination.key: each.destination for each in row.destinations},
                )
                for row in self.world.table.rows()
                if row.service.key not in self.foreign and not is_probe_mark(row.service.key.mark)
            }
        return self._table

    def right(self) -> bool:
        """Return whether the table is as desired."""
        return self.table() == self._desired

    def _same(self, key: ServiceKey, table: Rows) -> None:
        found, desired = table.get(key), self._desired.get(key)
        self.holds(found == desired, "the table has {}, desired is {}", _Rows({key: found}), _Rows({key: desired}))

    def converged(self, daemon: Daemon) -> None:
        """Check the table after the bound."""
        self.holds(daemon.steady, "the daemon does not run")
        table = self.table()
        for key in self._desired.keys() | table.keys():
            self._same(key, table)
        probes = {row.service.key for row in self.world.table.rows() if is_probe_mark(row.service.key.mark)}
        through = {row.service.key for row in daemon.host.vip_checks.rows}
        self.holds(probes == through, "services of checks: {}, desired {}", probes, through)
        self.holds(daemon.supervisor.reconciler.last.complete, "the reconciler still has an error")
        for service in daemon.model.services.values():
            for name, server in service.servers.items():
                good = self.world.is_good(last_octet(name))
                alike = not server.checks or server.up == good
                self.holds(alike, "{} of {} is up: {}, good: {}", name, service.number, server.up, good)

    # --- 4: scripts ---

    def scripts(self, daemon: Daemon, complete: bool) -> None:
        """Check that each script began once, in order, or the log has the reason; with `complete` all have ended."""
        listener = daemon.listener
        for subject in sorted(listener.due.keys() | listener.logged.keys() | listener.runs.keys()):
            due = listener.due.get(subject, [])
            logged = listener.logged.get(subject, [])
            runs = listener.runs.get(subject, [])
            if any(ended == "lost" for _, ended in logged):
                continue  # too many waited, and the log has that
            rest = iter(due)
            in_order = all(run.arguments[-1] in rest for run in runs)
            self.holds(in_order, "scripts of {} began out of order: due {}, {}", subject, due, runs)
            surplus = Counter(direction for direction, _ in logged) - Counter(due)
            self.holds(not surplus, "scripts of {} ended too often: due {}, logged {}", subject, due, logged)
            ran = [direction for direction, ended in logged if ended == "ran"]
            missing = Counter(ran) - Counter(run.arguments[-1] for run in runs if run.ended)
            self.holds(not missing, "scripts of {} did not run: {}, {}", subject, logged, runs)
            if complete:
                self.holds(len(logged) == len(due), "scripts of {}: due {}, logged {}", subject, due, logged)

    # --- 7: the end ---

    def after_end(self, daemon: Daemon) -> None:
        """Check everything after an orderly stop."""
        world = self.world
        left = sorted(task.get_name() for task in world.tasks_of(daemon))
        self.holds(not left, "tasks are left: {}", left)
        scripts = [each for each in world.script_processes if each.daemon is daemon]
        self.holds(not any(each.running for each in scripts), "scripts still run")
        self.holds(not world.loop.handlers, "signal handlers are left")
        self.holds(world.disk_owner is None, "the lock of the state directory is held")
        self.holds(not any(check.running for check in daemon.probing), "probes still run")
        if not daemon.options.keep_table and daemon.steady and not daemon.leaving_failed:
            self.holds(not self.table(), "left in the table: {}", _Rows(self.table()))
            self.holds("services" not in world.disk, "the daemon's own services are still noted")
        self._foreign_as_left()


class _Rows:
    """Rows for messages, formatted only if needed."""

    def __init__(self, rows: Mapping[ServiceKey, Any]) -> None:
        self._rows = rows

    def __format__(self, _: str) -> str:
        return str(self)

    def __str__(self) -> str:
        parts = []
        for key, row in self._rows.items():
            if row is None:
                continue
            service, servers = row
            weights = ", ".join(f"{name}={each.weight}" for name, each in servers.items())
            parts.append(f"[{key} {service.scheduler}: {weights}]")
        return " ".join(parts) or "nothing"
