"""The state of checks, servers and services, with quorum, sorry server and desired rows.

Snapshots are the state as immutable values, for the API, the metrics and the dump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from pylvs.health import events
from pylvs.health.events import NO_OVERRIDE, Event, Override, ServerEvent, ServerName, Standing
from pylvs.health.handshakes import NONE, Shaken
from pylvs.health.probes import NEVER, Outcome, ScheduledProbe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, HttpCheck
from pylvs.model.dataclass import dataclass, field
from pylvs.model.rows import Handshakes, ServiceRow
from pylvs.model.service import MAX_WEIGHT, Destination, DestinationKey, Protocol, ServiceKey
from pylvs.model.wanted import WantedRow, WantedServer, WantedService

# Server and check, with what else the probe depends on: the server's weight, the service's host name in HTTP.
SharedKey = tuple[Address, Check, int, str]


def successes_to_recover(check: Check, failed: bool) -> int:
    """Return how many good probes in a row make a check good; `failed`: it counted as failed before.

    This is 1, except for HTTP without fast_recovery: keepalived 2.2.7 then gets one page in each delay_loop. After a
    failure it begins with the first page again.
    """
    return len(check.urls) + failed if isinstance(check, HttpCheck) and not check.fast_recovery else 1


@dataclass(slots=True, eq=False)
class CheckState:
    """One check, and the servers that have it; several if it is shared."""

    check: Check
    scheduled: ScheduledProbe
    shared_key: SharedKey | None = None
    servers: dict[ServerState, None] = field(default_factory=dict)  # a set that keeps its order
    first_counts: bool = True  # the first probe counts without retries, as in keepalived
    good: bool | None = None  # None until an outcome counts
    failures: int = 0  # in a row
    successes: int = 0
    weight: int | None = None
    reason: str = ""
    checked_at: float | None = None
    inconclusive: bool = False  # the last outcome
    probes: int = 0
    failed_probes: int = 0
    inconclusive_probes: int = 0

    def delay_after(self, outcome: Outcome, at: float) -> float:
        """Apply an outcome, and return the seconds until the next probe."""
        pace = self.check.pace
        self.probes += 1
        self.checked_at = at
        self.reason = outcome.reason
        self.inconclusive = outcome.inconclusive
        if outcome.inconclusive:
            self.inconclusive_probes += 1
            return pace.delay_loop_s
        if outcome.ok:
            self.failures = 0
            self.successes += 1
            presumed = self.good is None and not pace.alpha
            if presumed or self.successes >= successes_to_recover(self.check, self.good is False):
                self.good = True
            if self.good:
                self.weight = outcome.weight
            return pace.delay_loop_s
        self.failed_probes += 1
        self.successes = 0
        self.failures += 1
        if self.good is False:
            return pace.delay_loop_s
        if self.failures > pace.retry or (self.good is None and self.first_counts):
            self.good = False
            self.weight = None  # a failed check no longer sets a weight
            return pace.delay_loop_s
        return pace.delay_before_retry_s

    def is_steady(self, outcome: Outcome) -> bool:
        """Return whether further outcomes like this one, without a weight, only count."""
        without_weight = outcome.weight is None and self.weight is None
        return outcome.ok and not outcome.inconclusive and self.good is True and without_weight

    def count_same(self, count: int, reason: str, at: float) -> None:
        """Count outcomes that change nothing; the last one has this reason."""
        self.probes += count
        self.successes += count
        self.checked_at, self.reason = at, reason

    def snapshot(self, now: float) -> CheckSnapshot:
        """Return a snapshot; `now` is the scheduler's time."""
        scheduled = self.scheduled
        return CheckSnapshot(
            check=self.check,
            good=self.good,
            failures=self.failures,
            weight=self.weight,
            reason=self.reason,
            inconclusive=self.inconclusive,
            checked_at=self.checked_at,
            took_s=scheduled.took_s,
            next_in_s=None if scheduled.due == NEVER else max(scheduled.due - now, 0.0),
            running=scheduled.task is not None,
            shared_by=len(self.servers),
            probes=self.probes,
            failed_probes=self.failed_probes,
            inconclusive_probes=self.inconclusive_probes,
        )


@dataclass(slots=True, eq=False)
class CheckLink:
    """A check of one server. Until an outcome counts, the server's `presumed` state does."""

    state: CheckState
    presumed: bool

    @property
    def good(self) -> bool:
        return self.presumed if self.state.good is None else self.state.good


