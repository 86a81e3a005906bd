"""The services of a configuration by their names, and how an operator's words find their servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pylvs.health.history import ServerName
from pylvs.health.overrides import Override
from pylvs.health.servers import ServerState
from pylvs.health.services import ServiceState
from pylvs.model.addresses import Address
from pylvs.model.destination import DestinationKey
from pylvs.model.errors import NoSuchDestination, NoSuchService


class Roster:
    """Services in the order of the configuration."""

    def __init__(self, services: Mapping[str, ServiceState]) -> None:
        self.services = services

    def __iter__(self) -> Iterator[ServiceState]:
        return iter(self.services.values())

    def service(self, name: str) -> ServiceState:
        """Raises NoSuchService."""
        if name not in self.services:
            raise NoSuchService(f"{name}: no such service in the configuration")
        return self.services[name]

    def servers(self) -> Iterator[ServerState]:
        """Of all services."""
        for service in self:
            yield from service.servers.values()

    def named(self, server: DestinationKey | Address | None, service: str | None) -> tuple[ServerState, ...]:
        """The servers that these words mean. Raises NoSuchService, NoSuchDestination."""
        services = tuple(self) if service is None else (self.service(service),)
        found = tuple(
            state
            for each in services
            for key, state in each.servers.items()
            if server is None or key == server or key.address == server
        )
        if not found and server is not None:
            where = "any service" if service is None else f"service {service}"
            raise NoSuchDestination(f"{server}: no such real server in {where} of the configuration")
        return found

    def has(self, server: ServerState) -> bool:
        """Whether it is still one of them."""
        service = self.services.get(server.service)
        return service is not None and service.servers.get(server.key) is server

    def overrides(self) -> dict[ServerName, Override]:
        """Everything that the operator said and did not take back."""
        return {server.name: server.override for server in self.servers() if server.override}

    def restore(self, overrides: Mapping[ServerName, Override]) -> tuple[ServerName, ...]:
        """Say again what was said before the start; those whom it still concerns."""
        known = []
        for (service, key), override in overrides.items():
            server = self.services[service].servers.get(key) if service in self.services else None
            if server is not None:
                server.override = override
                server.told_weight = server.weight()
                known.append(server.name)
        for service in {service for service, _ in known}:
            self.services[service].prepare()
        return tuple(known)
