"""The table as the daemon last left it, and the fewest edits from there to the desired rows.

The cache runs in the table thread. Reading a large table is slow, so it does that only after another program has edited
the table, which the edition shows. It applies the daemon's own edits to its snapshot. Planning edits does no I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from operator import itemgetter
from typing import ClassVar, Protocol, TypeVar

from pylvs.config.diff import differing, joined
from pylvs.model.client_rules import ClientRule, summary
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.director import Director
from pylvs.model.errors import Busy, PylvsError
from pylvs.model.rows import Handshakes, PacketCounts, ServiceRow
from pylvs.model.service import (
    METHOD_NAMES,
    UNCHANGED,
    Destination,
    DestinationKey,
    Method,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    TunnelFlag,
    VirtualService,
    is_probe_mark,
    moved,
)
from pylvs.model.wanted import WantedRow

NO_RULES: Mapping[ServiceKey, tuple[ClientRule, ...]] = {}
WHOLE_S = 5.0  # to add a service with its servers, or a whole table; below the lease of the table thread


@dataclass(slots=True)
class SnapshotEntry:
    """A service, its destinations and client rules. Its netmask is filled in: equal services must compare equal."""

    service: VirtualService
    servers: dict[DestinationKey, Destination] = field(default_factory=dict)
    client_rules: tuple[ClientRule, ...] = ()


TableSnapshot = dict[ServiceKey, SnapshotEntry]


def with_netmask(service: VirtualService) -> VirtualService:
    """Return the service with its default netmask filled in."""
    return service if service.netmask >= 0 else replace(service, netmask=service.mask)


def snapshot_of(
    rows: Iterable[ServiceRow], client_rules: Mapping[ServiceKey, tuple[ClientRule, ...]] = NO_RULES
) -> TableSnapshot:
    """Make a snapshot of a listing, without its counters."""
    return {
        row.service.key: SnapshotEntry(
            with_netmask(row.service),
            {each.destination.key: each.destination for each in row.destinations},
            client_rules.get(row.service.key, ()),
        )
        for row in rows
    }


@dataclass(frozen=True, slots=True)
class ServiceEdit:
    """From the service `found` (None: there is none) to the `desired` one. Without either the service is deleted."""

    key: ServiceKey
    desired: VirtualService | None = None
    found: VirtualService | None = None
    gives_usable: ClassVar[bool] = False

    @property
    def adds_service(self) -> bool:
        return self.desired is not None and self.found is None

    def apply(self, director: LongLivedDirector) -> None:
        """Edit the table. Raises what the Director's method raises."""
        if self.desired is None:
            director.delete_service(self.key)
        elif self.found is None:
            director.add_service(self.desired)
        else:
            director.edit_service(self.desired)

    def apply_to(self, snapshot: TableSnapshot) -> None:
        """Change the snapshot as `apply` changed the table."""
        if self.desired is None:
            del snapshot[self.key]
        elif self.found is None:
            snapshot[self.key] = SnapshotEntry(with_netmask(self.desired))
        else:
            snapshot[self.key].service = with_netmask(self.desired)

    def removes_last_usable(self, _snapshot: TableSnapshot) -> bool:
        """Return False: a service that is deleted needs no destination."""
        return False

    @property
    def foreign_change(self) -> str:
        """The change by another program that the edit reverts."""
        return _foreign_change(str(self.key), self.desired, self.found)

    def __str__(self) -> str:
        return _edit_text(str(self.key), self.desired, self.found)


@dataclass(frozen=True, slots=True)
class DestinationEdit:
    """The same of one destination of a service. Connections stay, except those of a deleted destination.

    If the desired one has another port, it is renamed (`LongLivedDirector.rename_destination`).
    """

    key: ServiceKey
    destination: DestinationKey
    desired: Destination | None = None
    found: Destination | None = None
    adds_service: ClassVar[bool] = False

    @property
    def gives_usable(self) -> bool:
        """Whether the destination has a weight afterwards."""
        return self.desired is not None and self.desired.weight > 0

    def removes_last_usable(self, snapshot: TableSnapshot) -> bool:
        """Return whether no destination of the service has a weight afterwards, but one has now."""
        usable = {name for name, each in snapshot[self.key].servers.items() if each.weight > 0}
        return usable == {self.destination} and not self.gives_usable

    def apply(self, director: LongLivedDirector) -> None:
        """Edit the table. Raises what the Director's method raises."""
        if self.desired is None:
            director.delete_destination(self.key, self.destination)
        elif self.found is None:
            director.add_destination(self.key, self.desired)
        else:
            if self.desired.key != self.destination:
                director.rename_destination(self.key, self.destination, self.desired.key)
            if self.desired != replace(self.found, key=self.desired.key):
                director.edit_destination(self.key, self.desired)

    def apply_to(self, snapshot: TableSnapshot) -> None:
        """Change the snapshot as `apply` changed the table."""
        servers = snapshot[self.key].servers
        if self.desired is None or self.desired.key != self.destination:
            del servers[self.destination]
        if self.desired is not None:
            servers[self.desired.key] = self.desired

    @property
    def foreign_change(self) -> str:
        """The change by another program that the edit reverts."""
        return _foreign_change(f"{self.key} -> {self.destination}", self.desired, self.found)

    def __str__(self) -> str:
        return _edit_text(f"{self.key} -> {self.destination}", self.desired, self.found)


