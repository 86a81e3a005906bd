"""The events of a simulation: the seed determines kinds and times before it begins, and details later."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from pylvs.config.language.tree import Finding, Location, Severity
from pylvs.daemon.loading import Loaded
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, VirtualService
from tests.unit.daemon.simulation.configurations import SERVICES, real, vip
from tests.unit.daemon.simulation.faults import Faults

if TYPE_CHECKING:
    from tests.unit.daemon.simulation.world import World

FOREIGN = (
    ServiceKey.of_mark(7),
    ServiceKey.of_mark(8),
    ServiceKey(Protocol.TCP, ip_address("198.51.100.1"), 80),
)
MODES = ("good", "good", "good", "dead", "dead", "flapping", "slow", "broken")


class Schedule:
    """The events of one seed; `calm` ends all faults."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng: random.Random = world.rng
        self.length_s = self.rng.uniform(8.0, 30.0)
        self.last_reload = False
        self._faults: list[Callable[[Faults], None]] = []

    def set(self) -> None:
        """Schedule events before the start of the daemon, and after it."""
        rng, world = self.rng, self.world
        for _ in range(rng.choice((0, 0, 1, 2))):
            world.edit_as_others()
        for number in world.truth:
            self._server_changes(number)
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._a_server_changes, 10),
            (self._fault, 4),
            (self._operator, 4),
            (self._reload, 3),
            (self._others, 2),
            (self._script_process, 2),
            (self._addresses, 1),
            (self._kill, 1),
            (self._restart, 1),
        ]
        calls, weights = zip(*kinds, strict=True)
        chosen = rng.sample(range(len(calls)), rng.randint(2, len(calls)))  # a seed has some kinds of events only
        for _ in range(rng.randint(3, 25)):
            call = rng.choices([calls[each] for each in chosen], [weights[each] for each in chosen])[0]
            world.loop.call_later(rng.uniform(0.0, self.length_s), self._now, call)

    def _now(self, call: Callable[[], None]) -> None:
        if not self.world.quiet and not self.world.over:
            call()

    def calm(self) -> None:
        """End all faults."""
        world, rng = self.world, self.rng
        world.quiet = True
        world.faults = Faults()
        world.disturbed()
        for truth in world.truth.values():
            truth.mode = rng.choice(("good", "good", "dead"))
        for process in world.script_processes:
            process.daemon.run(process.calm)
        world.unhung.set()
        self._connections(0)
        world.file = replace(world.file, findings=())
        world.here = [vip(number) for number in range(1, SERVICES + 1)]
        self._addresses_changed()
        if rng.random() < 0.5 and world.daemon.steady:
            self.last_reload = True
            self._ask_reload()

    # --- servers ---

    def _a_server_changes(self) -> None:
        self._server_changes(self.rng.choice(list(self.world.truth)))

    def _server_changes(self, number: int) -> None:
        truth = self.world.truth[number]
        truth.mode, truth.weight = self.rng.choice(MODES), self.rng.choice((0, 1, 2, 4))
        self.world.note("server {} is {}, weight {}", number, truth.mode, truth.weight)

    def _addresses(self) -> None:
        every = [vip(number) for number in range(1, SERVICES + 1)]
        self.world.here = self.rng.sample(every, self.rng.randint(0, len(every)))
        self.world.note("addresses here: {}", [str(each) for each in self.world.here])
        self._addresses_changed()

    def _addresses_changed(self) -> None:
        changed = self.world.daemon.host_changed
        if changed is not None:
            self.world.daemon.run(changed.set)

    # --- faults ---

    def _fault(self) -> None:
        rng, world = self.rng, self.world
        faults = world.faults
        rows = world.table.rows()
        share = rng.choice((0.2, 0.5, 1.0))
        kinds: dict[str, dict[str, Any]] = {
            "refuse": {"refuse": share, "refuse_key": None},
            "refuse one": {"refuse": share, "refuse_key": rng.choice(rows).service.key if rows else None},
            "break": {"breaks": share},
            "lock": {"locked": share, "locked_s": rng.choice((0.0, 0.5, 5.0))},
            "unreadable": {"unreadable": share},
            "full": {"most": rng.randint(0, 8)},
            "slow edits": {"edit_s": rng.choice((0.01, 0.3, 2.0))},
            "slow lock": {"lock_s": rng.choice((0.05, 1.0))},
            "meddling": {"meddling": share},
            "kill between edits": {"kill_in": rng.randint(0, 4)},
            "disk": {"disk": share},
            "no process": {"no_process": share},
            "scripts hang": {"scripts": share},
        }
        name = rng.choice(list(kinds))
        fields = kinds[name]
        for field, value in fields.items():
            setattr(faults, field, value)
        world.disturbed()
        world.note("fault begins: {} {}", name, fields)

        def lift() -> None:
            if world.quiet:
                return
            for field in fields:
                setattr(world.faults, field, getattr(Faults(), field))
            world.disturbed()
            world.note("fault ends: {}", name)

        world.loop.call_later(rng.uniform(0.1, 12.0), lift)

    def _script_process(self) -> None:
        """Kill a helper process, or stop it for a while, or both."""
        world, rng = self.world, self.rng
        alive = [each for each in world.script_processes if not each.over]
        if not alive:
            return
        process = rng.choice(alive)
        kind = rng.random()
        world.note("the process that runs scripts is {}", "killed" if kind < 0.6 else "stopped")
        if kind < 0.6:
            process.daemon.run(process.kill)
            return
        process.stop()
        then = process.go_on if kind < 0.8 else process.kill
        world.loop.call_later(rng.uniform(0.1, 5.0), lambda: process.daemon.run(then))

    def _kill(self) -> None:
        world = self.world
        if not world.daemon.task.done():
            world.note("kill -9")
            world.daemon.kill()
            world.disturbed()

    def _restart(self) -> None:
        """systemctl restart."""
        self.world.disturbed()
        self.world.terminate()

    # --- operators ---

    def _reload(self) -> None:
        world, rng = self.world, self.rng
        fatal = rng.random() < 0.15
        location = Location("test.conf", 1, 1)
        findings = (Finding(location, Severity.ERROR, "not a word", fatal=True),) if fatal else ()
        world.file = Loaded(self.drawn_change(), findings)
        if not world.daemon.steady:
            return
        if rng.random() < 0.3:
            world.disturbed()
            world.note("SIGHUP")
            world.loop.signal_(signal.SIGHUP)
        else:
            self._ask_reload(dry_run=rng.random() < 0.1)

    def drawn_change(self) -> Any:
        """Draw a changed configuration."""
        return self.world.drawn.changed(self.world.file.configuration)

    def _ask_reload(self, dry_run: bool = False) -> None:
        daemon, world = self.world.daemon, self.world

        async def reload() -> None:
            daemon.reloads_under_way += 1
            world.disturbed()
            try:
                await daemon.supervisor.reload(dry_run)
            finally:
                daemon.reloads_under_way -= 1
                world.disturbed()

        world.note("reload is asked for{}", " (dry run)" if dry_run else "")
        daemon.ask(reload, "reload")

    def _operator(self) -> None:
        """Make one operator command about a server."""
        world, rng, daemon = self.world, self.rng, self.world.daemon
        engine = daemon.engine
        if not daemon.steady or engine is None:
            return
        names = engine.named()
        if not names:
            return
        service, key = rng.choice(names)
        where: DestinationKey | Any = key if rng.random() < 0.7 else key.address
        of = service if rng.random() < 0.6 else None
        weight = rng.choice((None, 0, 1, 7))
        deadline_s, force = rng.choice((None, 0.0, 2.0, 10.0)), rng.random() < 0.5
        commands: dict[str, Callable[[], Any]] = {
            "drain": lambda: engine.drain(where, of),
            "disable": lambda: engine.disable(where, of),
            "enable": lambda: engine.enable(where, of),
            f"weight {weight}": lambda: engine.set_weight(where, weight, of),
            f"drain, deadline {deadline_s}, force {force}": lambda: daemon.supervisor.drains.begin(
                where, of, deadline_s, force
            ),
        }
        command = rng.choice([*commands, "check-now"])
        world.note("operator: {} {} {}", command, where, of)
        if command == "check-now":
            engine.asked_now(where, of)
            daemon.ask(lambda: engine.check_now(where, of), command)
            return
        if command.startswith("drain,"):
            self._connections(rng.randint(0, 3))
        daemon.run(commands[command])
        daemon.ask(daemon.settle, command)
        if command.startswith("drain,"):
            world.loop.call_later(rng.uniform(0.5, 8.0), self._connections, 0)

    def _connections(self, active: int) -> None:
        """Set the active connections of all servers."""
        table = self.world.table
        for row in table.rows():
            for destination in row.destinations:
                if row.service.key not in FOREIGN:
                    table.count(row.service.key, destination.destination.key, active=active)

    # --- others ---

    def _others(self) -> None:
        world = self.world
        busy_until = max((pool.busy_until for pool in world.daemon.pools), default=0.0)
        if busy_until > world.clock.now():  # ipvsadm waits for the lock
            world.loop.call_at(busy_until + 0.001, self._now, self._others)
            return
        world.edit_as_others()

    def edit_as_others(self) -> None:
        """Make one edit by another program."""
        self.world.forget_table()
        with contextlib.suppress(PylvsError):
            self._edit_as_others()
        world = self.world
        world.invariants.foreign = {row.service.key: row for row in world.table.rows() if row.service.key in FOREIGN}

    def _edit_as_others(self) -> None:
        world, rng, table = self.world, self.rng, self.world.table
        rows = table.rows()
        own = [row for row in rows if row.service.key not in FOREIGN]
        if rng.random() < 0.5 or not own:
            self._edit_foreign(rng.choice(FOREIGN))
            return
        row = rng.choice(own)
        key = row.service.key
        kind = rng.choice(("delete", "destination", "weight", "foreign", "scheduler", "flush", "down"))
        world.note("others: {} {}", kind, key)
        world.disturbed()
        if kind == "delete":
            table.delete_service(key)
        elif kind == "foreign":
            table.add_destination(key, Destination(real(99)))
        elif kind == "scheduler":
            table.edit_service(replace(row.service, scheduler="lc"))
        elif kind == "flush" and rng.random() < 0.3:
            table.flush()
        elif kind == "down" and rng.random() < 0.3:
            table.take_away()
        elif row.destinations:
            destination = rng.choice(row.destinations).destination
            if kind == "destination":
                table.delete_destination(key, destination.key)
            else:
                table.edit_destination(key, replace(destination, weight=destination.weight + 1))

    def _edit_foreign(self, key: ServiceKey) -> None:
        table, rng = self.world.table, self.rng
        self.world.note("others edit {}", key)
        table.gone = False
        here = {row.service.key: row for row in table.rows()}
        self.world.disturbed()
        if key not in here:
            table.add_service(VirtualService(key, rng.choice(("rr", "wlc"))))
        elif rng.random() < 0.3:
            table.delete_service(key)
        elif len(here[key].destinations) < 2:
            table.add_destination(key, Destination(real(50 + len(here[key].destinations))))
        else:
            table.delete_destination(key, here[key].destinations[0].destination.key)
