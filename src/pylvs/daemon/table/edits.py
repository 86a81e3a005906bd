"""Single edits of a table, as values: what each does to a Director, and what it is called in a log."""

from __future__ import annotations

from pylvs.daemon.table import words
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.director import Director
from pylvs.model.service import ServiceKey, VirtualService


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
        return f"{self.key}: added, {words.of_service(self.service)}"


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
        return f"{self.key} was changed: {words.service_changes(self.service, self.found)}"

    def __str__(self) -> str:
        return f"{self.key}: {words.service_changes(self.found, self.service)}"


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
        return f"{self.key} -> {self.destination.key}: added, {words.of_destination(self.destination)}"


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
        changes = words.destination_changes(self.destination, self.found)
        return f"{self.key} -> {self.destination.key} was changed: {changes}"

    def __str__(self) -> str:
        changes = words.destination_changes(self.found, self.destination)
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
