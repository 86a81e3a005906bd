"""Build the states of a configuration: new ones, and old ones that continue where nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from pylvs.health.events import Event, ServerAdded, ServerName
from pylvs.health.probes import Outcome, Probe, ScheduledProbe
from pylvs.health.state import CheckLink, CheckState, ServerState, ServiceState, SharedKey
from pylvs.model.checks import Check, HttpCheck, MiscCheck, SmtpCheck, goes_via_vip
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import DestinationKey, moved
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService, predecessors

CONFIGURED = "the configuration changed"
ADDED = "new in the configuration"
REMOVED = "taken out of the configuration"

# Makes the probe of one check of one server of one service; of a shared check, of the first that has it. It raises
# nothing: an error is the probe's outcome.
ProbeOf = Callable[[Check, WantedService, WantedServer], Probe]


@dataclass(slots=True)
class BuildResult:
    """The states of a configuration, and what changed; `renew`: all probes were made again."""

    at: float
    renew: bool
    services: dict[str, ServiceState] = field(default_factory=dict)
    touched: list[ServiceState] = field(default_factory=list)  # new or changed
    events: list[Event] = field(default_factory=list)
    begun: list[CheckState] = field(default_factory=list)  # new checks
    ended: list[CheckState] = field(default_factory=list)  # checks without a server
    renewed: list[CheckState] = field(default_factory=list)  # checks whose probe was made again
    former: dict[ServerName, ServerName] = field(default_factory=dict)  # of servers that have another name now


class StateBuilder:
    """Makes and continues states; has the checks that are shared."""

    def __init__(
        self,
        probe_of: ProbeOf,
        on_outcome: Callable[[CheckState, Outcome], float],
        on_same: Callable[[CheckState, int, str], None] = lambda state, count, reason: None,
    ) -> None:
        self._probe_of = probe_of
        self._on_outcome = on_outcome
        self._on_same = on_same
        self._shared: dict[SharedKey | None, CheckState] = {}
        self._orphans: dict[CheckState, None] = {}
        self.first_counts = True  # for new checks: the first probe counts without retries

    def build(
        self, old: Mapping[str, ServiceState], configuration: Configuration, renew: bool, at: float
    ) -> BuildResult:
        """Return the states of this configuration; `renew`: make all probes again."""
        built = BuildResult(at, renew)
        names = predecessors({name: state.wanted.keys for name, state in old.items()}, configuration.services)
        before = {new: old[name] for new, name in names.items()}
        for wanted in configuration.services:
            state = before.get(wanted.name)
            if state is not None and state.wanted == wanted:
                built.services[wanted.name] = state
                if renew:
                    self._renew(state, built)
                continue
            service = ServiceState(wanted, at) if state is None else state
            built.services[wanted.name] = service
            built.touched.append(service)
            self._set_servers(service, wanted, built)
            if state is None:
                service.presume_quorum()
        kept = set(before.values())
        for state in old.values():
            if state not in kept:
                self._end(state, state.servers.values(), True, built)
        built.ended = [state for state in self._orphans if not state.servers]
        self._orphans.clear()
        if gone := set(built.ended):
            self._shared = {key: state for key, state in self._shared.items() if state not in gone}
        built.begun = [state for state in built.begun if state.servers]
        return built

    def _set_servers(self, service: ServiceState, wanted: WantedService, built: BuildResult) -> None:
        """Give the service its configured servers; those that it has keep their state, also under another port."""
        before, servers = service.servers, dict[DestinationKey, ServerState]()
        former = moved(before, (each.destination for each in wanted.servers))
        old = service.wanted
        new_probes = built.renew or (old.keys, old.virtualhost) != (wanted.keys, wanted.virtualhost)
        for configured in wanted.servers:
            key = configured.destination.key
            if key in servers:
                continue  # configured twice: the first counts
            former_key = former.get(key, key)
            state = before.pop(former_key, None)
            servers[key] = server = self._server(wanted, configured, state, new_probes, built)
            if state is None:
                weight = configured.destination.weight
                built.events.append(server.event(ServerAdded, ADDED, built.at, weight=weight, up=server.up))
            elif (old.name, former_key) != server.name:
                built.former[server.name] = old.name, former_key
        self._end(service, before.values(), False, built)
        service.wanted, service.servers = wanted, servers
        for state in servers.values():
            built.events += state.update(CONFIGURED, built.at)
        service.count(servers.values(), reset=True)

    def _server(
        self,
        service: WantedService,
        wanted: WantedServer,
        old: ServerState | None,
        new_probes: bool,
        built: BuildResult,
    ) -> ServerState:
        """Return the server's state, continuing the old one; `new_probes`: make probes of old checks again, too."""
        server = ServerState(service.name, wanted, built.at) if old is None else old
        same_destination = server.wanted.destination == wanted.destination
        # A new configured weight counts at once, unless a check that stays has set another one: until it reports again.
        held, holds = server.health_weight(), same_destination or _is_weight_set(server, wanted.checks)
        links, server.links = server.links, []
        server.service, server.wanted = service.name, wanted
        if not holds:
            server.held_weight = None
        for check in wanted.checks:
            key = _shared_key(check, service, wanted)
            link = next((link for link in links if link.state.check == check and link.state.shared_key == key), None)
            if link is not None:
                links.remove(link)
                if new_probes or not same_destination:  # an equal check, but with another target or other settings
                    link.state.scheduled.probe = self._probe_of(check, service, wanted)
                    built.renewed.append(link.state)
            else:
                state = self._check(check, key, service, wanted, built)
                state.servers[server] = None
                link = CheckLink(state, not check.pace.alpha if old is None else server.up)
                if old is not None and holds and check.sets_weight:
                    server.held_weight = held
            server.links.append(link)
        for link in links:
            self._unlink(link, server)
        if old is None:
            server.up = server.checks_good()
        return server

    def _check(
        self, check: Check, key: SharedKey | None, service: WantedService, server: WantedServer, built: BuildResult
    ) -> CheckState:
        """Return a new check, or a shared one that another service has for the same server."""
        if key in self._shared:
            return self._shared[key]
        # keepalived starts programs at a fixed pace, however long they take.
        scheduled = ScheduledProbe(self._probe_of(check, service, server), from_start=isinstance(check, MiscCheck))
        # keepalived's SMTP_CHECK has its retries from the start.
        first_counts = self.first_counts and not isinstance(check, SmtpCheck)
        state = CheckState(check, scheduled, key, first_counts=first_counts)
        scheduled.on_outcome = partial(self._on_outcome, state)
        scheduled.is_steady, scheduled.on_same = state.is_steady, partial(self._on_same, state)
        if key is not None:
            self._shared[key] = state
        built.begun.append(state)
        return state

    def _renew(self, service: ServiceState, built: BuildResult) -> None:
        """Make the probes of all checks again."""
        for server in service.servers.values():
            for link in server.links:
                link.state.scheduled.probe = self._probe_of(link.state.check, service.wanted, server.wanted)
                built.renewed.append(link.state)

    def _end(self, service: ServiceState, servers: Iterable[ServerState], whole: bool, built: BuildResult) -> None:
        """Remove servers, with `whole` the service, that are no longer in the configuration."""
        gone = list(servers)
        built.events += service.end_events(gone, whole, REMOVED, built.at, removed=True)
        for server in gone:
            links, server.links = server.links, []
            for link in links:
                self._unlink(link, server)

    def _unlink(self, link: CheckLink, server: ServerState) -> None:
        """Remove the server from the check, unless it has the check twice."""
        if not any(other.state is link.state for other in server.links):
            link.state.servers.pop(server, None)
        if not link.state.servers:
            self._orphans[link.state] = None


def _is_weight_set(server: ServerState, staying: Collection[Check]) -> bool:
    """Return whether one of these checks has set the server's weight, now or before an earlier reload or a crash."""
    return any(
        link.state.weight is not None
        or (server.held_weight is not None and link.state.good is None and link.state.check.sets_weight)
        for link in server.links
        if link.state.check in staying
    )


def script_identity(settings: GlobalSettings) -> tuple[str, str, bool]:
    """Return the global settings that probes depend on: the account of scripts."""
    return settings.script_user, settings.script_group, settings.script_security


def _shared_key(check: Check, service: WantedService, server: WantedServer) -> SharedKey | None:
    """Return what checks must have in common to share a probe; None if the check is not shared."""
    if not check.pace.shared or goes_via_vip(check):
        return None
    destination = server.destination
    weight = destination.weight if check.sets_weight else 0
    virtualhost = service.virtualhost if isinstance(check, HttpCheck) and not check.virtualhost else ""
    return destination.key.address, check, weight, virtualhost
