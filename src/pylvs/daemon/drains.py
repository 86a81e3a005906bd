"""Drains: a server gets nothing new, and leaves the table when what was connected has ended.

They survive a reload and a crash: what is under way is kept with the operator's other words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from ipaddress import ip_address
from typing import Any

from pylvs.daemon.api.news import News
from pylvs.daemon.state_dir import StateDirectory
from pylvs.health.engine import Engine
from pylvs.health.history import ServerName
from pylvs.health.overrides import Standing
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import DestinationKey
from pylvs.model.director import ServiceRow
from pylvs.model.errors import PylvsError, Unsupported
from pylvs.system.logs import get_logger

LOOK_EVERY_S = 0.5
LOOKS_ACTIVE_ONLY = 2  # a connection in its handshake is inactive: at the second look it is active, or given up
REMEMBERED = 100  # drains that are over
KEPT = "drains"

Rows = Callable[[], Awaitable[Sequence[ServiceRow]]]


class Stage(Enum):
    """How far a drain is."""

    WAITING = "waiting"
    REMOVED = "removed"  # nothing is connected any more: out of the table
    FORCED = "forced"  # out of the table at the deadline, connected or not
    LATE = "late"  # the deadline passed with connections: weight stays 0
    CALLED_OFF = "called off"  # the operator, or a reload that took the server away, was there first


@dataclass(slots=True)
class Drain:
    """One order to drain. Times: wall clock, seconds; `deadline_at` None waits for ever."""

    number: int
    servers: tuple[ServerName, ...]
    began_at: float
    deadline_at: float | None = None
    force: bool = False
    active_only: bool = False  # does not wait for inactive connections
    stage: Stage = Stage.WAITING
    active: int = 0
    inactive: int = 0
    persistent: int = 0  # templates: their clients come back to this server
    most: int = field(default=0, compare=False)  # connections that it began with, for a progress bar
    unused: int = field(default=0, compare=False)  # looks in a row that found no connection to wait for
    ends_at: float | None = field(default=None, compare=False)  # the deadline by the monotonic clock

    def encoded(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "number": self.number,
            "servers": [{"service": service, "server": str(server)} for service, server in self.servers],
            "began_at": self.began_at,
            "deadline_at": self.deadline_at,
            "force": self.force,
            "active_only": self.active_only,
            "stage": self.stage.value,
            "active": self.active,
            "inactive": self.inactive,
            "persistent": self.persistent,
            "most": self.most,
        }


class Drains:
    """All drains of one daemon."""

    def __init__(self, engine: Engine, rows: Rows, state: StateDirectory, news: News) -> None:
        self._engine = engine
        self._rows = rows
        self._state = state
        self._news = news
        self._drains: dict[int, Drain] = {}
        self._log = get_logger()

    def begin(
        self,
        server: DestinationKey | Address,
        service: str | None,
        deadline_s: float | None,
        force: bool,
        active_only: bool = False,
    ) -> Drain:
        """Weight 0 now, and out of the table when nothing is connected. Raises as the engine's `drain`."""
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
        self._forget()
        self._keep()
        self._news.tell("drain_began", **drain.encoded())
        return drain

    def all(self) -> tuple[Drain, ...]:
        """Those under way, and the last that are over."""
        return tuple(self._drains.values())

    def resume(self) -> None:
        """At the start: go on with what an earlier daemon had begun. Raises Unsupported."""
        try:
            for row in self._state.read(KEPT) or ():
                names = tuple((name, DestinationKey(ip_address(to), port)) for name, to, port in row["servers"])
                drain = Drain(row["number"], names, row["began_at"], row["deadline_at"], row["force"])
                drain.active_only = row.get("active_only", False)  # older ones did not have it
                if drain.deadline_at is not None:
                    drain.ends_at = time.monotonic() + max(0.0, drain.deadline_at - time.time())
                self._drains[drain.number] = drain
        except (ValueError, TypeError, KeyError) as error:
            raise Unsupported(f"{self._state.file(KEPT)}: damaged ({error}); remove it") from None

    async def run(self) -> None:
        """Look without an end."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Once: count what is connected, and end what is over."""
        waiting = self._waiting()
        if not waiting:
            return
        rows = await self._rows()
        for drain in waiting:
            if drain.stage is Stage.WAITING:
                self._look_at(drain, rows)

    def _look_at(self, drain: Drain, rows: Iterable[ServiceRow]) -> None:
        overrides = self._engine.overrides()
        still = [name for name in drain.servers if self._standing(overrides, name) is Standing.DRAINED]
        if not still:
            self._end(drain, Stage.CALLED_OFF)
            return
        services = self._engine.configuration.by_name()
        keys = {(key, server) for service, server in still for key in services[service].keys}
        found = [each for row in rows for each in row.destinations if (row.service.key, each.destination.key) in keys]
        drain.active = sum(each.active for each in found)
        drain.inactive = sum(each.inactive for each in found)
        drain.persistent = sum(each.persistent for each in found)
        connected = drain.active + drain.inactive
        drain.most = max(drain.most, connected)
        seen = any(each.destination.weight for each in found)  # its weight is not 0 yet: more may come
        late = drain.ends_at is not None and time.monotonic() >= drain.ends_at
        waits = drain.active if drain.active_only else connected
        drain.unused = 0 if waits or seen else drain.unused + 1
        if drain.unused >= (LOOKS_ACTIVE_ONLY if drain.active_only else 1):
            self._remove(drain, still, Stage.REMOVED)
        elif late and drain.force:
            self._remove(drain, still, Stage.FORCED)
        elif late:
            self._end(drain, Stage.LATE)

    @staticmethod
    def _standing(overrides: Any, name: ServerName) -> Standing:
        return overrides[name].standing if name in overrides else Standing.ENABLED

    def _remove(self, drain: Drain, names: Iterable[ServerName], stage: Stage) -> None:
        for service, server in names:
            self._engine.disable(server, service)
        self._end(drain, stage)

    def _end(self, drain: Drain, stage: Stage) -> None:
        drain.stage = stage
        self._keep()
        self._news.tell("drain_ended", **drain.encoded())
        servers = ", ".join(sorted({str(server) for _, server in drain.servers}))
        tell = self._log.warning if stage in (Stage.LATE, Stage.FORCED) else self._log.info
        tell(f"drain {stage.value}", servers=servers, active=drain.active, inactive=drain.inactive)

    def _waiting(self) -> list[Drain]:
        return [drain for drain in self._drains.values() if drain.stage is Stage.WAITING]

    def _forget(self) -> None:
        over = [number for number, drain in self._drains.items() if drain.stage is not Stage.WAITING]
        for number in over[:-REMEMBERED]:
            del self._drains[number]

    def _keep(self) -> None:
        rows = [
            {
                "number": drain.number,
                "servers": [[service, str(server.address), server.port] for service, server in drain.servers],
                "began_at": drain.began_at,
                "deadline_at": drain.deadline_at,
                "force": drain.force,
                "active_only": drain.active_only,
            }
            for drain in self._waiting()
        ]
        try:
            self._state.keep(KEPT, rows)
        except PylvsError as error:
            self._log.error(str(error))