@dataclass(slots=True, eq=False)
class ServerState:
    """The state of a server. Its weight, quorum share and destination are functions of it."""

    service: str
    wanted: WantedServer
    since: float
    links: list[CheckLink] = field(default_factory=list)
    override: Override = NO_OVERRIDE
    up: bool = True
    announced: bool = False  # an event reported its first state, or none is needed
    reason: str = "not checked yet"
    reported_weight: int = field(init=False)  # by the last event with a weight
    counted_weight: int = 0  # its part of the service's `weight_up`
    row_destination: Destination | None = None  # in the service's rows
    held_weight: int | None = None  # an earlier dynamic weight, until the checks that set it have outcomes
    handshakes_low: str = ""  # it completes far less than the others: a text
    out_until: float | None = None  # down by handshake_share, until then
    out_s: float = 0.0  # how long it was down so the last time
    tried_at: float = 0.0  # when it was up again

    def __post_init__(self) -> None:
        self.reported_weight = self.wanted.destination.weight

    @property
    def key(self) -> DestinationKey:
        return self.wanted.destination.key

    @property
    def name(self) -> ServerName:
        return self.service, self.key

    @property
    def checked(self) -> bool:
        """Whether every check has had an outcome that counts."""
        return all(link.state.good is not None for link in self.links)

    def checks_good(self) -> bool:
        return all(link.good for link in self.links)

    def health_weight(self) -> int:
        """Return the weight by configuration and checks.

        Each check that sets a weight adds its difference to the configured one. So a single check sets the weight
        itself.
        """
        configured = self.wanted.destination.weight
        unknown = (link.state.good is None and link.state.check.sets_weight for link in self.links)
        if self.held_weight is not None and any(unknown):
            return self.held_weight
        change = sum(link.state.weight - configured for link in self.links if link.state.weight is not None)
        return min(max(configured + change, 0), MAX_WEIGHT)

    def weight(self) -> int:
        """Return the effective weight: the operator's, else `health_weight`; 0 if drained or disabled."""
        if self.override.standing is not Standing.ENABLED:
            return 0
        return self.health_weight() if self.override.weight is None else self.override.weight

    def destination(self, sorry: bool) -> Destination | None:
        """Return its destination in the table, or None; `sorry`: the sorry server replaces the real ones.

        A drained server that is up stays even then, for its connections to end.
        """
        standing = self.override.standing
        if standing is Standing.DISABLED:
            return None
        if self.up and (not sorry or standing is Standing.DRAINED):
            return self._with_weight(self.weight())
        return self._with_weight(0) if self.wanted.inhibit_on_failure else None

    def on_outcome(self, state: CheckState, before: bool | None, outcome: Outcome, at: float) -> Iterator[Event]:
        """Update after an outcome of a check, and yield events; `before` is what the check counted as."""
        check = state.check
        if outcome.inconclusive:
            yield self.event(events.CheckInconclusive, outcome.reason, at, check=check.keyword)
            return
        if not outcome.ok:
            yield self.event(
                events.CheckFailed,
                outcome.reason,
                at,
                check=check.keyword,
                attempt=state.failures,
                attempts=state.failures if state.good is False else check.pace.retry + 1,
                counted=state.good is False,
                log_all=check.pace.log_all_failures,
            )
        elif state.good and before is False:
            yield self.event(events.CheckRecovered, outcome.reason, at, check=check.keyword)
        yield from self.update(f"{check.keyword}: {outcome.reason}", at)

    def update(self, reason: str, at: float) -> Iterator[Event]:
        """Update `up` after a change of checks, override or configuration, and yield events."""
        before, self.up = self.up, self.checks_good() and self.out_until is None
        known_down = self.out_until is not None or any(link.state.good is False for link in self.links)
        weight = self.weight()
        if self.up and not before:
            self._announce(at, reason)
            self.reported_weight = weight
            yield self.event(events.ServerUp, reason, at, weight=weight)
        elif not self.up and (before or (known_down and not self.announced)):
            self._announce(at, reason)
            yield self.event(events.ServerDown, reason, at, initial=not before)
        elif self.up and self.checked and not self.announced:
            self._announce(self.since, reason)  # up from the start, as presumed: no event
        if self.up and weight != self.reported_weight:
            was, self.reported_weight = self.reported_weight, weight
            yield self.event(events.WeightChanged, reason, at, before=was, weight=weight)

    def adopt(self, found: Destination | None, sorry: bool) -> None:
        """Presume that the server is up if the table has it; `sorry`: the table has a sorry server that serves.

        With inhibit_on_failure weight 0 means down, unless the server has weight 0 when it is up, too. Beside a sorry
        server only a drained server is up: others are there because a crash interrupted the edits of a quorum.
        """
        inhibited = self.wanted.inhibit_on_failure and self.weight() > 0
        up = found is not None and (found.weight > 0 or not inhibited)
        up &= not sorry or self.override.standing is Standing.DRAINED
        for link in self.links:
            link.presumed = up
            link.state.first_counts &= not up
        self.up, self.announced, self.reason = up, True, "as the table was found"
        dynamic = any(link.state.check.sets_weight for link in self.links)
        if found is not None and up and self.override == NO_OVERRIDE and dynamic:
            self.held_weight = self.reported_weight = found.weight

    def event(self, kind: Callable[..., ServerEvent], reason: str, at: float, **fields: Any) -> ServerEvent:
        """Make an event of this server."""
        return kind(at=at, service=self.service, server=self.key, reason=reason, **fields)

    def snapshot(self, sorry: bool, now: float, shaken: Shaken[ServerName] | None) -> ServerSnapshot:
        """Return a snapshot; `sorry`: the sorry server gets the connections. `shaken`: None if it has no handshakes."""
        return ServerSnapshot(
            service=self.service,
            server=self.key,
            destination=self.wanted.destination,
            up=self.up,
            checked=self.checked,
            since=self.since,
            reason=self.reason,
            weight=self.weight(),
            configured_weight=self.wanted.destination.weight,
            override=self.override,
            in_table=self.destination(sorry) is not None,
            checks=tuple(link.state.snapshot(now) for link in self.links),
            checks_left_out=self.wanted.checks_left_out,
            handshakes=None if shaken is None else shaken.minute.get(self.name, NONE),
            handshakes_total=None if shaken is None else shaken.totals.get(self.name, NONE),
            handshakes_low=self.handshakes_low,
            out_by_handshakes=self.out_until is not None,
        )

    def _announce(self, since: float, reason: str) -> None:
        self.since, self.reason, self.announced = since, reason, True

    def _with_weight(self, weight: int) -> Destination:
        configured = self.wanted.destination
        return configured if weight == configured.weight else replace(configured, weight=weight)


