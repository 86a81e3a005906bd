"""Edits of the table as values, a snapshot of the table, and the edits that lead from a snapshot to the desired rows.

All of this is pure: the cache (`cache.py`) reads the real table, and applies the edits to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from operator import itemgetter
from typing import ClassVar, TypeVar

from pylvs.config.diff import differing, joined
from pylvs.model.dataclass import dataclass, field
from pylvs.model.director import Director
from pylvs.model.errors import PylvsError
from pylvs.model.rows import ServiceRow
from pylvs.model.service import (
    METHOD_NAMES,
    Destination,
    DestinationKey,
    ServiceFlag,
    ServiceKey,
    TunnelFlag,
    VirtualService,
)
from pylvs.model.wanted import WantedRow


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


@dataclass(frozen=True, slots=True)
class ServiceEdit:
    """From the service `found` (None: there is none) to the `desired` one. Without either the service is deleted."""

    key: ServiceKey
    desired: VirtualService | None = None
    found: VirtualService | None = None

    @property
    def adds_service(self) -> bool:
        return self.desired is not None and self.found is None

    def apply(self, director: Director) -> None:
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

    @property
    def foreign_change(self) -> str:
        """The change by another program that the edit reverts."""
        return _foreign_change(str(self.key), self.desired, self.found)

    def __str__(self) -> str:
        return _edit_text(str(self.key), self.desired, self.found)


@dataclass(frozen=True, slots=True)
class DestinationEdit:
    """The same of one destination of a service. Connections stay, except those of a deleted destination."""

    key: ServiceKey
    destination: DestinationKey
    desired: Destination | None = None
    found: Destination | None = None
    adds_service: ClassVar[bool] = False

    def apply(self, director: Director) -> None:
        """Edit the table. Raises what the Director's method raises."""
        if self.desired is None:
            director.delete_destination(self.key, self.destination)
        elif self.found is None:
            director.add_destination(self.key, self.desired)
        else:
            director.edit_destination(self.key, self.desired)

    def apply_to(self, snapshot: TableSnapshot) -> None:
        """Change the snapshot as `apply` changed the table."""
        if self.desired is None:
            del snapshot[self.key].servers[self.destination]
        else:
            snapshot[self.key].servers[self.destination] = self.desired

    @property
    def foreign_change(self) -> str:
        """The change by another program that the edit reverts."""
        return _foreign_change(f"{self.key} -> {self.destination}", self.desired, self.found)

    def __str__(self) -> str:
        return _edit_text(f"{self.key} -> {self.destination}", self.desired, self.found)


Edit = ServiceEdit | DestinationEdit


@dataclass(frozen=True, slots=True)
class RefusedEdit:
    """An edit that the data plane refused."""

    edit: Edit
    error: PylvsError

    def __str__(self) -> str:
        return f"{self.edit}: refused: {self.error}"


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
        yield from (DestinationEdit(key, each.key, each) for each in desired.values())
        return
    if found.service != with_netmask(row.service):
        yield ServiceEdit(key, row.service, found.service)
    servers = found.servers
    yield from (DestinationEdit(key, name, each) for name, each in desired.items() if name not in servers)
    changed = [
        (each.weight <= servers[name].weight, DestinationEdit(key, name, each, servers[name]))
        for name, each in desired.items()
        if name in servers and servers[name] != each
    ]
    yield from (edit for _, edit in sorted(changed, key=itemgetter(0)))
    yield from (DestinationEdit(key, name) for name in servers if name not in desired)


Value = TypeVar("Value", VirtualService, Destination)


def _fields(value: VirtualService | Destination) -> dict[str, str]:
    return _service_fields(value) if isinstance(value, VirtualService) else _destination_fields(value)


def _changes(before: Value, after: Value) -> str:
    """Return the options that differ: `weight 1 -> 3, method DR -> NAT`."""
    return ", ".join(map(str, differing(_fields(before), _fields(after))))


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
