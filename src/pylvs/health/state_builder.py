"""Build the states of a configuration: new ones, and old ones that continue where nothing changed.

At the start, servers can also adopt their state from the table that was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pylvs.health.events import Event, ServerAdded, Standing
from pylvs.health.outcome import Outcome, Probe
from pylvs.health.probe_scheduler import ScheduledProbe
from pylvs.health.servers import CheckLink, CheckState, ServerState, SharedKey, sets_weight
from pylvs.health.services import ServiceState
from pylvs.model.checks import Check, goes_via_vip
from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.director import ServiceRow
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService

CONFIGURED = "the configuration changed"
ADDED = "new in the configuration"
REMOVED = "taken out of the configuration"

# Makes the probe of one check of one server of one service; of a shared check, of the first that has it. It raises
# nothing: an error is the probe's outcome.
ProbeOf = Callable[[Check, WantedService, WantedServer], Probe]


@dataclass(slots=True)
class ReplaceResult:
    """What a reload changed: services by name, and the numbers of servers and checks."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)  # or renamed
    unchanged: int = 0
    servers_added: int = 0
    servers_removed: int = 0
    checks_started: int = 0
    checks_ended: int = 0


@dataclass(slots=True)
class BuildResult:
    """The states of a configuration, and the changes that led to them; `renew`: all probes were made again."""

    at: float
    renew: bool
    services: dict[str, ServiceState] = field(default_factory=dict)
    touched: list[ServiceState] = field(default_factory=list)  # new or changed
    events: list[Event] = field(default_factory=list)
    begun: list[CheckState] = field(default_factory=list)  # new checks
    ended: list[CheckState] = field(default_factory=list)  # checks without a server
    replacement: ReplaceResult = field(default_factory=ReplaceResult)


class StateBuilder:
    """Makes and continues states; has the checks that are shared."""

    def __init__(self, probe_of: ProbeOf, on_outcome: Callable[[CheckState, Outcome], float]) -> None:
        self._probe_of = probe_of
        self._on_outcome = on_outcome
        self._shared: dict[SharedKey | None, CheckState] = {}
        self._orphans: dict[CheckState, None] = {}
        self.first_counts = True  # for new checks: the first probe counts without retries

    def build(
        self, old: Mapping[str, ServiceState], configuration: Configuration, renew: bool, at: float
    ) -> BuildResult:
        """Return the states of this configuration; `renew`: make all probes again."""
        built = BuildResult(at, renew)
        before = predecessors(old, configuration)
        for wanted in configuration.services:
            state = before.get(wanted.name)
            if state is not None and state.wanted == wanted:
                built.services[wanted.name] = state
                built.replacement.unchanged += 1
                if renew:
                    self._renew(state)
                continue
            (built.replacement.added if state is None else built.replacement.changed).append(wanted.name)
            service = ServiceState(wanted, at) if state is None else state
            built.services[wanted.name] = service
            built.touched.append(service)
            self._fill(service, wanted, built)
            if state is None:
                service.presume_quorum()
        kept = {id(state) for state in before.values()}
        for name, state in old.items():
            if id(state) not in kept:
                built.replacement.removed.append(name)
                self._end(state, state.servers.values(), True, built)
        built.ended = [state for state in self._orphans if not state.servers]
        self._orphans.clear()
        if gone := set(built.ended):
            self._shared = {key: state for key, state in self._shared.items() if state not in gone}
        built.begun = [state for state in built.begun if state.servers]
        built.replacement.checks_started = len(built.begun)
        built.replacement.checks_ended = len(built.ended)
        return built

    def _fill(self, service: ServiceState, wanted: WantedService, built: BuildResult) -> None:
        """Give the service its configured servers; those that it has keep their state."""
        before, servers = service.servers, dict[DestinationKey, ServerState]()
        new_probes = built.renew or _probe_settings(service.wanted) != _probe_settings(wanted)
        for each in wanted.servers:
            key = each.destination.key
            if key in servers:
                continue  # configured twice: the first counts
            state = before.pop(key, None)
            servers[key] = server = self._server(wanted, each, state, new_probes, built)
            if state is None:
                built.replacement.servers_added += 1
                built.events.append(
                    ServerAdded(
                        at=built.at,
                        service=wanted.name,
                        server=key,
                        reason=ADDED,
                        weight=each.destination.weight,
                        up=server.up,
                    )
                )
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
        held = server.health_weight()
        links, server.links = server.links, []
        server.service, server.wanted = service.name, wanted
        if not same_destination:  # the new configured weight counts until an outcome
            server.held_weight = None
        for check in wanted.checks:
            key = _shared_key(check, wanted)
            link = next((link for link in links if link.state.check == check and link.state.shared_key == key), None)
            if link is not None:
                links.remove(link)
                if new_probes or not same_destination:  # same check, other server
                    link.state.scheduled.probe = self._probe_of(check, service, wanted)
            else:
                state = self._check(check, key, service, wanted, built)
                state.servers[server] = None
                link = CheckLink(state, not check.pace.alpha if old is None else server.up)
                if old is not None and same_destination and sets_weight(check):
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
        scheduled = ScheduledProbe(self._probe_of(check, service, server))
        state = CheckState(check, scheduled, key, first_counts=self.first_counts)
        scheduled.on_outcome = lambda outcome: self._on_outcome(state, outcome)
        if key is not None:
            self._shared[key] = state
        built.begun.append(state)
        return state

    def _renew(self, service: ServiceState) -> None:
        """Make the probes of all checks again."""
        for server in service.servers.values():
            for link in server.links:
                link.state.scheduled.probe = self._probe_of(link.state.check, service.wanted, server.wanted)

    def _end(self, service: ServiceState, servers: Iterable[ServerState], whole: bool, built: BuildResult) -> None:
        """Remove servers, with `whole` the service, that are no longer in the configuration."""
        gone = list(servers)
        built.replacement.servers_removed += len(gone)
        built.events += service.end_events(gone, whole, REMOVED, built.at)
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


