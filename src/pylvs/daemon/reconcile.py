"""From the table that is found to the table that is wanted, by the fewest edits: what is right is not written again.

Within a service what serves comes before what ends: additions, then rising weights, then other changes, then removals.
So a service has a server at every moment at which either table gives it one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pylvs.daemon.edits import (
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    Edit,
    EditDestination,
    EditService,
)
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.director import DestinationRow, Director, ServiceRow
from pylvs.model.errors import PylvsError
from pylvs.model.service import ServiceKey, VirtualService
from pylvs.model.wanted import WantedRow


@dataclass(frozen=True, slots=True)
class Failure:
    """An edit that the data plane refused."""

    edit: Edit
    error: PylvsError

    def __str__(self) -> str:
        return f"{self.edit}: refused: {self.error}"


def edits(
    found: Iterable[ServiceRow], wanted: Sequence[WantedRow], ours: Collection[ServiceKey], exclusive: bool = False
) -> tuple[Edit, ...]:
    """What makes the table found the table wanted.

    Of the services that are not wanted those in `ours` go, or all of them if `exclusive`; the others are let be. Of
    rows, or servers of a row, that are wanted twice the first counts.
    """
    there = {row.service.key: row for row in found}
    rows: dict[ServiceKey, WantedRow] = {}
    for row in wanted:
        rows.setdefault(row.service.key, row)
    made: list[Edit] = []
    for key, row in rows.items():
        made += _row_edits(there.get(key), row)
    made += [DeleteService(key) for key in there if key not in rows and (exclusive or key in ours)]
    return tuple(made)


def _row_edits(found: ServiceRow | None, row: WantedRow) -> Iterator[Edit]:
    key = row.service.key
    wanted: dict[DestinationKey, Destination] = {}
    for each in row.destinations:
        wanted.setdefault(each.key, each)
    if found is None:
        yield AddService(row.service)
        yield from (AddDestination(key, each) for each in wanted.values())
        return
    if _plain(found.service) != _plain(row.service):
        yield EditService(row.service, found.service)
    there: Mapping[DestinationKey, Destination] = {
        each.destination.key: each.destination for each in found.destinations
    }
    yield from (AddDestination(key, each) for name, each in wanted.items() if name not in there)
    changed = [
        EditDestination(key, each, there[name])
        for name, each in wanted.items()
        if name in there and there[name] != each
    ]
    yield from sorted(changed, key=lambda edit: edit.destination.weight <= edit.found.weight)
    yield from (DeleteDestination(key, name) for name in there if name not in wanted)


def _plain(service: VirtualService) -> VirtualService:
    """With the default mask filled in, so that equal services compare equal."""
    return service if service.netmask >= 0 else replace(service, netmask=service.mask)


def as_found(row: WantedRow) -> ServiceRow:
    """What a listing shows once a row is as it is wanted; without counts."""
    destinations = dict.fromkeys(each.key for each in row.destinations)
    named = {each.key: each for each in reversed(row.destinations)}
    return ServiceRow(row.service, tuple(DestinationRow(named[key]) for key in reversed(destinations)))


def apply(director: Director, todo: Sequence[Edit]) -> tuple[Failure, ...]:
    """Do these edits under one lock; one that is refused stops no other. Raises Busy and the like before the first.

    Of a service that could not be added the servers are not tried.
    """
    failures: list[Failure] = []
    absent: set[ServiceKey] = set()
    with director.batch():
        for edit in todo:
            if edit.key in absent:
                continue
            try:
                edit.apply(director)
            except PylvsError as error:
                failures.append(Failure(edit, error))
                if isinstance(edit, AddService):
                    absent.add(edit.key)
    return tuple(failures)