@dataclass(slots=True, eq=False)
class ServiceState:
    """The state of a service; its rows are a function of it."""

    wanted: WantedService
    since: float
    servers: dict[DestinationKey, ServerState] = field(default_factory=dict)
    weight_up: int = 0  # sum over the servers that are up
    has_quorum: bool = True
    started: bool = False
    suspended: bool = False
    sorry_announced: DestinationKey | None = None  # the sorry server by the last event
    handshakes_low: str = ""  # all servers complete few handshakes alike: a text
    out: set[DestinationKey] = field(default_factory=set)  # servers that are down by handshake_share
    _rows: tuple[WantedRow, ...] = ()
    _rows_sorry: bool = False  # `sorry` when the rows were made
    _stale: bool = True  # the rows must be made again

    def quorum_after(self, had: bool) -> bool:
        """Return whether `weight_up` is enough; `had`: there was a quorum before, which hysteresis keeps longer.

        Weight 0 is never enough: no server gets connections, although the quorum is 0 if all weights are.
        """
        hysteresis = self.wanted.hysteresis
        return self.weight_up > 0 and self.weight_up >= self.wanted.quorum + (-hysteresis if had else hysteresis)

    @property
    def sorry(self) -> bool:
        """Whether the sorry server gets the connections."""
        return not self.has_quorum and self.wanted.sorry_server is not None

    def _destinations(self, key: ServiceKey) -> tuple[Destination, ...]:
        """Return the desired destinations of one key in the order of the configuration, the sorry server last."""
        found: dict[DestinationKey, Destination] = {}
        for server in self.servers.values():
            if server.row_destination is not None:
                listed = server.row_destination.listed_by(key)
                found.setdefault(listed.key, listed)
        sorry_server = self.wanted.sorry_server
        if sorry_server is not None:
            sorry_server = sorry_server.listed_by(key)
            if self.sorry:
                found[sorry_server.key] = sorry_server  # also if it is one of the real servers
            elif self.wanted.sorry_server_inhibit:
                found.setdefault(sorry_server.key, replace(sorry_server, weight=0))
        return tuple(found.values())

    def rows(self) -> tuple[WantedRow, ...]:
        """Return a row for each key. Unchanged rows are the same objects as before."""
        if self._stale:
            self._stale = False
            for server in self.servers.values():
                server.row_destination = server.destination(self.sorry)
            keys = {key.port: key for key in self.wanted.keys}
            by_port = {port: self._destinations(key) for port, key in keys.items()}
            rows = tuple(
                WantedRow(service, by_port[service.key.port], self.wanted.rules_of(service.key))
                for service in self.wanted.services()
            )
            if rows != self._rows:
                self._rows = rows
        return self._rows

    def rows_changed(self, server: ServerState | None = None) -> bool:
        """Return whether the rows changed; with `server` only its state, and perhaps the quorum, may have changed.

        For one server the others are not looked at: thousands may fail at once.
        """
        if server is not None and self.sorry == self._rows_sorry:
            before, server.row_destination = server.row_destination, server.destination(self.sorry)
            self._stale |= before != server.row_destination
            return before != server.row_destination
        rows, self._stale, self._rows_sorry = self._rows, True, self.sorry
        return self.rows() is not rows

    def presume_quorum(self) -> None:
        """Set the quorum by what the servers presume, before the first outcome."""
        self.count(self.servers.values(), reset=True)
        self.has_quorum = self.quorum_after(False)  # as in keepalived it must be gained
        self.rows_changed()

    def adopt(self, row: ServiceRow) -> None:
        """Presume the state of each checked server by the row of the table, and the quorum by the sorry server."""
        found = {each.destination.key: each.destination for each in row.destinations}
        names = {name: each.wanted.destination.listed_by(row.service.key).key for name, each in self.servers.items()}
        sorry_server = self.wanted.sorry_server
        sorry_name = sorry_server.listed_by(row.service.key).key if sorry_server else None
        shown = found.get(sorry_name) if sorry_name and sorry_name not in names.values() else None
        serving = shown is not None and shown.weight > 0
        for name, server in self.servers.items():
            # A disabled server is absent, healthy or not.
            if server.links and server.override.standing is not Standing.DISABLED:
                server.adopt(found.get(names[name]), serving)
        self.count(self.servers.values(), reset=True)
        self.has_quorum = self.quorum_after(not serving)
        self.rows_changed()

    def count(self, servers: Iterable[ServerState], reset: bool = False) -> None:
        """Update `weight_up` after changes of these servers; with `reset`, these are all."""
        if reset:
            self.weight_up = 0
        for server in servers:
            weight = server.weight() if server.up else 0
            self.weight_up += weight if reset else weight - server.counted_weight
            server.counted_weight = weight

    def update_quorum(self, reason: str, at: float) -> Iterator[Event]:
        """Update the quorum after a change of `weight_up`, and yield events. The first call reports the start."""
        had, initial = self.has_quorum, not self.started
        self.started = True
        if not initial:
            self.has_quorum = self.quorum_after(had)
        if initial or had != self.has_quorum:
            self.since = at
            if self.has_quorum:
                yield self._quorum_event(events.QuorumGained, reason, at, initial=initial)
            else:
                silent = initial and self.wanted.sorry_server is None
                yield self._quorum_event(events.QuorumLost, reason, at, initial=initial, silent=silent)
        sorry = self.wanted.sorry_server.key if self.sorry and self.wanted.sorry_server else None
        before, self.sorry_announced = self.sorry_announced, sorry
        if before != sorry:
            if before is not None:
                yield events.SorryServerOut(at=at, service=self.wanted.name, reason=reason, server=before)
            if sorry is not None:
                yield events.SorryServerIn(at=at, service=self.wanted.name, reason=reason, server=sorry)

    def suspend(self, addresses: frozenset[Address] | None, at: float) -> Event | None:
        """Stop the checks by ha_suspend on a host with these addresses (None: unknown), or resume them.

        Return the event, None if nothing changed.
        """
        own = {key.address for key in self.wanted.keys if not key.mark} if self.wanted.ha_suspend else set()
        suspended = addresses is not None and bool(own) and not own & addresses
        if suspended == self.suspended:
            return None
        self.suspended = suspended
        if suspended:
            return events.ChecksSuspended(at=at, service=self.wanted.name, reason="its address is not here")
        return events.ChecksResumed(at=at, service=self.wanted.name, reason="its address is here")

    def end_events(
        self, servers: Iterable[ServerState], whole: bool, reason: str, at: float, *, removed: bool
    ) -> Iterator[Event]:
        """Yield the events for the end of servers, and with `whole` of the service: what was up is down.

        `removed`: a reload removed them; otherwise pylvs stops. Then the quorum is lost in any case, as in keepalived.
        """
        for server in servers:
            if server.up:
                yield server.event(events.ServerDown, reason, at, ending=True, removed=removed)
        if whole and (self.has_quorum or not removed):
            yield self._quorum_event(events.QuorumLost, reason, at, 0, ending=True, removed=removed)

    @property
    def has_handshakes(self) -> bool:
        """Whether its protocol may have any; that of a firewall mark is not known."""
        return any(key.mark or key.protocol is not Protocol.UDP for key in self.wanted.keys)

    def snapshot(self, now: float, shaken: Shaken[ServerName]) -> ServiceSnapshot:
        """Return a snapshot with those of all servers; `shaken` has their handshakes."""
        wanted = self.wanted
        of_servers = shaken if self.has_handshakes else None
        return ServiceSnapshot(
            name=wanted.name,
            keys=wanted.keys,
            has_quorum=self.has_quorum,
            since=self.since,
            quorum=wanted.quorum,
            hysteresis=wanted.hysteresis,
            weight_up=self.weight_up,
            sorry_server=wanted.sorry_server,
            sorry_server_in=self.sorry,
            suspended=self.suspended,
            servers=tuple(server.snapshot(self.sorry, now, of_servers) for server in self.servers.values()),
            handshakes_low=self.handshakes_low,
        )

    def _quorum_event(
        self,
        kind: type[events.QuorumGained | events.QuorumLost],
        reason: str,
        at: float,
        weight: int | None = None,
        **flags: bool,
    ) -> Event:
        """Make an event of the quorum; `weight` replaces the weight that is up."""
        wanted = self.wanted
        return kind(
            at=at,
            service=wanted.name,
            reason=reason,
            weight=self.weight_up if weight is None else weight,
            quorum=wanted.quorum,
            hysteresis=wanted.hysteresis,
            **flags,
        )