def script_identity(settings: GlobalSettings) -> tuple[str, str, bool]:
    """Return the global settings that probes depend on."""
    return settings.script_user, settings.script_group, settings.script_security


def _probe_settings(service: WantedService) -> tuple[object, ...]:
    """Return the settings of a service that probes depend on."""
    return service.keys, service.virtualhost


def _shared_key(check: Check, server: WantedServer) -> SharedKey | None:
    """Return what checks must have in common to share a probe; None if the check is not shared."""
    if not check.pace.shared or goes_via_vip(check):
        return None
    destination = server.destination
    return destination.key.address, check, destination.weight if sets_weight(check) else 0


def predecessors(old: Mapping[str, ServiceState], new: Configuration) -> dict[str, ServiceState]:
    """Return the state that each new service continues: by name, or if it was renamed, by keys."""
    found = {service.name: old[service.name] for service in new.services if service.name in old}
    left = {state.wanted.keys: state for name, state in old.items() if name not in found}
    for service in new.services:
        if service.name not in found and service.keys in left:
            found[service.name] = left.pop(service.keys)
    return found


def adopt_service(service: ServiceState, row: ServiceRow) -> None:
    """Presume the state of each checked server by its row, and the quorum by the sorry server."""
    found = {each.destination.key: each.destination for each in row.destinations}
    for key, server in service.servers.items():
        # A disabled server is absent, healthy or not.
        if server.links and server.override.standing is not Standing.DISABLED:
            _adopt_server(server, found.get(key))
    service.presume_quorum()
    sorry_server = service.wanted.sorry_server
    in_use = sorry_server is not None and sorry_server.key in found and sorry_server.key not in service.servers
    serving = in_use and sorry_server is not None and found[sorry_server.key].weight > 0
    if serving and any(server.links for server in service.servers.values()):
        service.has_quorum = False  # until the first outcome
    else:
        service.has_quorum = service.quorum.after(not serving, service.weight_up)
    service.rows_changed()


def _adopt_server(server: ServerState, found: Destination | None) -> None:
    """Presume that the server is up if the table has it.

    With inhibit_on_failure weight 0 means down, unless the server has weight 0 when it is up, too.
    """
    inhibited = server.wanted.inhibit_on_failure and server.weight() > 0
    up = found is not None and (found.weight > 0 or not inhibited)
    for link in server.links:
        link.presumed = up
        link.state.first_counts &= not up
    server.up = up
    server.announced = True
    server.reason = "as the table was found"
    dynamic = any(sets_weight(link.state.check) for link in server.links)
    if found is not None and up and not server.override and dynamic:
        server.held_weight = server.reported_weight = found.weight
