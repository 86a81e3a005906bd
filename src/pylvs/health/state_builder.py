"""States out of a configuration: new ones, and old ones carried over where nothing changed for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pylvs.health.events import Event, ServerAdded, Standing
from pylvs.health.outcome import Outcome, Probe
from pylvs.health.probe_scheduler import ScheduledProbe
from pylvs.health.servers import CheckLink, CheckState, ServerState, SharedKey, sets_weight
from pylvs.health.services import ServiceState
from pylvs.model.checks import Check, goes_via_vip
from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import DestinationKey
from pylvs.model.director import ServiceRow
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService

CONFIGURED = "the configuration changed"
ADDED = "new in the configuration"
REMOVED = "taken out of the configuration"

# Makes the probe of one check of one server of one service (of a shared check: the first that has it). It raises
# nothing: what a checker cannot do is an outcome.
ProbeOf = Callable[[Check, WantedService, WantedServer], Probe]


@dataclass(slots=True)
class ReplaceResult:
    """What a reload came to: services by name, and how many servers and checks are new, gone, or as they were."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)  # also those that only have another name now
    unchanged: int = 0
    servers_added: int = 0
    servers_removed: int = 0
    checks_started: int = 0
    checks_ended: int = 0


@dataclass(slots=True)
class BuildResult:
    """The states of a configuration, and what it took to come there at this time; `renew`: new probes everywhere."""

    at: float
    renew: bool
    services: dict[str, ServiceState] = field(default_factory=dict)
    touched: list[ServiceState] = field(default_factory=list)  # new or changed
    events: list[Event] = field(default_factory=list)
    begun: list[CheckState] = field(default_factory=list)  # new checks
    ended: list[CheckState] = field(default_factory=list)  # nobody has them any more
    replacement: ReplaceResult = field(default_factory=ReplaceResult)


class StateBuilder:
    """Makes states and carries them over; knows the checks that are shared."""

    def __init__(self, probe_of: ProbeOf, outcome: Callable[[CheckState, Outcome], float]) -> None:
        self._probe_of = probe_of
        self._outcome = outcome
        self._shared: dict[SharedKey | None, CheckState] = {}
        self._orphans: dict[CheckState, None] = {}
        self.first_counts = True  # for checks that begin now: whether their first probe needs no retries

    def build(
        self, old: Mapping[str, ServiceState], configuration: Configuration, renew: bool, at: float
    ) -> BuildResult:
        """The states of this configuration, going on from the old ones; `renew`: with new probes everywhere."""
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
                service.prepare()
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
        """Give the service the servers that it should have, as they were where they were there."""
        before, servers = service.servers, dict[DestinationKey, ServerState]()
        new_probes = built.renew or _probe_settings(service.wanted) != _probe_settings(wanted)
        for each in wanted.servers:
            key = each.destination.key
            if key in servers:
                continue  # named twice: the first counts
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
            built.events += state.moved(CONFIGURED, built.at)
        service.count(servers.values(), anew=True)

    def _server(
        self,
        service: WantedService,
        wanted: WantedServer,
        old: ServerState | None,
        new_probes: bool,
        built: BuildResult,
    ) -> ServerState:
        """The server's state, which goes on from the old one's; `new_probes`: for its old checks too."""
        server = ServerState(service.name, wanted, built.at) if old is None else old
        same_destination = server.wanted.destination == wanted.destination
        held = server.health_weight()
        links, server.links = server.links, []
        server.service, server.wanted = service.name, wanted
        if not same_destination:  # the new configured weight holds until a check speaks
            server.held_weight = None
        for check in wanted.checks:
            key = _shared_key(check, wanted)
            link = next((link for link in links if link.state.check == check and link.state.shared_key == key), None)
            if link is not None:
                links.remove(link)
                if new_probes or not same_destination:  # the check is as it was, but whom it asks for is not
                    link.state.slot.probe = self._probe_of(check, service, wanted)
            else:
                state = self._check(check, key, service, wanted, built)
                state.servers[server] = None
                link = CheckLink(state, not check.pace.alpha if old is None else server.up)
                if old is not None and same_destination and sets_weight(check):
                    server.held_weight = held
            server.links.append(link)
        for link in links:
            self._let_go(link, server)
        if old is None:
            server.up = server.judge()
        return server

    def _check(
        self, check: Check, key: SharedKey | None, service: WantedService, server: WantedServer, built: BuildResult
    ) -> CheckState:
        """A new check, or the one of another service that asks the same of the same server."""
        if key in self._shared:
            return self._shared[key]
        slot = ScheduledProbe(self._probe_of(check, service, server))
        state = CheckState(check, slot, key, first_counts=self.first_counts)
        slot.done = lambda outcome: self._outcome(state, outcome)
        if key is not None:
            self._shared[key] = state
        built.begun.append(state)
        return state

    def _renew(self, service: ServiceState) -> None:
        """New probes for checks that stay as they are."""
        for server in service.servers.values():
            for link in server.links:
                link.state.slot.probe = self._probe_of(link.state.check, service.wanted, server.wanted)

    def _end(self, service: ServiceState, servers: Iterable[ServerState], whole: bool, built: BuildResult) -> None:
        """These servers, with `whole` all of the service, are not in the configuration any more."""
        gone = list(servers)
        built.replacement.servers_removed += len(gone)
        built.events += service.last_words(gone, whole, REMOVED, built.at)
        for server in gone:
            links, server.links = server.links, []
            for link in links:
                self._let_go(link, server)

    def _let_go(self, link: CheckLink, server: ServerState) -> None:
        """The server has the check no more (where it had it twice, it may go on having it)."""
        if not any(other.state is link.state for other in server.links):
            link.state.servers.pop(server, None)
        if not link.state.servers:
            self._orphans[link.state] = None


