"""Drain servers: give them no new connections, and delete them from the table when their connections have ended.

Drains survive reloads and crashes: the state directory has those that are not over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import fields
from enum import Enum
from functools import partial
from typing import Any

from pylvs.daemon.notifications import EventBus
from pylvs.daemon.state.directory import DRAINS_FILE, StateDirectory
from pylvs.daemon.state.overrides import StateWriter
from pylvs.health.engine import Engine
from pylvs.health.events import NO_OVERRIDE, ServerName, Standing
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.plain import from_plain, to_plain
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import DestinationKey
from pylvs.system import proc
from pylvs.system.logs import get_logger

POLL_S = 0.5
POLLS_ACTIVE_ONLY = 2  # a connection in its handshake counts as inactive; by the second poll it is active or gone
REMEMBERED = 100  # drains that are over

Rows = Callable[[], Awaitable[Sequence[ServiceRow]]]


class Stage(Enum):
    """The progress of a drain."""

    WAITING = "waiting"
    REMOVED = "removed"  # deleted from the table without connections
    FORCED = "forced"  # deleted from the table at the deadline
    LATE = "late"  # the deadline passed with connections; the weight stays 0
    CALLED_OFF = "called off"  # the operator enabled the server, or a reload removed it


@dataclass(slots=True)
class Drain:
    """One drain of one or several servers. `began_at` and `deadline_at` are Unix times; None means no deadline."""

    number: int
    servers: tuple[ServerName, ...]
    began_at: float
    deadline_at: float | None = None
    force: bool = False
    active_only: bool = False  # do not wait for inactive connections
    stage: Stage = Stage.WAITING
    active: int = 0
    inactive: int = 0
    persistent: int = 0  # templates: their clients come back to this server
    most: int = field(default=0, compare=False)  # highest number of connections, for a progress bar
    idle_polls: int = field(default=0, compare=False)  # consecutive polls without connections to wait for
    ends_at: float | None = field(default=None, compare=False)  # the deadline by the monotonic clock

    def encoded(self) -> dict[str, Any]:
        """Return the drain as JSON types, for the API."""
        internal = ("idle_polls", "ends_at")
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in internal}
        servers = [{"service": service, "server": str(server)} for service, server in self.servers]
        return found | {"servers": servers, "stage": self.stage.value}

    def count(self, destinations: Iterable[DestinationRow]) -> None:
        """Update the counts from the table, and note whether there is a connection to wait for."""
        found = tuple(destinations)
        self.active = sum(each.active for each in found)
        self.inactive = sum(each.inactive for each in found)
        self.persistent = sum(each.persistent for each in found)
        connections = self.active + self.inactive
        self.most = max(self.most, connections)
        waits = self.active if self.active_only else connections
        gets_new = any(each.destination.weight for each in found)  # the table has not followed yet
        self.idle_polls = 0 if waits or gets_new else self.idle_polls + 1


@dataclass(frozen=True, slots=True)
class _Saved:
    """The drains that wait; `ends_at` counts in this boot alone."""

    boot: str
    drains: tuple[Drain, ...] = ()


class Drains:
    """All drains of one daemon."""

    def __init__(
        self, engine: Engine, rows: Rows, state: StateDirectory, writer: StateWriter, events: EventBus
    ) -> None:
        self._engine = engine
        self._rows = rows
        self._state = state
        self._writer = writer
        self._events = events
        self._drains: dict[int, Drain] = {}
        self._boot = _boot()
        self._begun = asyncio.Event()
        self._log = get_logger()

    @property
    def error(self) -> str:
        """Why the drains could not be saved."""
        return self._writer.error(DRAINS_FILE)

    def begin(
        self,
        server: DestinationKey | Address,
        service: str | None,
        deadline_s: float | None,
        force: bool,
        active_only: bool = False,
    ) -> Drain:
        """Set weight 0 now; delete the server when it has no connections. Raises what `Engine.drain` raises."""
        names = self._engine.drain(server, service)
        for other in self._waiting():
            rest = tuple(name for name in other.servers if name not in names)
            if not rest:
                self._end(other, Stage.CALLED_OFF)
            other.servers = rest or other.servers
        now = time.time()
        number = max(self._drains, default=0) + 1
        drain = Drain(number, names, now, None if deadline_s is None else now + deadline_s, force, active_only)
        drain.ends_at = None if deadline_s is None else time.monotonic() + deadline_s
        self._drains[number] = drain
        self._begun.set()
        self._forget_old()
        self.save()
        self._events.publish("drain_began", **drain.encoded())
        return drain

    def all(self) -> tuple[Drain, ...]:
        """Return the drains that wait, and the last that are over."""
        return tuple(self._drains.values())

    def resume(self) -> None:
        """At the start, continue the drains of the last daemon. Raises PylvsError."""
        with self._state.decoding(DRAINS_FILE) as content:
            saved = _Saved("") if content is None else from_plain(_Saved, content)
        for drain in saved.drains:
            drain.idle_polls = 0
            if saved.boot != self._boot and drain.deadline_at is not None:
                drain.ends_at = time.monotonic() + max(0.0, drain.deadline_at - time.time())
            self._drains[drain.number] = drain
        self.follow()

    def follow(self) -> None:
        """Continue with servers that have another name since a reload or since the last daemon, also after a crash."""
        waiting = self._waiting()
        now = [tuple(dict.fromkeys(map(self._engine.current_name, drain.servers))) for drain in waiting]
        if now == [drain.servers for drain in waiting]:
            return
        for drain, servers in zip(waiting, now, strict=True):
            drain.servers = servers
        self.save()

    async def run(self) -> None:
        """Until cancelled, poll while a drain waits."""
        while True:
            await self.poll()
            self._begun.clear()
            if self._waiting():
                await asyncio.sleep(POLL_S)
            else:
                await self._begun.wait()

    async def poll(self) -> None:
        """Count connections once, and end the drains that are over."""
        waiting = self._waiting()
        if not waiting:
            return
        rows = await self._rows()
        for drain in waiting:
            if drain.stage is Stage.WAITING:
                self._poll(drain, rows)

    def _poll(self, drain: Drain, rows: Iterable[ServiceRow]) -> None:
        overrides = self._engine.overrides()
        drained = [name for name in drain.servers if overrides.get(name, NO_OVERRIDE).standing is Standing.DRAINED]
        if not drained:
            self._end(drain, Stage.CALLED_OFF)
            return
        services = self._engine.configuration.by_name()
        keys = {
            (key, each.destination.listed_by(key).key)
            for service, server in drained
            for each in services[service].servers
            if each.destination.key == server
            for key in services[service].keys
        }
        drain.count(
            each for row in rows for each in row.destinations if (row.service.key, each.destination.key) in keys
        )
        late = drain.ends_at is not None and time.monotonic() >= drain.ends_at
        if drain.idle_polls >= (POLLS_ACTIVE_ONLY if drain.active_only else 1):
            self._remove(drain, drained, Stage.REMOVED)
        elif late and drain.force:
            self._remove(drain, drained, Stage.FORCED)
        elif late:
            self._end(drain, Stage.LATE)

    def _remove(self, drain: Drain, names: Iterable[ServerName], stage: Stage) -> None:
        for service, server in names:
            self._engine.disable(server, service)
        self._end(drain, stage)

    def _end(self, drain: Drain, stage: Stage) -> None:
        drain.stage = stage
        self.save()
        self._events.publish("drain_ended", **drain.encoded())
        servers = ", ".join(sorted({str(server) for _, server in drain.servers}))
        log = self._log.warning if stage in (Stage.LATE, Stage.FORCED) else self._log.info
        log(f"drain {stage.value}", servers=servers, active=drain.active, inactive=drain.inactive)

    def _waiting(self) -> list[Drain]:
        return [drain for drain in self._drains.values() if drain.stage is Stage.WAITING]

    def _forget_old(self) -> None:
        over = [number for number, drain in self._drains.items() if drain.stage is not Stage.WAITING]
        for number in over[:-REMEMBERED]:
            del self._drains[number]

    def save(self) -> None:
        """Let a thread save the drains that wait when it begins."""
        self._writer.put(DRAINS_FILE, self._prepare)

    def _prepare(self) -> Callable[[], None]:
        waiting = self._waiting()
        content = to_plain(_Saved(self._boot, tuple(waiting))) if waiting else None
        return partial(self._state.write, DRAINS_FILE, content)


def _boot() -> str:
    """Return this boot's identity: the monotonic clock continues until the next boot, and the wall clock may jump."""
    return proc.read("kernel/random/boot_id")
