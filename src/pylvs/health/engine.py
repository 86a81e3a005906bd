"""The health engine: from a configuration and the outcomes of its checks to the table that should be there.

One event loop, no threads. Everything public is called from the loop's thread. Listeners are called after the engine's
state is whole again, so they may ask it anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace as with_

from pylvs.health.adoption import adopt_service
from pylvs.health.assembly import CONFIGURED, Assembly, ProbeOf, Replacement, whom
from pylvs.health.check_state import CheckState
from pylvs.health.events import (
    ChecksResumed,
    ChecksSuspended,
    Event,
    Overridden,
)
from pylvs.health.history import History, ServerName
from pylvs.health.outcome import Outcome
from pylvs.health.overrides import Override, Standing
from pylvs.health.servers import ServerState
from pylvs.health.services import ServiceState
from pylvs.health.snapshots import ServerSnapshot, ServiceSnapshot
from pylvs.health.timetable import Timetable
from pylvs.health.views import server_snapshot, service_snapshot
from pylvs.model.addresses import Address
from pylvs.model.destination import MAX_WEIGHT, DestinationKey
from pylvs.model.director import ServiceRow
from pylvs.model.errors import NoSuchDestination, NoSuchService, OutOfRange
from pylvs.model.wanted import Configuration, WantedRow

log = logging.getLogger(__name__)


class Engine:
    """Runs the checks of a configuration and knows what follows from them.

    Right after it is made it can be asked for `wanted()`; `adopt` and `restore_overrides` come before `start`, if at
    all. `probe_of` makes the probe of a check. `at_once` limits the probes that run at a time (0: no limit); `history`
    is how many events are remembered of each server. `wall` and `chance` are the wall clock and random numbers from 0
    to below 1, for tests.
    """

    def __init__(
        self,
        configuration: Configuration,
        probe_of: ProbeOf,
        *,
        at_once: int = 0,
        history: int = 50,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._wall = wall
        self._chance = chance
        self._timetable = Timetable(at_once)
        self._assembly = Assembly(probe_of, self._outcome)
        self._history = History(history)
        self._services: dict[str, ServiceState] = {}
        self._here: frozenset[Address] | None = None
        self._changed_services: set[str] = set()
        self._event_listeners: list[Callable[[Event], None]] = []
        self._change_listeners: list[Callable[[], None]] = []
        self._answers: dict[CheckState, asyncio.Future[None]] = {}
        self._rows_changed = False  # in what happens just now
        self._started = False
        self.configuration = configuration
        self._assemble(configuration)

    # Life

    def start(self) -> None:
        """Checks run from here on, in the running event loop. Tells of each service's first quorum."""
        self._started = True
        self._assembly.first_counts = False
        self._timetable.start(asyncio.get_running_loop())
        at = self._wall()
        events: list[Event] = []
        for service in self._services.values():
            events += self._settled(service, "start", at)
        self._tell([*events, *self._suspensions()])

    def farewell(self, reason: str = "pylvs stops") -> None:
        """Tell of the end of servers and quorums that are up, for services with omega; the table stays as it is."""
        events: list[Event] = []
        at = self._wall()
        for service in self._services.values():
            if service.wanted.omega:
                events += service.last_words(service.servers.values(), True, reason, at)
        self._tell(events)

    def stop(self) -> None:
        """No more probes, no more events."""
        self._started = False
        self._timetable.stop()

    async def close(self) -> None:
        """`stop`, and wait until probes that ran have put away their sockets and children."""
        self.stop()
        await self._timetable.close()

    # The table

    def wanted(self) -> tuple[WantedRow, ...]:
        """The table that should be there now, in the order of the configuration."""
        return tuple(row for service in self._services.values() for row in service.rows())

    def rows_of(self, service: str) -> tuple[WantedRow, ...]:
        """The rows of one service by its configured name; none for one that is not (any more) configured."""
        return self._services[service].rows() if service in self._services else ()

    def take_changed(self) -> frozenset[str]:
        """The names of services whose rows changed, appeared or went since the last call."""
        changed = frozenset(self._changed_services)
        self._changed_services.clear()
        return changed

    def adopt(self, rows: Iterable[ServiceRow]) -> None:
        """Before `start`, take over what a table found says, as after a crash.

        A server with checks that is absent from a service that is there, or has weight 0 while it inhibits, stays down
        until it is checked; one that is there is up, alpha or not, with the weight it has if a check may have set it.
        A sorry server found there serves on.
        """
        found = {row.service.key: row for row in rows}
        for service in self._services.values():
            row = next((found[key] for key in service.wanted.keys if key in found), None)
            if row is not None:
                adopt_service(service, row)

    # Configuration

    def replace(self, configuration: Configuration) -> Replacement:
        """A reload: what did not change keeps its state, timers, history and weight; what it came to.

        A changed check starts anew, and its server stays as it was until the first outcome. New services and servers
        begin as at the start. Overrides stay with the servers that stay.
        """
        return self._assemble(configuration)

    def addresses_here(self, addresses: Collection[Address]) -> None:
        """The machine's addresses now: services with ha_suspend are checked only while theirs is among them.

        Never called: all are checked.
        """
        self._here = frozenset(addresses)
        self._tell(self._suspensions())

    # The operator's word

    def drain(self, server: DestinationKey | Address, service: str | None = None) -> tuple[ServerName, ...]:
        """Weight 0 until `enable`: what is connected stays, nothing new comes.

        An address alone means each of its ports; no service means each that has the server. Answers with the servers
        meant. Raises NoSuchService, NoSuchDestination, as all of these do.
        """
        return self._override(server, service, lambda old: with_(old, standing=Standing.DRAINED), "drained")

    def disable(self, server: DestinationKey | Address, service: str | None = None) -> tuple[ServerName, ...]:
        """Out of the table until `enable`; its checks go on."""
        return self._override(server, service, lambda old: with_(old, standing=Standing.DISABLED), "disabled")

    def enable(self, server: DestinationKey | Address, service: str | None = None) -> tuple[ServerName, ...]:
        """Take `drain` and `disable` back; a weight that was set stays."""
        return self._override(server, service, lambda old: with_(old, standing=Standing.ENABLED), "enabled")

    def set_weight(
        self, server: DestinationKey | Address, weight: int | None, service: str | None = None
    ) -> tuple[ServerName, ...]:
        """This weight, whatever checks say; None: the checks' and the configuration's again. Raises OutOfRange too."""
        if weight is not None and not 0 <= weight <= MAX_WEIGHT:
            raise OutOfRange(f"weight {weight}: must be from 0 to {MAX_WEIGHT}")
        words = "weight auto" if weight is None else f"weight {weight}"
        return self._override(server, service, lambda old: with_(old, weight=weight), words)

    async def check_now(
        self, server: DestinationKey | Address | None = None, service: str | None = None
    ) -> tuple[ServerSnapshot, ...]:
        """Ask at once instead of at the next due time, and wait for one outcome of each check; how things stand then.

        No server means all of the service, neither means all there are. Suspended checks are left alone.
        """
        chosen = [self._services[name].servers[key] for name, key in self.named(server, service)]
        states = {link.state for each in chosen for link in each.links if not link.state.slot.paused}
        answers = []
        for state in states:
            if state not in self._answers:
                self._answers[state] = asyncio.get_running_loop().create_future()
            answers.append(self._answers[state])
            self._timetable.put(state.slot, 0.0)
        if answers:
            await asyncio.wait(answers)
        return tuple(snapshot for each in chosen if (snapshot := self._snapshot(each)) is not None)

    def named(
        self, server: DestinationKey | Address | None = None, service: str | None = None
    ) -> tuple[ServerName, ...]:
        """The servers that these words mean. Raises NoSuchService, NoSuchDestination."""
        if service is not None and service not in self._services:
            raise NoSuchService(f"{service}: no such service in the configuration")
        services = list(self._services.values()) if service is None else [self._services[service]]
        found = tuple(
            (each.wanted.name, key)
            for each in services
            for key in each.servers
            if server is None or key == server or key.address == server
        )
        if not found and server is not None:
            where = f"service {service}" if service is not None else "any service"
            raise NoSuchDestination(f"{server}: no such real server in {where} of the configuration")
        return found

    def overrides(self) -> Mapping[ServerName, Override]:
        """Everything that the operator said and did not take back."""
        return {
            (name, key): server.override
            for name, service in self._services.items()
            for key, server in service.servers.items()
            if server.override
        }

    def restore_overrides(self, overrides: Mapping[ServerName, Override]) -> tuple[ServerName, ...]:
        """Before `adopt` and `start`: say again what was said to an earlier engine; those whom it still concerns."""
        known = []
        for (name, key), override in overrides.items():
            if name in self._services and key in self._services[name].servers:
                server = self._services[name].servers[key]
                server.override = override
                server.told_weight = server.weight()
                known.append((name, key))
        for name in {name for name, _ in known}:
            self._services[name].prepare()
        return tuple(known)

    # Who listens, and how things stand

    def on_event(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; calling what this returns ends it."""
        self._event_listeners.append(listener)
        return lambda: self._event_listeners.remove(listener)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when `wanted()` has changed, once for all that changed at one time; ended like `on_event`."""
        self._change_listeners.append(listener)
        return lambda: self._change_listeners.remove(listener)

    def tally(self) -> tuple[int, int, int]:
        """How many services and real servers there are, and how many of the latter are down."""
        servers = [server for service in self._services.values() for server in service.servers.values()]
        return len(self._services), len(servers), sum(not server.up for server in servers)

    def snapshot(self) -> tuple[ServiceSnapshot, ...]:
        """How everything stands, in the order of the configuration."""
        now = self._timetable.now
        return tuple(service_snapshot(service, now) for service in self._services.values())

    def service_snapshot(self, service: str) -> ServiceSnapshot:
        """How one service stands. Raises NoSuchService."""
        if service not in self._services:
            raise NoSuchService(f"{service}: no such service in the configuration")
        return service_snapshot(self._services[service], self._timetable.now)

    def history(self, server: DestinationKey | Address, service: str | None = None) -> tuple[Event, ...]:
        """The last events of a server in all its services, or one, oldest first. Raises as `drain`."""
        events = [event for name in self.named(server, service) for event in self._history.of_server(name)]
        return tuple(sorted(events, key=lambda event: event.at))

    def service_history(self, service: str) -> tuple[Event, ...]:
        """The last events of a service's quorum, oldest first."""
        return self._history.of_service(service)

    @property
    def probes_running(self) -> int:
        """Probes that run now."""
        return self._timetable.running

    # What happens inside

    def _assemble(self, configuration: Configuration) -> Replacement:
        at = self._wall()
        old = self._services
        renew = whom(configuration.settings) != whom(self.configuration.settings)
        built = self._assembly.build(old, configuration, renew, at)
        self._services, self.configuration = built.services, configuration
        for state in built.ended:
            self._timetable.remove(state.slot)
            self._answer(state)
        for state in built.begun:
            self._timetable.put(state.slot, self._chance() * state.check.pace.warmup_s)
        if built.replacement.removed or built.replacement.servers_removed:
            servers = {(name, key) for name, each in built.services.items() for key in each.servers}
            self._history.keep(built.services, servers)
        self._changed_services |= old.keys() ^ built.services.keys()
        self._rows_changed |= old.keys() != built.services.keys()
        if self._started:
            events = built.events
            for service in built.touched:
                events += self._settled(service, CONFIGURED, at)
            self._tell([*events, *self._suspensions(built.touched)])
        else:
            for service in built.touched:
                service.prepare()
        return built.replacement

    def _outcome(self, state: CheckState, outcome: Outcome) -> float:
        """A probe answered; the seconds until the next."""
        at = self._wall()
        good, weight, inconclusive = state.good, state.weight, state.inconclusive
        delay = state.delay_after(outcome, at)
        if state in self._answers:
            self._answer(state)
        if outcome.inconclusive:
            if inconclusive:
                return delay
        elif state.good is good and state.weight == weight and (outcome.ok or good is False):
            return delay  # as ever: the way of almost all outcomes
        events: list[Event] = []
        for server in state.servers:
            events += server.told(state, good, outcome, at)
            events += self._settled(self._services[server.service], f"{server.key}: {outcome.reason}", at, server)
        self._tell(events)
        return delay

    def _answer(self, state: CheckState) -> None:
        """Who waits for this check to answer waits no more."""
        answer = self._answers.pop(state, None)
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _settled(self, service: ServiceState, reason: str, at: float, server: ServerState | None = None) -> list[Event]:
        """The quorum after a server changed; notes whether the rows did."""
        if server is not None:
            service.count((server,))
        events = list(service.settle(reason, at))
        if service.renew_rows():
            self._changed_services.add(service.wanted.name)
            self._rows_changed = True
        return events

    def _override(
        self,
        server: DestinationKey | Address,
        service: str | None,
        change: Callable[[Override], Override],
        words: str,
    ) -> tuple[ServerName, ...]:
        names = self.named(server, service)
        at = self._wall()
        reason = f"the operator: {words}"
        events: list[Event] = []
        for name, key in names:
            state = self._services[name].servers[key]
            override = change(state.override)
            if override == state.override:
                continue
            state.override = override
            events.append(Overridden(at=at, service=name, server=key, reason=reason, override=override))
            events += state.moved(reason, at)
            events += self._settled(self._services[name], reason, at, state)
        self._tell(events)
        return names

    def _suspensions(self, touched: Iterable[ServiceState] = ()) -> list[Event]:
        """Stop and resume checks as the machine's addresses say; of services `touched` by a reload in any case."""
        at = self._wall()
        events: list[Event] = []
        look = dict.fromkeys(touched)
        for name, service in self._services.items():
            suspended = service.suspended_with(self._here)
            if suspended == service.suspended:
                continue
            look[service] = None
            service.suspended = suspended
            kind = ChecksSuspended if suspended else ChecksResumed
            reason = "its address is not here" if suspended else "its address is here"
            events.append(kind(at=at, service=name, reason=reason))
        servers = [server for service in look for server in service.servers.values()]
        for state in dict.fromkeys(link.state for server in servers for link in server.links):
            self._suspend(state)
        return events

    def _suspend(self, state: CheckState) -> None:
        """Stop the check if all the services that have it are suspended, else let it go on."""
        suspended = all(self._services[server.service].suspended for server in state.servers)
        if suspended and not state.slot.paused:
            self._timetable.pause(state.slot)
            self._answer(state)
        elif state.slot.paused and not suspended:
            self._timetable.resume(state.slot, self._chance() * state.check.pace.warmup_s)

    def _snapshot(self, server: ServerState) -> ServerSnapshot | None:
        service = self._services.get(server.service)
        if service is None or service.servers.get(server.key) is not server:
            return None  # a reload took it away meanwhile
        return server_snapshot(server, service.sorry, self._timetable.now)

    def _tell(self, events: Iterable[Event]) -> None:
        """Remember, then call who listens; a listener's fault is its own."""
        for event in events:
            self._history.add(event)
            for listener in tuple(self._event_listeners):
                try:
                    listener(event)
                except Exception:
                    log.exception("a listener to %s failed", event.name)
        if not self._rows_changed:
            return
        self._rows_changed = False
        for changed in tuple(self._change_listeners):
            try:
                changed()
            except Exception:
                log.exception("a listener to changes of the table failed")
