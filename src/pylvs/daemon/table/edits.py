"""Single edits of a table, as values: what each does to a Director, and what it is called in a log."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import Destination, DestinationKey, Method, TunnelFlag
from pylvs.model.director import Director, ServiceRow
from pylvs.model.errors import PylvsError
from pylvs.model.service import ServiceFlag, ServiceKey, VirtualService
from pylvs.model.wanted import WantedRow

# --- words -----------------------------------------------------------------------------------------------------------
# Services and servers in the words of logs: `weight 1 -> 3, method Route -> Masq`.


METHODS = {Method.MASQ: "NAT", Method.LOCAL: "local", Method.TUNNEL: "TUN", Method.ROUTE: "DR"}


def describe_service(service: VirtualService) -> str:
    """How it is scheduled."""
    return _joined(_service_fields(service))


def describe_destination(destination: Destination) -> str:
    """How it is reached, and with what weight."""
    return _joined(_destination_fields(destination))


def service_changes(before: VirtualService, after: VirtualService) -> str:
    """What differs."""
    return _changes(_service_fields(before), _service_fields(after))


def destination_changes(before: Destination, after: Destination) -> str:
    """What differs."""
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
    fields = {"weight": str(destination.weight), "method": METHODS[destination.method]}
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


# --- edits -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddService:
    """A service comes, still without servers."""

    service: VirtualService

    @property
    def key(self) -> ServiceKey:
        """Whose edit it is."""
        return self.service.key

    def apply(self, director: Director) -> None:
        """Raises as `Director.add_service`."""
        director.add_service(self.service)

    @property
    def undoes(self) -> str:
        """What somebody did, where this edit is there to undo it."""
        return f"{self.key} was removed"

    def __str__(self) -> str:
        return f"{self.key}: added, {describe_service(self.service)}"


@dataclass(frozen=True, slots=True)
class EditService:
    """A service is scheduled otherwise; its servers and connections stay."""

    service: VirtualService
    found: VirtualService

    @property
    def key(self) -> ServiceKey:
        """Whose edit it is."""
        return self.service.key

    def apply(self, director: Director) -> None:
        """Raises as `Director.edit_service`."""
        director.edit_service(self.service)

    @property
    def undoes(self) -> str:
        """What somebody did, where this edit is there to undo it."""
        return f"{self.key} was changed: {service_changes(self.service, self.found)}"

    def __str__(self) -> str:
        return f"{self.key}: {service_changes(self.found, self.service)}"


@dataclass(frozen=True, slots=True)
class DeleteService:
    """A service goes, with its servers."""

    key: ServiceKey

    def apply(self, director: Director) -> None:
        """Raises as `Director.delete_service`."""
        director.delete_service(self.key)

    @property
    def undoes(self) -> str:
        """What somebody did, where this edit is there to undo it."""
        return f"{self.key} was added, though nobody configured it"

    def __str__(self) -> str:
        return f"{self.key}: removed"


@dataclass(frozen=True, slots=True)
class AddDestination:
    """A server comes."""

    key: ServiceKey
    destination: Destination

    def apply(self, director: Director) -> None:
        """Raises as `Director.add_destination`."""
        director.add_destination(self.key, self.destination)

    @property
    def undoes(self) -> str:
        """What somebody did, where this edit is there to undo it."""
        return f"{self.key} -> {self.destination.key} was removed"

    def __str__(self) -> str:
        return f"{self.key} -> {self.destination.key}: added, {describe_destination(self.destination)}"


@dataclass(frozen=True, slots=True)
class EditDestination:
    """A server changes; its connections stay."""

    key: ServiceKey
    destination: Destination
    found: Destination

    def apply(self, director: Director) -> None:
        """Raises as `Director.edit_destination`."""
        director.edit_destination(self.key, self.destination)

    @property
    def undoes(self) -> str:
        """What somebody did, where this edit is there to undo it."""
        changes = destination_changes(self.destination, self.found)
        return f"{self.key} -> {self.destination.key} was changed: {changes}"

    def __str__(self) -> str:
        changes = destination_changes(self.found, self.destination)
        return f"{self.key} -> {self.destination.key}: {changes}"


@dataclass(frozen=True, slots=True)
class DeleteDestination:
    """A server goes; its connections end as IPVS lets them."""

    key: ServiceKey
    destination: DestinationKey

    def apply(self, director: Director) -> None:
        """Raises as `Director.delete_destination`."""
        director.delete_destination(self.key, self.destination)

    @property
    def undoes(self) -> str:
        """What somebody did, where this edit is there to undo it."""
        return f"{self.key} -> {self.destination} was added, though nobody configured it"

    def __str__(self) -> str:
        return f"{self.key} -> {self.destination}: removed"


Edit = AddService | EditService | DeleteService | AddDestination | EditDestination | DeleteDestination


# --- image -----------------------------------------------------------------------------------------------------------
# A table as it was last seen: services and their servers, without counts; edits are done to it as to the real one.


@dataclass(slots=True)
class SnapshotEntry:
    """A service, its default mask filled in so that equal ones compare equal, and its servers."""

    service: VirtualService
    servers: dict[DestinationKey, Destination] = field(default_factory=dict)


TableSnapshot = dict[ServiceKey, SnapshotEntry]
SnapshotView = Mapping[ServiceKey, SnapshotEntry]


def with_netmask(service: VirtualService) -> VirtualService:
    """With its default mask filled in."""
    return service if service.netmask >= 0 else replace(service, netmask=service.mask)


def snapshot_of(rows: Iterable[ServiceRow]) -> TableSnapshot:
    """What a listing shows."""
    return {
        row.service.key: SnapshotEntry(
            with_netmask(row.service), {each.destination.key: each.destination for each in row.destinations}
        )
        for row in rows
    }


def apply_to_snapshot(image: TableSnapshot, edit: Edit) -> None:
    """The image after an edit that was done."""
    if isinstance(edit, AddService):
        image[edit.key] = SnapshotEntry(with_netmask(edit.service))
    elif isinstance(edit, DeleteService):
        del image[edit.key]
    elif isinstance(edit, DeleteDestination):
        del image[edit.key].servers[edit.destination]
    elif isinstance(edit, (AddDestination, EditDestination)):
        image[edit.key].servers[edit.destination.key] = edit.destination
    else:
        image[edit.key].service = with_netmask(edit.service)


# --- reconcile -------------------------------------------------------------------------------------------------------
# From the table that is found to the table that is wanted, by the fewest edits: what is right is not written again.
#
# Within a service what serves comes before what ends: additions, then rising weights, then other changes, then removals.
# So a service has a server at every moment at which either table gives it one.


@dataclass(frozen=True, slots=True)
class RefusedEdit:
    """An edit that the data plane refused."""

    edit: Edit
    error: PylvsError

    def __str__(self) -> str:
        return f"{self.edit}: refused: {self.error}"


def required_edits(
    found: SnapshotView, wanted: Iterable[WantedRow], ours: Collection[ServiceKey] = (), exclusive: bool = False
) -> tuple[Edit, ...]:
    """What makes the table found the table wanted.

    Of the services that are not wanted those in `ours` go, or all of them if `exclusive`; the others are let be. Of
    rows, or servers of a row, that are wanted twice the first counts.
    """
    rows: dict[ServiceKey, WantedRow] = {}
    for row in wanted:
        rows.setdefault(row.service.key, row)
    made: list[Edit] = []
    for key, row in rows.items():
        made += _row_edits(found.get(key), row)
    made += [DeleteService(key) for key in found if key not in rows and (exclusive or key in ours)]
    return tuple(made)


def _row_edits(found: SnapshotEntry | None, row: WantedRow) -> Iterator[Edit]:
    key = row.service.key
    wanted: dict[DestinationKey, Destination] = {}
    for each in row.destinations:
        wanted.setdefault(each.key, each)
    if found is None:
        yield AddService(row.service)
        yield from (AddDestination(key, each) for each in wanted.values())
        return
    if found.service != with_netmask(row.service):
        yield EditService(row.service, found.service)
    there = found.servers
    yield from (AddDestination(key, each) for name, each in wanted.items() if name not in there)
    changed = [
        EditDestination(key, each, there[name])
        for name, each in wanted.items()
        if name in there and there[name] != each
    ]
    yield from sorted(changed, key=lambda edit: edit.destination.weight <= edit.found.weight)
    yield from (DeleteDestination(key, name) for name in there if name not in wanted)
