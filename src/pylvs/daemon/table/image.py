"""A table as it was last seen: services and their servers, without counts; edits are done to it as to the real one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pylvs.daemon.table.edits import AddDestination, AddService, DeleteDestination, DeleteService, Edit, EditDestination
from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.director import ServiceRow
from pylvs.model.service import ServiceKey, VirtualService


@dataclass(slots=True)
class Entry:
    """A service, its default mask filled in so that equal ones compare equal, and its servers."""

    service: VirtualService
    servers: dict[DestinationKey, Destination] = field(default_factory=dict)


Image = dict[ServiceKey, Entry]
Seen = Mapping[ServiceKey, Entry]


def plain(service: VirtualService) -> VirtualService:
    """With its default mask filled in."""
    return service if service.netmask >= 0 else replace(service, netmask=service.mask)


def image_of(rows: Iterable[ServiceRow]) -> Image:
    """What a listing shows."""
    return {
        row.service.key: Entry(
            plain(row.service), {each.destination.key: each.destination for each in row.destinations}
        )
        for row in rows
    }


def note(image: Image, edit: Edit) -> None:
    """The image after an edit that was done."""
    if isinstance(edit, AddService):
        image[edit.key] = Entry(plain(edit.service))
    elif isinstance(edit, DeleteService):
        del image[edit.key]
    elif isinstance(edit, DeleteDestination):
        del image[edit.key].servers[edit.destination]
    elif isinstance(edit, (AddDestination, EditDestination)):
        image[edit.key].servers[edit.destination.key] = edit.destination
    else:
        image[edit.key].service = plain(edit.service)