@dataclass(frozen=True, slots=True)
class RulesEdit:
    """From the client rules `found` of a service to the `desired` ones, at once."""

    key: ServiceKey
    desired: tuple[ClientRule, ...] = ()
    found: tuple[ClientRule, ...] = ()
    adds_service: ClassVar[bool] = False
    gives_usable: ClassVar[bool] = False

    def apply(self, director: LongLivedDirector) -> None:
        """Edit the table. Raises what the Director's method raises."""
        director.change_client_rules(self.key, lambda _: self.desired)

    def apply_to(self, snapshot: TableSnapshot) -> None:
        """Change the snapshot as `apply` changed the table."""
        snapshot[self.key].client_rules = self.desired

    def is_first(self, snapshot: TableSnapshot) -> bool:
        """Return whether the service has neither rules nor destinations before."""
        return not (self.found or snapshot[self.key].servers)

    def removes_last_usable(self, _snapshot: TableSnapshot) -> bool:
        """Return False: rules remove no destination."""
        return False

    @property
    def foreign_change(self) -> str:
        """The change by another program that the edit reverts."""
        return f"{self.key} was changed: client rules {self._changes(self.desired, self.found)}"

    @staticmethod
    def _changes(before: tuple[ClientRule, ...], after: tuple[ClientRule, ...]) -> str:
        return f"{summary(before) or 'none'} -> {summary(after) or 'none'}"

    def __str__(self) -> str:
        return f"{self.key}: client rules {self._changes(self.found, self.desired)}"


Edit = ServiceEdit | DestinationEdit | RulesEdit


def required_edits(
    found: Mapping[ServiceKey, SnapshotEntry],
    desired: Iterable[WantedRow],
    owned: Collection[ServiceKey] = (),
    exclusive: bool = False,
) -> tuple[Edit, ...]:
    """Return the fewest edits that lead from the table found to the desired rows.

    Services that are not desired are deleted if they are in `owned`, or if `exclusive`. Of rows with the same service,
    and of destinations with the same key, the first counts.
    """
    rows: dict[ServiceKey, WantedRow] = {}
    for row in desired:
        rows.setdefault(row.service.key, row)
    edits: list[Edit] = []
    for key, row in rows.items():
        edits += _row_edits(found.get(key), row)
    edits += [ServiceEdit(key) for key in found if key not in rows and (exclusive or key in owned)]
    return tuple(edits)


def _row_edits(found: SnapshotEntry | None, row: WantedRow) -> Iterator[Edit]:
    """Yield the edits of one service: additions, rising weights, other changes, deletions.

    In this order the service has a destination at every moment at which the old or the new table gives it one.
    """
    key = row.service.key
    desired: dict[DestinationKey, Destination] = {}
    for each in row.destinations:
        desired.setdefault(each.key, each)
    if found is None:
        yield ServiceEdit(key, row.service)
        if row.client_rules:
            yield RulesEdit(key, row.client_rules)
        yield from (DestinationEdit(key, each.key, each) for each in desired.values())
        return
    if found.service != with_netmask(row.service):
        yield ServiceEdit(key, row.service, found.service)
    if found.client_rules != row.client_rules:
        yield RulesEdit(key, row.client_rules, found.client_rules)
    servers = found.servers
    former = _renamed(servers, desired)
    present = servers.keys() | former.keys()
    yield from (DestinationEdit(key, name, each) for name, each in desired.items() if name not in present)
    changed = []
    for name, server in desired.items():
        if name in present and (before := servers[former.get(name, name)]) != server:
            changed.append((server.weight <= before.weight, DestinationEdit(key, before.key, server, before)))
    yield from (edit for _, edit in sorted(changed, key=itemgetter(0)))
    left = desired.keys() | former.values()
    yield from (DestinationEdit(key, name) for name in servers if name not in left)