def script_identity(settings: GlobalSettings) -> tuple[str, str, bool]:
    """What of the global settings every probe may depend on: whom scripts run as."""
    return settings.script_user, settings.script_group, settings.script_security


def _probe_settings(service: WantedService) -> tuple[object, ...]:
    """What of a service its probes may depend on."""
    return service.keys, service.virtualhost


def _shared_key(check: Check, server: WantedServer) -> SharedKey | None:
    """What checks must have in common to be one probe; None: it is not to be shared."""
    if not check.pace.shared or goes_via_vip(check):
        return None
    destination = server.destination
    return destination.key.address, check, destination.weight if sets_weight(check) else 0


def predecessors(old: Mapping[str, ServiceState], new: Configuration) -> dict[str, ServiceState]:
    """Of each new service the state that it goes on from: by its name, or, where it was renamed, by its keys."""
    found = {service.name: old[service.name] for service in new.services if service.name in old}
    left = {state.wanted.keys: state for name, state in old.items() if name not in found}
    for service in new.services:
        if service.name not in found and service.keys in left:
            found[service.name] = left.pop(service.keys)
    return found


# --- adoption --------------------------------------------------------------------------------------------------------
# What a table found says about servers that nobody has checked yet.


def adopt_service(service: ServiceState, row: ServiceRow) -> None:
    """Presume of each server with checks what its row, or its absence, says; and of the quorum what the sorry server
    says."""
    found = {each.destination.key: each.destination for each in row.destinations}
    for key, server in service.servers.items():
        if not server.links:
            continue
        there = found.get(key)
        if server.override.standing is Standing.DISABLED:
            continue  # its absence says nothing
        # Weight 0 says that an inhibiting server is down, unless it would have weight 0 up as well.
        inhibited = server.wanted.inhibit_on_failure and server.weight() > 0
        up = there is not None and (there.weight > 0 or not inhibited)
        for link in server.links:
            link.presumed = up
            link.state.first_counts &= not up
        server.up = up
        server.announced = True
        server.reason = "as the table was found"
        if (
            there is not None
            and up
            and not server.override
            and any(sets_weight(link.state.check) for link in server.links)
        ):
            server.held_weight = server.told_weight = there.weight
    service.prepare()
    sorry_server = service.wanted.sorry_server
    serving = sorry_server is not None and sorry_server.key in found and sorry_server.key not in service.servers
    served = serving and sorry_server is not None and found[sorry_server.key].weight > 0
    if served and any(server.links for server in service.servers.values()):
        service.has_quorum = False  # until the first result of a check
    else:
        service.has_quorum = service.quorum.after(not served, service.weight_up)
    service.changed()
