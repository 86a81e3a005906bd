"""Edits of the table as values, a snapshot of the table, and the edits that lead from a snapshot to the desired rows.

All of this is pure: the cache (`cache.py`) reads the real table, and applies the edits to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import METHOD_NAMES, Destination, DestinationKey, TunnelFlag
from pylvs.model.director import Director, ServiceRow
from pylvs.model.errors import PylvsError
from pylvs.model.service import ServiceFlag, ServiceKey, VirtualService
from pylvs.model.wanted import WantedRow

# --- services and destinations in log lines: `weight 1 -> 3, method DR -> NAT` ---


def describe_service(service: VirtualService) -> str:
    """Return the scheduler and the options that are not defaults."""
    return _joined(_service_fields(service))


def describe_destination(destination: Destination) -> str:
    """Return weight, forwarding method, thresholds and tunnel."""
    return _joined(_destination_fields(destination))


def service_changes(before: VirtualService, after: VirtualService) -> str:
    """Return the options that differ, as `NAME OLD -> NEW`."""
    return _changes(_service_fields(before), _service_fields(after))


def destination_changes(before: Destination, after: Destination) -> str:
    """Return the options that differ, as `NAME OLD -> NEW`."""
    return _changes(_destination_fields(before), _destination_fields(after))


def _service_fields(service: VirtualService) -> dict[str, str]:
    fields = {"scheduler": service.scheduler}
    if service.flags & ServiceFlag.PERSISTENT or service.timeout_s:
        fields["persistence"] = f"{service.timeout_s} s"
    if service.mask != VirtualService(service.key).mask:
        v4 = isinstance(service.key.address, IPv4Address)
        fields["granularity"] = str(IPv4Address(service.mask)) if v4 else f"/{service.mask}"
    if service.engine:
        fields["engine"] = service.engine
    flags = [flag.name.lower().replace("_", "-") for flag in service.flags & ~ServiceFlag.PERSISTENT if flag.name]
    if flags:
        fields["flags"] = "+".join(flags)
    return fields


def _destination_fields(destination: Destination) -> dict[str, str]:
    fields = {"weight": str(destination.weight), "method": METHOD_NAMES[destination.method]}
    if destination.upper or destination.lower:
        fields["thresholds"] = f"{destination.lower} to {destination.upper}"
    tunnel = destination.tunnel
    if tunnel.kind or tunnel.port or tunnel.flags:
        parts = [tunnel.kind.name, str(tunnel.port) if tunnel.port else ""]
        parts += [flag.name.lower() for flag in TunnelFlag if flag & tunnel.flags and flag.name]
        fields["tunnel"] = " ".join(part for part in parts if part)
    return fields


def _joined(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    names = [*before, *(name for name in after if name not in before)]
    return ", ".join(
        f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in names
        if before.get(name) != after.get(name)
    )


# --- edits ---
# `key` is the edited service. `apply` raises what the Director's method raises. `foreign_change` describes the change
# by another program that the edit reverts.


@dataclass(frozen=True, slots=True)
class AddService:
    """Add a service without destinations."""

    service: VirtualService

    @property
    def key(self) -> ServiceKey:
        return self.service.key

    def apply(self, director: Director) -> None:
        director.add_service(self.service)

    @property
    def foreign_change(self) -> str:
        return f"{self.key} was removed"

    def __str__(self) -> str:
        return f"{self.key}: added, {describe_service(self.service)}"


@dataclass(frozen=True, slots=True)
class EditService:
    """Change how a service is scheduled; destinations and connections stay."""

    service: VirtualService
    found: VirtualService

    @property
    def key(self) -> ServiceKey:
        return self.service.key

    def apply(self, director: Director) -> None:
        director.edit_service(self.service)

    @property
    def foreign_change(self) -> str:
        return f"{self.key} was changed: {service_changes(self.service, self.found)}"

    def __str__(self) -> str:
        return f"{self.key}: {service_changes(self.found, self.service)}"


@dataclass(frozen=True, slots=True)
class DeleteService:
    """Delete a service with its destinations."""

    key: ServiceKey

    def apply(self, director: Director) -> None:
        director.delete_service(self.key)

    @property
    def foreign_change(self) -> str:
        return f"{self.key} was added, though it is not configured"

    def __str__(self) -> str:
        return f"{self.key}: removed"


@dataclass(frozen=True, slots=True)
class AddDestination:
    """Add a destination to a service."""

    key: ServiceKey
    destination: Destination

    def apply(self, director: Director) -> None:
        director.add_destination(self.key, self.destination)

    @property
    def foreign_change(self) -> str:
        return f"{self.key} -> {self.destination.key} was removed"

    def __str__(self) -> str:
        return f"{self.key} -> {self.destination.key}: added, {describe_destination(self.destination)}"


@dataclass(frozen=True, slots=True)
class EditDestination:
    """Change a destination; its connections stay."""

    key: ServiceKey
    destination: Destination
    found: Destination

    def apply(self, director: Director) -> None:
        director.edit_destination(self.key, self.destination)

    @property
    def foreign_change(self) -> str:
        changes = destination_changes(self.destination, self.found)
        return f"{self.key} -> {self.destination.key} was changed: {changes}"

    def __str__(self) -> str:
        changes = destination_changes(self.found, self.destination)
        return f"{self.key} -> {self.destination.key}: {changes}"


@dataclass(frozen=True, slots=True)
class DeleteDestination:
    """Delete a destination; its connections end as in IPVS."""

    key: ServiceKey
    destination: DestinationKey

    def apply(self, director: Director) -> None:
        director.delete_destination(self.key, self.destination)

    @property
    def foreign_change(self) -> str:
        return f"{self.key} -> {self.destination} was added, though it is not configured"

    def __str__(self) -> str:
        return f"{self.key} -> {self.destination}: removed"


Edit = AddService | EditService | DeleteService | AddDestination | EditDestination | DeleteDestination


@dataclass(frozen=True, slots=True)
class RefusedEdit:
    """An edit that the data plane refused."""

    edit: Edit
    error: PylvsError

    def __str__(self) -> str:
        return f"{self.edit}: refused: {self.error}"


# --- the snapshot ---


@dataclass(slots=True)
class SnapshotEntry:
    """A service and its destinations. Its netmask is filled in, because equal services must compare equal."""

    service: VirtualService
    servers: dict[DestinationKey, Destination] = field(default_factory=dict)


TableSnapshot = dict[ServiceKey, SnapshotEntry]


def with_netmask(service: VirtualService) -> VirtualService:
    """Return the service with its default netmask filled in."""
    return service if service.netmask >= 0 else replace(service, netmask=service.mask)


def snapshot_of(rows: Iterable[ServiceRow]) -> TableSnapshot:
    """Make a snapshot of a listing, without its counters."""
    return {
        row.service.key: SnapshotEntry(
            with_netmask(row.service), {each.destination.key: each.destination for each in row.destinations}
        )
        for row in rows
    }


def apply_to_snapshot(snapshot: TableSnapshot, edit: Edit) -> None:
    """Change the snapshot as the edit changed the table."""
    if isinstance(edit, AddService):
        snapshot[edit.key] = SnapshotEntry(with_netmask(edit.service))
    elif isinstance(edit, DeleteService):
        del snapshot[edit.key]
    elif isinstance(edit, DeleteDestination):
        del snapshot[edit.key].servers[edit.destination]
    elif isinstance(edit, (AddDestination, EditDestination)):
        snapshot[edit.key].servers[edit.destination.key] = edit.destination
    else:
        snapshot[edit.key].service = with_netmask(edit.service)


# --- from the snapshot to the desired rows ---


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
    edits += [DeleteService(key) for key in found if key not in rows and (exclusive or key in owned)]
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
        yield AddService(row.service)
        yield from (AddDestination(key, each) for each in desired.values())
        return
    if found.service != with_netmask(row.service):
        yield EditService(row.service, found.service)
    servers = found.servers
    yield from (AddDestination(key, each) for name, each in desired.items() if name not in servers)
    changed = [
        EditDestination(key, each, servers[name])
        for name, each in desired.items()
        if name in servers and servers[name] != each
    ]
    yield from sorted(changed, key=lambda edit: edit.destination.weight <= edit.found.weight)
    yield from (DeleteDestination(key, name) for name in servers if name not in desired)