def _renamed(
    found: Mapping[DestinationKey, Destination], desired: Mapping[DestinationKey, Destination]
) -> dict[DestinationKey, DestinationKey]:
    """Return the names in the table of desired destinations that have another port there, by the desired ones.

    Packets to these are the same with any port, but those of a deleted destination's connections are dropped. ipvsadm
    may have added them with that port.
    """
    if found.keys() == desired.keys():
        return {}
    free = [name for name, each in found.items() if name not in desired and each.method is not Method.MASQ]
    fitting = (each for name, each in desired.items() if name not in found and each.method is not Method.MASQ)
    return moved(free, fitting)


Value = TypeVar("Value", VirtualService, Destination)


def _fields(value: VirtualService | Destination) -> dict[str, str]:
    return _service_fields(value) if isinstance(value, VirtualService) else _destination_fields(value)


def _changes(before: Value, after: Value) -> str:
    """Return the options that differ: `weight 1 -> 3, method DR -> NAT`."""
    found = [*map(str, differing(_fields(before), _fields(after)))]
    if before.key != after.key:  # of a destination: services have no edit of their key
        found.insert(0, f"port {before.key.port} -> {after.key.port}")
    return ", ".join(found)


def _edit_text(name: str, desired: Value | None, found: Value | None) -> str:
    if desired is None:
        return f"{name}: removed"
    if found is None:
        return f"{name}: added, {joined(_fields(desired))}"
    return f"{name}: {_changes(found, desired)}"


def _foreign_change(name: str, desired: Value | None, found: Value | None) -> str:
    """Describe the change by another program that an edit reverts."""
    if desired is None:
        return f"{name} was added, though it is not configured"
    if found is None:
        return f"{name} was removed"
    return f"{name} was changed: {_changes(desired, found)}"


def _service_fields(service: VirtualService) -> dict[str, str]:
    """Return the scheduler and the options that are not defaults."""
    fields = {"scheduler": service.scheduler}
    if service.flags & ServiceFlag.PERSISTENT or service.timeout_s:
        fields["persistence"] = f"{service.timeout_s} s"
    if service.mask != VirtualService(service.key).mask:
        v4 = isinstance(service.key.address, IPv4Address)
        fields["granularity"] = str(IPv4Address(service.mask)) if v4 else f"/{service.mask}"
    if service.engine:
        fields["engine"] = service.engine
    if service.mss_clamp:
        fields["MSS clamp"] = str(service.mss_clamp)
    flags = [flag.name.lower().replace("_", "-") for flag in service.flags & ~ServiceFlag.PERSISTENT if flag.name]
    if flags:
        fields["flags"] = "+".join(flags)
    return fields


def _destination_fields(destination: Destination) -> dict[str, str]:
    """Return weight, forwarding method, thresholds and tunnel."""
    fields = {"weight": str(destination.weight), "method": METHOD_NAMES[destination.method]}
    if destination.upper or destination.lower:
        fields["thresholds"] = f"{destination.lower} to {destination.upper}"
    tunnel = destination.tunnel
    if tunnel.kind or tunnel.port or tunnel.flags:
        parts = [tunnel.kind.name, str(tunnel.port) if tunnel.port else ""]
        parts += [flag.name.lower() for flag in TunnelFlag if flag & tunnel.flags and flag.name]
        fields["tunnel"] = " ".join(part for part in parts if part)
    return fields


class LongLivedDirector(Director, Protocol):
    """A Director with the methods for a process that keeps it open."""

    def edition(self) -> int:
        """Return a number that every edit of the tables changes, by any process; 0 without tables."""

    def larger_capacity(self) -> int:
        """Return the capacity that the connection table should have; 0: the present one. Raises NoSpace."""

    def rename_destination(self, key: ServiceKey, former: DestinationKey, name: DestinationKey) -> None:
        """Give a destination of DR or TUN another port. Its connections, templates and counters stay.

        IPVS has no such edit. Raises NoSuchService, NoSuchDestination, DestinationExists, InvalidOperation.
        """

    def client_rules(self) -> Mapping[ServiceKey, tuple[ClientRule, ...]]:
        """Return the client rules of the services that have any, in the order of their prefixes."""

    def change_client_rules(self, key: ServiceKey, change: Callable[[list[ClientRule]], Sequence[ClientRule]]) -> None:
        """Replace the client rules of a service atomically by the result of `change`.

        Raises NoSuchService, InvalidOperation, NoSpace.
        """

    def packet_counts(self) -> PacketCounts:
        """Return the drop reasons and other packet counters; empty without tables."""

    def handshakes(self) -> Mapping[tuple[ServiceKey, DestinationKey], Handshakes]:
        """Return the handshakes of the destinations that have any, since they were added; empty without tables.

        Destinations that were deleted a short time ago are among them.
        """

    def follow_host(self) -> Sequence[str]:
        """Bring attachments and snapshots up to date with this host's addresses, devices and routes.

        Return what other programs had changed, and this has put right.
        """


