"""Run the engine in simulated time, with outcomes set by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Any, TypeVar

from pylvs.health.engine import Engine
from pylvs.health.events import Event
from pylvs.health.probes import Outcome, Probe
from pylvs.health.state import ServiceSnapshot
from pylvs.model.checks import Check, Pace, Target, TcpCheck
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, VirtualService
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from tests.unit.health.clock import START_S, FakeTimeLoop

PACE = Pace(delay_loop_s=10, retry=1, delay_before_retry_s=1, warmup_s=0)
OK = Outcome(True, "ok")
DEAD = Outcome(False, "connection refused")
_Event = TypeVar("_Event", bound=Event)


def key(number: int, port: int = 80) -> DestinationKey:
    """Server number N is 10.0.0.N:80."""
    return DestinationKey(ip_address(f"10.0.0.{number}"), port)


def vip(number: int = 1, port: int = 80) -> ServiceKey:
    """Service number N is 192.0.2.N:80 tcp."""
    return ServiceKey(Protocol.TCP, ip_address(f"192.0.2.{number}"), port)


def tcp(number: int, pace: Pace = PACE, port: int = 80) -> TcpCheck:
    """A TCP check of server number N."""
    return TcpCheck(target=Target(ip_address(f"10.0.0.{number}"), port), pace=pace)


def server(number: int, *checks: Check, weight: int = 1, pace: Pace = PACE, **more: Any) -> WantedServer:
    """Server number N, with a TCP check if none is given."""
    return WantedServer(Destination(key(number), weight=weight), checks or (tcp(number, pace),), **more)


def unchecked(number: int, weight: int = 1) -> WantedServer:
    """A server without any check."""
    return WantedServer(Destination(key(number), weight=weight))


def service(*servers: WantedServer, name: str = "web", sorry: int | None = None, **more: Any) -> WantedService:
    """Return the service 192.0.2.1:80, or one with `keys`; `sorry` is the sorry server's number."""
    more.setdefault("keys", (vip(),))
    sorry_server = None if sorry is None else Destination(key(sorry))
    return WantedService(name, servers=servers, sorry_server=sorry_server, **more)


def found(service_key: ServiceKey, *weights: tuple[int, int]) -> ServiceRow:
    """A row of a table found: servers by number with their weights."""
    rows = tuple(DestinationRow(Destination(key(number), weight=weight)) for number, weight in weights)
    return ServiceRow(VirtualService(service_key), rows)


class EngineHarness:
    """An engine in simulated time. `set_outcome` sets the outcomes of probes; the default is good."""

    def __init__(self, *services: WantedService, chance: Callable[[], float] = lambda: 0.5, **engine: Any) -> None:
        self.loop = FakeTimeLoop()
        self.events: list[Event] = []
        self.changes = 0
        self.probes: list[tuple[float, DestinationKey, Check]] = []  # time, server, check
        self.made: list[Check] = []  # checks for which a probe was made
        self.probe_s = 0.0  # how long a probe takes
        self.wall_offset = 0.0
        self._outcomes: dict[DestinationKey | Check, Outcome] = {}
        self.engine = Engine(Configuration(services), self._probe_of, wall=self.wall, chance=chance, **engine)
        self.engine.on_event(self._record_event)
        self.engine.on_change(self._changed)

    def __enter__(self) -> EngineHarness:
        return self

    def __exit__(self, *what: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self.loop.run_until_complete(self.engine.close())
            assert not asyncio.all_tasks(self.loop), "a closed engine has no tasks"
        finally:
            self.loop.close()

    def start(self, seconds: float = 0.5) -> None:
        """Start, and let the first probes run."""

        async def start() -> None:
            self.engine.start()

        self.loop.run_until_complete(start())
        self.pass_(seconds)

    def pass_(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.loop.pass_(seconds)

    def set_outcome(self, probed: int | DestinationKey | Check, outcome: Outcome) -> None:
        """Set the outcome of probes of this server, or of this check of any server."""
        self._outcomes[key(probed) if isinstance(probed, int) else probed] = outcome

    def kill(self, *numbers: int) -> None:
        """Let probes of these servers fail."""
        for number in numbers:
            self.set_outcome(number, DEAD)

    def revive(self, *numbers: int) -> None:
        """Let probes of these servers succeed."""
        for number in numbers:
            self.set_outcome(number, OK)

    def replace(self, *services: WantedService, **settings: Any) -> None:
        """Reload."""
        self.engine.replace(Configuration(services, **settings))

    def table(self, service_key: ServiceKey | None = None) -> dict[int, int]:
        """Return the desired weights of a service's servers by number."""
        for row in self.engine.desired_rows():
            if service_key is None or row.service.key == service_key:
                return {each.key.address.packed[-1]: each.weight for each in row.destinations}
        raise AssertionError(f"{service_key} is not wanted")

    def take(self, kind: type[_Event]) -> list[_Event]:
        """Return and forget the events of a type."""
        taken = [event for event in self.events if isinstance(event, kind)]
        self.events = [event for event in self.events if not isinstance(event, kind)]
        return taken

    def snapshot(self, name: str) -> ServiceSnapshot:
        """Return the state of one service."""
        return next(each for each in self.engine.snapshot() if each.name == name)

    @property
    def probes_running(self) -> int:
        return len(self.engine._scheduler._running)

    def names(self) -> list[str]:
        """Return and forget all events, as text: `server_down 1`, `quorum_lost`."""
        taken, self.events = self.events, []
        return list(event_names(taken))

    def times(self, number: int) -> list[float]:
        """Return when server number N was probed, in seconds since the start."""
        return [when - START_S for when, server_key, _ in self.probes if server_key == key(number)]

    def wait(self, what: Any) -> Any:
        """Run a coroutine of the engine until it ends."""
        return self.loop.run_until_complete(what)

    def wall(self) -> float:
        """The wall clock."""
        return self.loop.time() + 1e9 + self.wall_offset

    def _record_event(self, event: Event) -> None:
        self.events.append(event)

    def _changed(self) -> None:
        self.changes += 1

    def _probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        server_key = server.destination.key
        self.made.append(check)

        async def probe() -> Outcome:
            self.probes.append((self.loop.time(), server_key, check))
            if self.probe_s:
                await asyncio.sleep(self.probe_s)
            return self._outcomes.get(check) or self._outcomes.get(server_key, OK)

        return probe


def event_names(events: Iterable[Event]) -> Sequence[str]:
    """Return events as text, without those of single checks."""
    shown = [event for event in events if not event.name.startswith("check_")]
    return [event.name + (f" {event.server.address.packed[-1]}" if hasattr(event, "server") else "") for event in shown]
