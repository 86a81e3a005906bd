"""The health engine: from a configuration and the outcomes of its checks to the table that should be there.

One event loop, no threads. Everything public is called from the loop's thread. Listeners are called after the engine's
state is whole again, so they may ask it anything.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace as with_

from pylvs.health.events import (
    ChecksResumed,
    ChecksSuspended,
    Event,
    EventDispatcher,
    Overridden,
    Override,
    ServerName,
    Standing,
)
from pylvs.health.outcome import Outcome
from pylvs.health.probe_scheduler import ProbeScheduler, descriptor_limit
from pylvs.health.servers import CheckState, ServerState
from pylvs.health.services import ServiceRegistry, ServiceState
from pylvs.health.snapshots import ServerSnapshot, ServiceSnapshot, server_snapshot, service_snapshot
from pylvs.health.state_builder import CONFIGURED, ProbeOf, ReplaceResult, StateBuilder, adopt_service, script_identity
from pylvs.model.addresses import Address
from pylvs.model.destination import MAX_WEIGHT, DestinationKey
from pylvs.model.director import ServiceRow
from pylvs.model.errors import OutOfRange
from pylvs.model.wanted import Configuration, WantedRow


class Engine:
    """Runs the checks of a configuration and knows what follows from them.

    Right after it is made it can be asked for `wanted()`; `adopt` and `restore_overrides` come before `start`, if at
    all. `probe_of` makes the probe of a check. `at_once` limits the probes that run at a time (None: by this process's
    file descriptors; 0: no limit); `history` is how many events are remembered of each server. `wall` and `chance` are
    the wall clock and random numbers from 0 to below 1, for tests.
    """

    def __init__(
        self,
        configuration: Configuration,
        probe_of: ProbeOf,
        *,
        at_once: int | None = None,
        history: int = 50,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._wall = wall
        self._chance = chance
        self._timetable = ProbeScheduler(descriptor_limit() if at_once is None else at_once)
        self._assembly = StateBuilder(probe_of, self._outcome)
        self._bulletin = EventDispatcher(history)
        self._roster = ServiceRegistry({})
        self._here: frozenset[Address] | None = None
        self._answers: dict[CheckState, asyncio.Future[None]] = {}
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
        for service in self._roster:
            events += self._settled(service, "start", at)
        self._bulletin.tell([*events, *self._suspensions()])

    def announce_stop(self, reason: str = "pylvs stops") -> None:
        """Tell of the end of servers and quorums that are up, for services with omega; the table stays as it is."""
        events: list[Event] = []
        at = self._wall()
        for service in self._roster:
            if service.wanted.omega:
                events += service.last_words(service.servers.values(), True, reason, at)
        self._bulletin.tell(events)

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
        return tuple(row for service in self._roster for row in service.rows())

    def adopt(self, rows: Iterable[ServiceRow]) -> None:
        """Before `start`, take over what a table found says, as after a crash.

        A server with checks that is absent from a service that is there, or has weight 0 while it inhibits, stays down
        until it is checked; one that is there is up, alpha or not, with the weight it has if a check may have set it.
        A sorry server found there serves on.
        """
        found = {row.service.key: row for row in rows}
        for service in self._roster:
            row = next((found[key] for key in service.wanted.keys if key in found), None)
            if row is not None:
                adopt_service(service, row)

    # Configuration

    def replace(self, configuration: Configuration) -> ReplaceResult:
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
        self._bulletin.tell(self._suspensions())

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
        chosen = self._roster.named(server, service)
        states = dict.fromkeys(link.state for each in chosen for link in each.links if not link.state.slot.paused)
        answers = []
        for state in states:
            if state not in self._answers:
                self._answers[state] = asyncio.get_running_loop().create_future()
            answers.append(self._answers[state])
            self._timetable.put(state.slot, 0.0)
        if answers:
            await asyncio.wait(answers)
        now, still = self._timetable.now, [each for each in chosen if self._roster.has(each)]
        return tuple(server_snapshot(each, self._roster.service(each.service).sorry, now) for each in still)

    def named(
        self, server: DestinationKey | Address | None = None, service: str | None = None
    ) -> tuple[ServerName, ...]:
        """The servers that these words mean. Raises NoSuchService, NoSuchDestination."""
        return tuple(each.name for each in self._roster.named(server, service))

    def overrides(self) -> Mapping[ServerName, Override]:
        """Everything that the operator said and did not take back."""
        return self._roster.overrides()

    def restore_overrides(self, overrides: Mapping[ServerName, Override]) -> tuple[ServerName, ...]:
        """Before `adopt` and `start`: say again what was said to an earlier engine; those whom it still concerns."""
        return self._roster.restore(overrides)

    # Who listens, and how things stand

    def on_event(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with every event from now on; calling what this returns ends it."""
        return self._bulletin.on_event(listener)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when `wanted()` has changed, once for all that changed at one time; ended like `on_event`."""
        return self._bulletin.on_change(listener)

    def tally(self) -> tuple[int, int, int]:
        """How many services and real servers there are, and how many of the latter are down."""
        servers = list(self._roster.servers())
        return len(self._roster.services), len(servers), sum(not server.up for server in servers)

    def snapshot(self) -> tuple[ServiceSnapshot, ...]:
        """How everything stands, in the order of the configuration."""
        now = self._timetable.now
        return tuple(service_snapshot(service, now) for service in self._roster)

    def service_snapshot(self, service: str) -> ServiceSnapshot:
        """How one service stands. Raises NoSuchService."""
        return service_snapshot(self._roster.service(service), self._timetable.now)

    def history(self, server: DestinationKey | Address, service: str | None = None) -> tuple[Event, ...]:
        """The last events of a server in all its services, or one, oldest first. Raises as `drain`."""
        history = self._bulletin.history
        events = [event for name in self.named(server, service) for event in history.of_server(name)]
        return tuple(sorted(events, key=lambda event: event.at))

    @property
    def probes_running(self) -> int:
        """Probes that run now."""
        return self._timetable.running

    # What happens inside

    def _assemble(self, configuration: Configuration) -> ReplaceResult:
        at = self._wall()
        renew = script_identity(configuration.settings) != script_identity(self.configuration.settings)
        built = self._assembly.build(self._roster.services, configuration, renew, at)
        self._roster, self.configuration = ServiceRegistry(built.services), configuration
        for state in built.ended:
            self._timetable.remove(state.slot)
            self._answer(state)
        for state in built.begun:
            self._timetable.put(state.slot, self._chance() * state.check.pace.warmup_s)
        if built.replacement.removed or built.replacement.servers_removed:
            self._bulletin.history.keep({server.name for server in self._roster.servers()})
        if not self._started:
            for service in built.touched:
                service.prepare()
            return built.replacement
        self._bulletin.changed |= bool(built.replacement.added or built.replacement.removed)
        events = built.events
        for service in built.touched:
            events += self._settled(service, CONFIGURED, at)
        self._bulletin.tell([*events, *self._suspensions(built.touched)])
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
            service = self._roster.services[server.service]
            events += self._settled(service, f"{server.key}: {outcome.reason}", at, server)
        self._bulletin.tell(events)
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
        self._bulletin.changed |= service.changed(server)
        return events

    def _override(
        self,
        server: DestinationKey | Address,
        service: str | None,
        change: Callable[[Override], Override],
        words: str,
    ) -> tuple[ServerName, ...]:
        chosen = self._roster.named(server, service)
        at = self._wall()
        reason = f"the operator: {words}"
        events: list[Event] = []
        for each in chosen:
            override = change(each.override)
            if override == each.override:
                continue
            each.override = override
            events.append(Overridden(at=at, service=each.service, server=each.key, reason=reason, override=override))
            events += each.moved(reason, at)
            events += self._settled(self._roster.service(each.service), reason, at, each)
        self._bulletin.tell(events)
        return tuple(each.name for each in chosen)

    def _suspensions(self, touched: Iterable[ServiceState] = ()) -> list[Event]:
        """Stop and resume checks as the machine's addresses say; of services `touched` by a reload in any case."""
        at = self._wall()
        events: list[Event] = []
        look = dict.fromkeys(touched)
        for service in self._roster:
            suspended = service.suspended_with(self._here)
            if suspended == service.suspended:
                continue
            look[service] = None
            service.suspended = suspended
            kind = ChecksSuspended if suspended else ChecksResumed
            reason = "its address is not here" if suspended else "its address is here"
            events.append(kind(at=at, service=service.wanted.name, reason=reason))
        servers = [server for service in look for server in service.servers.values()]
        for state in dict.fromkeys(link.state for server in servers for link in server.links):
            self._suspend(state)
        return events

    def _suspend(self, state: CheckState) -> None:
        """Stop the check if all the services that have it are suspended, else let it go on."""
        suspended = all(self._roster.services[server.service].suspended for server in state.servers)
        if suspended and not state.slot.paused:
            self._timetable.pause(state.slot)
            self._answer(state)
        elif state.slot.paused and not suspended:
            self._timetable.resume(state.slot, self._chance() * state.check.pace.warmup_s)