class TableChanged(Busy):
    """Another program edited the tables between the plan and its edits."""


@dataclass(frozen=True, slots=True)
class DesiredTable:
    """The desired rows and timeouts. Other services in `owned` are deleted; with `exclusive`, all others are.

    A timeout of 0 is not the daemon's: it stays, or returns to what it was before the daemon set it.
    """

    rows: Sequence[WantedRow]
    owned: Collection[ServiceKey] = ()
    exclusive: bool = False
    timeouts: Timeouts = UNCHANGED


@dataclass(frozen=True, slots=True)
class EditPlan:
    """The edits that the table needs.

    `restored` are those edits that revert changes by other programs. `tables_gone`: the tables were there and are not
    any more. `changed`: the desired or the actual table differs from the one of the last plan.
    """

    edits: tuple[Edit, ...] = ()
    restored: tuple[Edit, ...] = ()
    tables_gone: bool = False
    timeouts: Timeouts | None = None
    changed: bool = True


class TableCache:
    """One Director and a snapshot of its table."""

    def __init__(self, director: LongLivedDirector) -> None:
        self.director = director
        self._snapshot: TableSnapshot | None = None
        self._edition = 0  # of the snapshot
        self._former_timeouts = UNCHANGED  # from before the daemon set them; 0 for those that it does not set
        self._found_timeouts = UNCHANGED  # the same after the edits of the last plan
        self._refused: set[ServiceKey] = set()  # services with an edit that was refused since the last plan
        self._lacking: set[ServiceKey] = set()  # refused services that the edit would have given a usable destination
        self._unruled: set[ServiceKey] = set()  # refused services without destinations that have no client rules yet
        # What the last applied plan put into the table. None replaces a row with a refused edit.
        self._applied: Sequence[WantedRow | None] = ()
        self._applied_keys: set[ServiceKey] = set()
        self._shape: tuple[Collection[ServiceKey], bool, int] | None = None

    def rows(self) -> list[ServiceRow]:
        """Read the table with its counters. Raises PylvsError, OSError."""
        return self.director.services() if self.director.edition() else []

    def client_rules(self) -> dict[ServiceKey, tuple[ClientRule, ...]]:
        """Return the client rules of all services, as of the last plan and its edits. Raises PylvsError, OSError."""
        if self._snapshot is not None:
            return {key: entry.client_rules for key, entry in self._snapshot.items()}
        rules = self.director.client_rules()
        return {row.service.key: rules.get(row.service.key, ()) for row in self.rows()}

    def plan(self, desired: DesiredTable) -> EditPlan:
        """Return the edits that lead to the desired table. Raises PylvsError, OSError where it cannot be read."""
        edition = self.director.edition()
        before, tables_gone = self._snapshot, bool(self._edition) and not edition
        foreign = before is None or edition != self._edition
        if foreign:
            self._applied, self._shape = (), None
            rows, rules = (self.director.services(), self.director.client_rules()) if edition else ([], NO_RULES)
            self._snapshot, self._edition = snapshot_of(rows, rules), edition
        assert self._snapshot is not None
        self._refused, self._lacking, self._unruled = set(), set(), set()
        # The engine returns the same object for a row that did not change, so identity is enough and costs nothing.
        applied = self._applied
        changed = [row for at, row in enumerate(desired.rows) if at >= len(applied) or row is not applied[at]]
        # As many rows as before, and none with another key: no service was added or removed.
        same_services = self._shape == _shape(desired) and all(row.service.key in self._applied_keys for row in changed)
        if same_services:
            needed = required_edits(self._snapshot, changed)
        else:
            # A daemon that was killed may have left services of checks, which no configuration names.
            owned = {*desired.owned, *(key for key in self._snapshot if is_probe_mark(key.mark))}
            needed = required_edits(self._snapshot, desired.rows, owned, desired.exclusive)
        restored: tuple[Edit, ...] = ()
        if foreign and before is not None:
            own = frozenset(required_edits(before, desired.rows, desired.owned, desired.exclusive))
            restored = tuple(edit for edit in needed if edit not in own)
        timeouts = self._required_timeouts(desired.timeouts, bool(edition))
        return EditPlan(needed, restored, tables_gone, timeouts, bool(changed) or not same_services)

    def _required_timeouts(self, desired: Timeouts, has_tables: bool) -> Timeouts | None:
        """Return the timeouts to set, None if they are right."""
        present = self.director.timeouts()
        former = self._former_timeouts if has_tables else UNCHANGED
        found = former.over(present)
        needed = desired.over(found)
        self._found_timeouts = Timeouts(*(was if own else 0 for own, was in zip(desired, found, strict=True)))
        if needed != present:
            return needed
        self._former_timeouts = self._found_timeouts
        return None

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the timeouts of connections. Raises PylvsError, OSError."""
        with self.director.batch():
            self._check_unchanged()
            self.director.set_timeouts(timeouts)
            self._edition = self.director.edition()
        self._former_timeouts = self._found_timeouts

    def apply(self, todo: Sequence[Edit], budget_s: float) -> tuple[int, list[str]]:
        """Apply edits of a plan for about `budget_s`; return how many were tried, and those that were refused, as text.

        A new service takes effect with all its destinations, and so does a whole new table, for up to `WHOLE_S`.
        The destinations of a service that could not be added are skipped. So are those of one that has none yet if its
        client rules are refused, since it would serve the clients that they deny. If a usable destination could not be
        added, the last usable one stays. Raises TableChanged, Busy, OSError before the first edit.
        """
        refused: list[str] = []
        added = set[ServiceKey]()
        count = 0
        with self.director.batch():
            self._check_unchanged()
            assert self._snapshot is not None
            is_new, begin = not self._snapshot, time.monotonic()
            try:
                for edit in todo:
                    allowed_s = max(budget_s, WHOLE_S) if is_new or edit.key in added else budget_s
                    if count and time.monotonic() - begin >= allowed_s:
                        break
                    count += 1
                    if edit.key not in self._snapshot and not edit.adds_service:
                        continue
                    if edit.key in self._unruled and isinstance(edit, DestinationEdit):
                        continue
                    if edit.key in self._lacking and edit.removes_last_usable(self._snapshot):
                        refused.append(f"{edit}: refused: the service would have no usable destination")
                        continue
                    try:
                        edit.apply(self.director)
                    except PylvsError as error:
                        refused.append(f"{edit}: refused: {error}")
                        self._refused.add(edit.key)
                        if edit.gives_usable:
                            self._lacking.add(edit.key)
                        if isinstance(edit, RulesEdit) and edit.is_first(self._snapshot):
                            self._unruled.add(edit.key)
                    else:
                        edit.apply_to(self._snapshot)
                        if edit.adds_service:
                            added.add(edit.key)
            except BaseException:
                self._snapshot = None  # the last edit may or may not be in the table
                raise
            self._edition = self.director.edition()
        return count, refused

    def plan_applied(self, desired: DesiredTable) -> None:
        """Note that the plan for this table was applied, except for refused edits."""
        self._applied = [None if row.service.key in self._refused else row for row in desired.rows]
        self._applied_keys = {row.service.key for row in desired.rows}
        # A service whose deletion was refused has no row: only a plan of the whole table deletes it.
        whole = len(self._applied_keys) == len(desired.rows) and self._refused <= self._applied_keys
        self._shape = _shape(desired) if whole else None

    def missing(self, desired: DesiredTable) -> dict[ServiceKey, frozenset[DestinationKey]]:
        """Return the desired destinations that the table did not have after the last edit or plan."""
        snapshot = self._snapshot or {}
        return {
            (key := row.service.key): frozenset(each.key for each in row.destinations)
            - (snapshot[key].servers.keys() if key in snapshot else frozenset())
            for row in desired.rows
        }

    def _check_unchanged(self) -> None:
        """Within the batch: raise TableChanged unless the table is still that of the plan."""
        edition = self.director.edition()
        if edition == self._edition:
            return
        if self._edition or self.director.services():
            raise TableChanged("the tables were edited after the plan")
        self._edition = edition  # the batch itself made the tables


def _shape(desired: DesiredTable) -> tuple[Collection[ServiceKey], bool, int]:
    """Return what changes whenever a service is added or removed, except when one replaces another."""
    return desired.owned, desired.exclusive, len(desired.rows)