@dataclass(frozen=True, slots=True)
class CheckSnapshot:
    """One check of one server. Times are Unix times."""

    check: Check
    good: bool | None  # None until its first outcome counts
    failures: int  # in a row
    weight: int | None  # that it sets
    reason: str  # of the last outcome, "" before
    inconclusive: bool  # the last outcome
    checked_at: float | None
    took_s: float | None  # the duration of the last probe
    next_in_s: float | None  # None: running now, or suspended
    running: bool
    shared_by: int  # servers that have this check
    probes: int  # since the start
    failed_probes: int
    inconclusive_probes: int = 0


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    """One server of one service; `since` is a Unix time."""

    service: str
    server: DestinationKey
    destination: Destination  # as configured
    up: bool
    checked: bool  # False: a check had no outcome since the start, and `up` is presumed
    since: float  # of `up`
    reason: str  # of `up`
    weight: int  # effective, if the server is up
    configured_weight: int
    override: Override
    in_table: bool
    checks: tuple[CheckSnapshot, ...]
    checks_left_out: tuple[str, ...] = ()  # checks of the file that cannot be made, as "KEYWORD: reason"
    handshakes: Handshakes | None = None  # of the last minute; None: UDP has none
    handshakes_total: Handshakes | None = None  # since the start
    handshakes_low: str = ""  # it completes far less than the others: a text
    out_by_handshakes: bool = False  # therefore it is down (handshake_share)

    @property
    def handshakes_are_low(self) -> bool | None:
        """Whether it completes far less than the others; None: UDP."""
        return None if self.handshakes is None else bool(self.handshakes_low) or self.out_by_handshakes

    @property
    def check_count(self) -> int:
        """How many checks there are; without one the server always counts as up."""
        return len(self.checks)


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """One service with its servers, in the order of the configuration."""

    name: str
    keys: tuple[ServiceKey, ...]
    has_quorum: bool
    since: float  # of `has_quorum`, Unix time
    quorum: int
    hysteresis: int
    weight_up: int
    sorry_server: Destination | None
    sorry_server_in: bool
    suspended: bool
    servers: tuple[ServerSnapshot, ...]
    handshakes_low: str = ""  # all servers complete few handshakes alike: a text
