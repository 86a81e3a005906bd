"""The health engine: from a configuration and the outcomes of its checks to the desired table.

It runs in one event loop; call it from the loop's thread. Listeners are called when the engine's state is consistent
again, so they may call the engine.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace as with_
from typing import Any

from pylvs.health.events import (
    NO_OVERRIDE,
    Event,
    Overridden,
    Override,
    ServerEvent,
    ServerName,
    ServiceIdentity,
    Standing,
)
from pylvs.health.handshake_state import ended, is_judged, judge, may_fail, note_out, restore
from pylvs.health.handshakes import Shaken
from pylvs.health.probes import Outcome, ProbeScheduler, descriptor_limit
from pylvs.health.state import CheckState, ServerSnapshot, ServerState, ServiceSnapshot, ServiceState
from pylvs.health.state_builder import CONFIGURED, ProbeOf, StateBuilder, script_identity
from pylvs.model.addresses import Address
from pylvs.model.checks import BfdCheck
from pylvs.model.errors import NoSuchDestination, NoSuchService, OutOfRange
from pylvs.model.rows import ServiceRow
from pylvs.model.service import MAX_WEIGHT, DestinationKey, moved
from pylvs.model.wanted import Configuration, WantedRow, predecessors

log = logging.getLogger(__name__)


class Engine:
    """Runs the checks of a configuration and derives the desired table.

    `desired_rows()` works before `start`. Call `restore_overrides` and then `adopt`, if at all, before `start`.
    `probe_of` makes the probe of a check. `at_once` limits the probes that run at a time (None: by the limit of open
    files; 0: no limit). `history` is the number of events to remember of each server. `wall` and `chance` are the wall
    clock and random numbers from 0 to below 1, for tests.
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
        self._scheduler = ProbeScheduler(descriptor_limit() if at_once is None else at_once)
        self._builder = StateBuilder(probe_of, self._on_outcome, self._on_same)
        self._services: dict[str, ServiceState] = {}  # in the order of the configuration
        self._history: dict[ServerName, deque[Event]] = {}
        self._renamed: dict[ServerName, ServerName] = {}  # present names of servers that had others
        self._history_length = history
        self._table_changed = False  # since the last `_dispatch`
        self._event_listeners: list[Callable[[Event], None]] = []
        self._change_listeners: list[Callable[[], None]] = []
        self._host_addresses: frozenset[Address] | None = None  # unknown: no check is suspended
        self._awaited: dict[CheckState, asyncio.Future[None]] = {}  # by `check_now`
        self._shaken: Shaken[ServerName] = Shaken({}, {}, {})
        self._judged: set[str] = set()  # services that fail, or have servers that are named or out
        self._started = False
        self.configuration = configuration
        self._build(configuration)

    def start(self) -> None:
        """Run checks in the running event loop, and publish the first quorum of each service."""
        self._started = True
        self._builder.first_counts = False
        self._scheduler.start(asyncio.get_running_loop())
        at = self._wall()
        events: list[Event] = []
        for service in self._services.values():
            events += self._update_quorum(service, "start", at)
        self._dispatch([*events, *self._suspensions()])

    def announce_stop(self, reason: str = "pylvs stops") -> None:
        """Publish the end of servers that are up, and of quorums, for services with omega; the table stays as it is."""
        events: list[Event] = []
        at = self._wall()
        for service in self._services.values():
            if service.wanted.omega:
                events += service.end_events(service.servers.values(), True, reason, at, removed=False)
        self._dispatch(events)

    def stop(self) -> None:
        """Run no more probes, and publish no more events."""
        self._started = False
        self._scheduler.stop()

    async def close(self) -> None:
        """Stop, and wait until cancelled probes have closed their sockets and processes."""
        self.stop()
        await self._scheduler.close()

    def desired_rows(self) -> tuple[WantedRow, ...]:
        """Return the rows of the desired table, in the order of the configuration."""
        return tuple(row for service in self._services.values() for row in service.rows())

    def why_unserved(self, service: str) -> str:
        """Return why a service should get no clients, "" if it serves: with a quorum, and a server that takes them."""
        state = self._services.get(service)
        if state is None:
            return "it is not configured"
        if not state.has_quorum:
            return "it has no quorum"
        if not any(each.weight > 0 for row in state.rows() for each in row.destinations):
            return "no real server takes new connections"
        return ""

    def adopt(self, rows: Iterable[ServiceRow]) -> None:
        """Before `start`, adopt the state that the table shows, as after a crash.

        A server with checks that is not in the table stays down until it is checked. So does one with weight 0 and
        inhibit_on_failure. Others are up, even with alpha, and keep a weight that a check may have set. A sorry server
        in the table keeps getting the connections until checks find enough servers for the quorum.
        """
        found = {row.service.key: row for row in rows}
        for service in self._services.values():
            row = next((found[key] for key in service.wanted.keys if key in found), None)
            if row is not None:
                service.adopt(row)

    def replace(self, configuration: Configuration) -> None:
        """Reload: what did not change keeps its state, timers, history and weight.

        A changed check begins again, and its server keeps its state until the first outcome. New services and servers
        begin as at the start. Servers that stay keep their overrides.
        """
        self._build(configuration)

    def set_host_addresses(self, addresses: Collection[Address]) -> None:
        """Suspend the checks of ha_suspend services without an address among these, and resume the others."""
        self._host_addresses = frozenset(addresses)
        self._dispatch(self._suspensions())

    def drain(self, server: DestinationKey | Address, service: str | None = None) -> tuple[ServerName, ...]:
        """Set weight 0 until `enable`: the server gets no new connections.

        An address means each of its ports; no service means each that has the server. Like the other methods here it
        returns the servers found, and raises NoSuchService, NoSuchDestination.
        """
        return self._override(server, service, lambda old: with_(old, standing=Standing.DRAINED), "drained")

    def disable(self, server: DestinationKey | Address, service: str | None = None) -> tuple[ServerName, ...]:
        """Remove the server from the table until `enable`; its checks continue."""
        return self._override(server, service, lambda old: with_(old, standing=Standing.DISABLED), "disabled")

    def enable(self, server: DestinationKey | Address, service: str | None = None) -> tuple[ServerName, ...]:
        """Revert `drain` and `disable`; a weight that was set stays."""
        return self._override(server, service, lambda old: with_(old, standing=Standing.ENABLED), "enabled")

    def set_weight(
        self, server: DestinationKey | Address, weight: int | None, service: str | None = None
    ) -> tuple[ServerName, ...]:
        """Set a weight instead of that of checks and configuration; None clears it. Also raises OutOfRange."""
        if weight is not None and not 0 <= weight <= MAX_WEIGHT:
            raise OutOfRange(f"weight {weight}: must be from 0 to {MAX_WEIGHT}")
        text = "weight auto" if weight is None else f"weight {weight}"
        return self._override(server, service, lambda old: with_(old, weight=weight), text)

    async def check_now(
        self, server: DestinationKey | Address | None = None, service: str | None = None
    ) -> tuple[ServerSnapshot, ...]:
        """Probe now, wait for an outcome of each check, and return the state of the servers.

        No server means all of the service; neither means all. Suspended checks are not run.
        """
        chosen = self._find(server, service)
        states = dict.fromkeys(link.state for each in chosen for link in each.links if not link.state.scheduled.paused)
        awaited = []
        for state in states:
            if state not in self._awaited:
                self._awaited[state] = asyncio.get_running_loop().create_future()
            awaited.append(self._awaited[state])
            self._scheduler.schedule(state.scheduled, 0.0)
        if awaited:
            await asyncio.wait(awaited)
        now = self._scheduler.now
        left = set(self._servers())  # a reload may have removed some
        return tuple(self._snapshot(each, now) for each in chosen if each in left)

    def _snapshot(self, server: ServerState, now: float) -> ServerSnapshot:
        service = self._services[server.service]
        return server.snapshot(service.sorry, now, self._shaken if service.has_handshakes else None)

    def sessions_changed(self, names: Collection[str]) -> None:
        """Probe now what checks one of these BFD sessions."""
        if not self._started:
            return
        for state in dict.fromkeys(link.state for server in self._servers() for link in server.links):
            if isinstance(state.check, BfdCheck) and state.check.session in names:
                self._scheduler.schedule(state.scheduled, 0.0)

    def judge(self, shaken: Shaken[ServerName]) -> tuple[ServerName, ...]:
        """Judge servers by the handshakes of clients.

        Return the servers whose minute should begin now, because they get connections again.
        """
        at, now = self._wall(), self._scheduler.now
        self._shaken = shaken
        names = dict.fromkeys(self._judged)
        for (name, _), handshakes in shaken.suspects():
            service = self._services.get(name)
            if service is not None and may_fail(service, handshakes):
                names[name] = None
        self._judged.clear()
        events: list[Event] = []
        tried: list[ServerName] = []
        for service in (self._services[name] for name in names if name in self._services):
            out, again = set(service.out), ended(service, now)
            for server in again:
                events += restore(service, server, f"on trial after {server.out_s:g} s", at, now)
            tried += [server.name for server in again]
            minute, recent = (
                {
                    key: window[server.name]
                    for key, server in service.servers.items()
                    if server.name in window and server not in again
                }
                for window in (shaken.minute, shaken.recent)
            )
            events += judge(service, Shaken(minute, recent, {}), at, now)
            if is_judged(service):
                self._judged.add(service.wanted.name)
            if service.out != out:
                events += self._update_quorum(service, "handshake_share", at)
        self._dispatch(events)
        return tuple(tried)

    def overrides(self) -> Mapping[ServerName, Override]:
        """Return the overrides of all servers that have one."""
        return {server.name: server.override for server in self._servers() if server.override != NO_OVERRIDE}

    def identity(self, service: str) -> ServiceIdentity:
        """Return what finds a service of this configuration in another one."""
        state = self._services[service]
        return ServiceIdentity(state.wanted.keys, frozenset(state.servers))

    def restore_overrides(
        self, overrides: Mapping[ServerName, Override], services: Mapping[str, ServiceIdentity]
    ) -> tuple[ServerName, ...]:
        """Before `adopt` and `start`, set overrides of an earlier engine; return the servers that still exist.

        With another configuration a server may have been saved under another port, or its service under another name.
        `services` has the former services by name, each with all servers that it had.
        """
        before = predecessors({name: each.keys for name, each in services.items()}, self.configuration.services)
        for name, former in before.items():
            self._note_former(self._services[name], former, services[former].servers)
        known = []
        for saved, override in overrides.items():
            name, key = self.current_name(saved)
            server = self._services[name].servers.get(key) if name in self._services else None
            if server is not None:
                server.override = override
                server.reported_weight = server.weight()
                known.append(server.name)
        for name in {name for name, _ in known}:
            self._services[name].presume_quorum()
        return tuple(known)

    def current_name(self, name: ServerName) -> ServerName:
        """Return the name of the server that had this one before the last reload, or when its override was saved.

        If it is not known, this is `name`.
        """
        service, key = name
        there = service in self._services and key in self._services[service].servers
        return name if there else self._renamed.get(name, name)

    def _note_former(self, service: ServiceState, former: str, before: Collection[DestinationKey]) -> None:
        """Note the names of a service's servers by those that they had in the earlier engine."""
        keys = moved(before, (each.destination for each in service.wanted.servers))
        was = {key: keys.get(key, key) for key in service.servers}
        self._renamed |= {(former, old): (service.wanted.name, key) for key, old in was.items() if old in before}

    def on_event(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event. Its exceptions are logged."""
        self._event_listeners.append(listener)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after changes of `desired_rows()`, once for simultaneous ones. Its exceptions are logged."""
        self._change_listeners.append(listener)

    def tally(self) -> tuple[int, int, int]:
        """Return the numbers of services, of real servers, and of real servers that are down."""
        servers = self._servers()
        return len(self._services), len(servers), sum(not server.up for server in servers)

    def snapshot(self) -> tuple[ServiceSnapshot, ...]:
        """Return the state of all services, in the order of the configuration."""
        now = self._scheduler.now
        return tuple(service.snapshot(now, self._shaken) for service in self._services.values())

    def history(self, server: DestinationKey | Address, service: str | None = None) -> tuple[Event, ...]:
        """Return the last events of a server, oldest first. Raises as `drain`."""
        events = [event for each in self._find(server, service) for event in self._history.get(each.name, ())]
        return tuple(sorted(events, key=lambda event: event.at))

    def _build(self, configuration: Configuration) -> None:
        at = self._wall()
        before = self._services
        renew = script_identity(configuration.settings) != script_identity(self.configuration.settings)
        built = self._builder.build(before, configuration, renew, at)
        self._services, self.configuration = built.services, configuration
        for state in built.ended:
            self._scheduler.remove(state.scheduled)
            self._wake_waiter(state)
        for state in built.renewed:
            self._scheduler.probe_replaced(state.scheduled)
        for state in built.begun:
            self._scheduler.schedule(state.scheduled, self._chance() * state.check.pace.warmup_s)
        for service in built.touched:
            note_out(service)
        self._judged = {name for name, service in built.services.items() if is_judged(service)}
        names = {server.name for server in self._servers()}
        former = {name: built.former.get(name, name) for name in names}
        self._renamed = {old: name for name, old in built.former.items()}
        self._history = {name: self._history[old] for name, old in former.items() if old in self._history}
        if not self._started:
            for service in built.touched:
                service.presume_quorum()
            return
        self._table_changed |= set(before.values()) != set(built.services.values())
        events = built.events
        for service in built.touched:
            events += self._update_quorum(service, CONFIGURED, at)
        self._dispatch([*events, *self._suspensions(built.services.values())])

    def _on_outcome(self, state: CheckState, outcome: Outcome) -> float:
        """Apply the outcome of a probe, and return the seconds until the next."""
        at = self._wall()
        good, weight, inconclusive = state.good, state.weight, state.inconclusive
        delay = state.delay_after(outcome, at)
        if state in self._awaited:
            self._wake_waiter(state)
        if outcome.inconclusive:
            if inconclusive:
                return delay
        elif state.good is good and state.weight == weight and (outcome.ok or good is False):
            return delay  # nothing changed, as for almost all outcomes
        events: list[Event] = []
        for server in state.servers:
            events += server.on_outcome(state, good, outcome, at)
            service = self._services[server.service]
            events += self._update_quorum(service, f"{server.key}: {outcome.reason}", at, server)
        self._dispatch(events)
        return delay

    def _on_same(self, state: CheckState, count: int, reason: str) -> None:
        state.count_same(count, reason, self._wall())

    def _wake_waiter(self, state: CheckState) -> None:
        awaited = self._awaited.pop(state, None)
        if awaited is not None and not awaited.done():
            awaited.set_result(None)

    def _update_quorum(
        self, service: ServiceState, reason: str, at: float, server: ServerState | None = None
    ) -> list[Event]:
        """Update the quorum, after a change of one server or of several, and note whether the rows changed."""
        if server is not None:
            service.count((server,))
        events = self._restore_for_quorum(service, at) if service.out else []
        if events:
            server = None  # several changed
        events += service.update_quorum(reason, at)
        self._table_changed |= service.rows_changed(server)
        return events

    def _restore_for_quorum(self, service: ServiceState, at: float) -> list[Event]:
        """Let servers that are down by handshake_share serve again, until there is a quorum."""
        events: list[Event] = []
        for key in sorted(service.out, key=str):
            if service.quorum_after(service.has_quorum):
                break
            events += restore(service, service.servers[key], "the quorum needs it", at, self._scheduler.now)
        return events

    def _override(
        self, server: DestinationKey | Address, service: str | None, change: Callable[[Override], Override], text: str
    ) -> tuple[ServerName, ...]:
        chosen = self._find(server, service)
        at = self._wall()
        reason = f"the operator: {text}"
        events: list[Event] = []
        for state in chosen:
            override = change(state.override)
            if override == state.override:
                continue
            state.override = override
            events.append(state.event(Overridden, reason, at, override=override))
            events += state.update(reason, at)
            events += self._update_quorum(self._services[state.service], reason, at, state)
        self._dispatch(events)
        return tuple(each.name for each in chosen)

    def _suspensions(self, services: Iterable[ServiceState] = ()) -> list[Event]:
        """Suspend and resume checks by the host's addresses; also those of these services.

        After a reload these are all: a shared check may have lost the last service that was not suspended.
        """
        at = self._wall()
        events: list[Event] = []
        changed = dict.fromkeys(services)
        for service in self._services.values():
            if event := service.suspend(self._host_addresses, at):
                changed[service] = None
                events.append(event)
        servers = [server for service in changed for server in service.servers.values()]
        for state in dict.fromkeys(link.state for server in servers for link in server.links):
            self._suspend(state)
        return events

    def _suspend(self, state: CheckState) -> None:
        """Pause the check if all services that have it are suspended, else resume it."""
        suspended = all(self._services[server.service].suspended for server in state.servers)
        if suspended and not state.scheduled.paused:
            self._scheduler.pause(state.scheduled)
            self._wake_waiter(state)
        elif state.scheduled.paused and not suspended:
            self._scheduler.resume(state.scheduled, self._chance() * state.check.pace.warmup_s)

    def _servers(self) -> list[ServerState]:
        return [server for service in self._services.values() for server in service.servers.values()]

    def _find(self, server: DestinationKey | Address | None, service: str | None) -> tuple[ServerState, ...]:
        """Return the servers with this key or address, or all; of one service or all.

        Raises NoSuchService, NoSuchDestination.
        """
        if service is not None and service not in self._services:
            raise NoSuchService(f"{service}: no such service in the configuration")
        candidates = self._servers() if service is None else self._services[service].servers.values()
        found = tuple(each for each in candidates if server is None or server in (each.key, each.key.address))
        if not found and server is not None:
            where = "any service" if service is None else f"service {service}"
            raise NoSuchDestination(f"{server}: no such real server in {where} of the configuration")
        return found

    def _dispatch(self, events: Iterable[Event]) -> None:
        """Pass events to their listeners, then call the listeners of the table if it changed."""
        for event in events:
            if isinstance(event, ServerEvent):
                name = event.service, event.server
                self._history.setdefault(name, deque(maxlen=self._history_length)).append(event)
            for on_event in tuple(self._event_listeners):
                _call(on_event, event.name, event)
        if self._table_changed:
            self._table_changed = False
            for on_change in tuple(self._change_listeners):
                _call(on_change, "changes of the table")


def _call(listener: Callable[..., None], of_what: str, *arguments: Any) -> None:
    """Call a listener. An exception of one must not keep events from the others."""
    try:
        listener(*arguments)
    except Exception:
        log.exception("a listener to %s failed", of_what)
