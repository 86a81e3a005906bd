"""The services that the daemon owns: only these it deletes, and only of these it adopts the state of servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial

from pylvs.daemon.limits import TABLES_S
from pylvs.daemon.parts import Part
from pylvs.daemon.state.directory import SERVICES_FILE, StateDirectory
from pylvs.daemon.state.overrides import NotSaved, StateWriter
from pylvs.daemon.state.saved import OwnedServices, load_owned, save_owned
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import DestinationKey, moved
from pylvs.model.wanted import Configuration, WantedRow


class Ownership(Part):
    """The services that this daemon may delete, and the next one if this one is killed.

    The state directory has a service before the daemon's first edit of it, and until after the last.
    """

    def __init__(
        self, state: StateDirectory, writer: StateWriter, more: Callable[[], Iterable[WantedRow]] = tuple
    ) -> None:
        """`more` returns the rows of the desired table besides the configured services."""
        self._state = state
        self._writer = writer
        self._more = more
        self.owned: OwnedServices = {}
        self.pending = False  # to be saved after the next run of the reconciler
        self._uncertain = False  # the file may have other services than `owned`: a write failed, or is late

    def read(self) -> None:
        """Begin with the services of the last daemon. Raises PylvsError."""
        self.owned = load_owned(self._state)

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Save what `pylvs stop` needs if this daemon is killed. A start waits for a slow disk. Raises PylvsError."""
        await self.before_edits(self.wanted(configuration), TABLES_S)

    async def prepare(self, configuration: Configuration) -> None:
        """Save the services of both configurations. Raises PylvsError."""
        await self.before_edits(self.wanted(configuration))

    def wanted(self, configuration: Configuration) -> OwnedServices:
        """Return the services of this configuration, and of checks through virtual addresses."""
        checks = {row.service.key: frozenset(each.key for each in row.destinations) for row in self._more()}
        return checks | dict(owned_services(configuration))

    async def before_edits(self, owned: OwnedServices, patience_s: float | None = None) -> None:
        """Own the services of before and these as well, until `after_edits`.

        The new services have no servers yet: after a crash their absence from the table must not count as down. If the
        disk refuses them, they are owned all the same, because a service that works weighs more than one that a crash
        would leave. Raises PylvsError if the disk takes longer than this.
        """
        added = {key: frozenset[DestinationKey]() for key in owned}
        owned = added | dict(self.owned)
        try:
            await self.after_edits(owned, patience_s)
        except NotSaved:
            self.owned = owned

    async def after_edits(self, owned: OwnedServices, patience_s: float | None = None) -> None:
        """Own exactly these services. Raises NotSaved, and PylvsError if the disk takes longer than this."""
        try:
            await self._writer.write(SERVICES_FILE, partial(save_owned, self._state, owned), patience_s)
        except PylvsError:
            self._uncertain = self.pending = True
            raise
        self._uncertain, self.owned = False, owned

    async def follow(self, configured: OwnedServices, missing: OwnedServices, complete: bool) -> None:
        """Own the services in force, with the servers whose absence from the table means that they are down.

        A server is none of them while it should be in the table, but was not added (`missing`): its addition was
        refused. Services of before are owned until the table is complete, because there are some to delete.
        """
        before, nothing = self.owned, frozenset[DestinationKey]()
        owned = {
            key: servers - (missing.get(key, nothing) - before.get(key, nothing)) for key, servers in configured.items()
        }
        if not complete:
            owned = {**before, **owned}
        self.pending = owned != configured
        if owned == before and not self._uncertain:
            return
        with contextlib.suppress(PylvsError):  # what was saved before the edits is still true
            await self.after_edits(owned)


def owned_services(configuration: Configuration) -> OwnedServices:
    """Return the services of a configuration, with the names of their servers in the table."""
    return {
        key: frozenset(each.destination.listed_by(key).key for each in service.servers)
        for service in configuration.services
        for key in service.keys
    }


def adoptable_rows(rows: Iterable[ServiceRow], owned: OwnedServices, configuration: Configuration) -> list[ServiceRow]:
    """Return the table's rows of owned services, for the engine to adopt.

    A server that is new in the configuration is added to its row, because its absence does not mean that it is down.
    One whose port in the table changed has its present key; so has a sorry server.
    """
    configured = {key: service for service in configuration.services for key in service.keys}
    found = []
    for row in rows:
        key = row.service.key
        if key in owned and key in configured:
            present = {each.destination.key: each for each in row.destinations}
            listed = [each.destination.listed_by(key) for each in configured[key].servers]
            servers = {each.key: each for each in listed}
            sorry = configured[key].sorry_server
            former = moved(owned[key] | present.keys(), (*servers.values(), *([sorry.listed_by(key)] if sorry else ())))
            for name, was in former.items():
                if was in present:
                    there = present.pop(was)
                    present[name] = replace(there, destination=replace(there.destination, key=name))
            known = present.keys() | owned[key] | former.keys()
            new = [each for name, each in servers.items() if name not in known]
            found.append(replace(row, destinations=(*present.values(), *map(DestinationRow, new))))
    return found
