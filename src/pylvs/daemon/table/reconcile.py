"""From the table that is found to the table that is wanted, by the fewest edits: what is right is not written again.

Within a service what serves comes before what ends: additions, then rising weights, then other changes, then removals.
So a service has a server at every moment at which either table gives it one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from pylvs.daemon.table.edits import (
    AddDestination,
    AddService,
    DeleteDestination,
    DeleteService,
    Edit,
    EditDestination,
    EditService,
)
from pylvs.daemon.table.image import Entry, Seen, plain
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.errors import PylvsError
from pylvs.model.service import ServiceKey
from pylvs.model.wanted import WantedRow


@dataclass(frozen=True, slots=True)
class Failure:
    """An edit that the data plane refused."""

    edit: Edit
    error: PylvsError

    def __str__(self) -> str:
        return f"{self.edit}: refused: {self.error}"


def edits(
    found: Seen, wanted: Iterable[WantedRow], ours: Collection[ServiceKey] = (), exclusive: bool = False
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


def _row_edits(found: Entry | None, row: WantedRow) -> Iterator[Edit]:
    key = row.service.key
    wanted: dict[DestinationKey, Destination] = {}
    for each in row.destinations:
        wanted.setdefault(each.key, each)
    if found is None:
        yield AddService(row.service)
        yield from (AddDestination(key, each) for each in wanted.values())
        return
    if found.service != plain(row.service):
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
