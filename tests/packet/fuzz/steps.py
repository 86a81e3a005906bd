"""Steps of an example: edits and frames, as values for either director."""

from __future__ import annotations

from dataclasses import dataclass

from pylvs.model.addresses import Address
from pylvs.model.director import Director
from pylvs.model.service import Destination, DestinationKey, ServiceKey, Timeouts, VirtualService
from pylvs.model.vrrp import Roles


@dataclass(frozen=True, slots=True)
class AddService:
    """ipvsadm -A."""

    service: VirtualService

    def apply(self, director: Director) -> None:
        director.add_service(self.service)


@dataclass(frozen=True, slots=True)
class EditService:
    """ipvsadm -E."""

    service: VirtualService

    def apply(self, director: Director) -> None:
        director.edit_service(self.service)


@dataclass(frozen=True, slots=True)
class DeleteService:
    """ipvsadm -D."""

    key: ServiceKey

    def apply(self, director: Director) -> None:
        director.delete_service(self.key)


@dataclass(frozen=True, slots=True)
class AddServer:
    """ipvsadm -a."""

    key: ServiceKey
    destination: Destination

    def apply(self, director: Director) -> None:
        director.add_destination(self.key, self.destination)


@dataclass(frozen=True, slots=True)
class EditServer:
    """ipvsadm -e."""

    key: ServiceKey
    destination: Destination

    def apply(self, director: Director) -> None:
        director.edit_destination(self.key, self.destination)


@dataclass(frozen=True, slots=True)
class DeleteServer:
    """ipvsadm -d."""

    key: ServiceKey
    destination: DestinationKey

    def apply(self, director: Director) -> None:
        director.delete_destination(self.key, self.destination)


@dataclass(frozen=True, slots=True)
class Set:
    """pylvs sysctl -w."""

    name: str
    value: int

    def apply(self, director: Director) -> None:
        director.change_setting(self.name, self.value)


@dataclass(frozen=True, slots=True)
class SetTimeouts:
    """ipvsadm --set."""

    timeouts: Timeouts

    def apply(self, director: Director) -> None:
        director.set_timeouts(self.timeouts)


@dataclass(frozen=True, slots=True)
class SetStandby:
    """Roles of virtual routers."""

    addresses: frozenset[Address]

    def apply(self, director: Roles) -> None:
        director.set_standby(self.addresses)


Edit = AddService | EditService | DeleteService | AddServer | EditServer | DeleteServer | Set | SetTimeouts
Step = Edit | SetStandby | bytes  # bytes: a frame comes in
