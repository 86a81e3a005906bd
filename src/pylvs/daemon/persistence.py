"""What the next daemon needs after a crash, as JSON files: the services that this one owns, and operator overrides."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pylvs.daemon.state_dir import StateDirectory
from pylvs.health.events import Override, ServerName, Standing
from pylvs.health.snapshots import ServiceSnapshot
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import DestinationKey, Protocol, ServiceKey
from pylvs.model.wanted import Configuration

SERVICES_FILE, OVERRIDES_FILE, DUMP_FILE = "services", "overrides", "dump"
OwnedServices = Mapping[ServiceKey, frozenset[DestinationKey]]  # services of the daemon with their configured servers


class Ownership:
    """The services that this daemon may delete, and the next one if this one is killed.

    The state directory has a service before the daemon's first edit of it, and until after the last.
    """

    def __init__(self, state: StateDirectory) -> None:
        """Begin with the services of the last daemon. Raises Unsupported."""
        self._state = state
        self.owned = load_owned(state)

    async def before_edits(self, owned: OwnedServices) -> None:
        """Own the services of before and these as well, until `after_edits`. Raises PylvsError.

        The new services have no servers yet: after a crash their absence from the table must not count as down.
        """
        added = {key: frozenset[DestinationKey]() for key in owned}
        await self.after_edits(added | dict(self.owned))

    async def after_edits(self, owned: OwnedServices) -> None:
        """Own exactly these services. Raises PylvsError."""
        await asyncio.to_thread(save_owned, self._state, owned)  # it waits for the disk
        self.owned = owned


def owned_services(configuration: Configuration) -> OwnedServices:
    """Return the services of a configuration."""
    return {
        key: frozenset(each.destination.key for each in service.servers)
        for service in configuration.services
        for key in service.keys
    }


def save_owned(state: StateDirectory, owned: OwnedServices) -> None:
    """Write the owned services. Raises PylvsError."""
    rows = [
        [key.protocol.name, str(key.address), key.port, key.mark, [[str(each.address), each.port] for each in servers]]
        for key, servers in owned.items()
    ]
    state.write(SERVICES_FILE, rows)


def load_owned(state: StateDirectory) -> OwnedServices:
    """Return the services of a daemon that was killed; none after an orderly stop. Raises Unsupported."""
    with state.decoding(SERVICES_FILE) as rows:
        return {
            ServiceKey(Protocol[protocol], ip_address(address), port, mark): frozenset(
                DestinationKey(ip_address(rip), rport) for rip, rport in servers
            )
            for protocol, address, port, mark, servers in rows or ()
        }


def adoptable_rows(rows: Iterable[ServiceRow], owned: OwnedServices, configuration: Configuration) -> list[ServiceRow]:
    """Return the table's rows of owned services, for the engine to adopt.

    A server that is new in the configuration is added to its row, because its absence does not mean that it is down.
    """
    configured = {
        key: {each.destination.key: each.destination for each in service.servers}
        for service in configuration.services
        for key in service.keys
    }
    found = []
    for row in rows:
        key = row.service.key
        if key in owned and key in configured:
            present = {each.destination.key for each in row.destinations}
            new = [each for name, each in configured[key].items() if name not in owned[key] and name not in present]
            found.append(replace(row, destinations=(*row.destinations, *map(DestinationRow, new))))
    return found


def save_overrides(state: StateDirectory, overrides: Mapping[ServerName, Override]) -> None:
    """Write the operator's overrides. Raises PylvsError."""
    rows = [
        {
            "service": service,
            "address": str(server.address),
            "port": server.port,
            "standing": override.standing.value,
            "weight": override.weight,
        }
        for (service, server), override in overrides.items()
    ]
    state.write(OVERRIDES_FILE, rows)


def load_overrides(state: StateDirectory) -> dict[ServerName, Override]:
    """Return the overrides of the last daemon. Raises Unsupported."""
    with state.decoding(OVERRIDES_FILE) as rows:
        return {
            (row["service"], DestinationKey(ip_address(row["address"]), row["port"])): Override(
                Standing(row["standing"]), row["weight"]
            )
            for row in rows or ()
        }


def write_dump(state: StateDirectory, services: Sequence[ServiceSnapshot], rows: Sequence[ServiceRow]) -> Path:
    """Write everything that the daemon knows to a file, at SIGUSR1 and SIGUSR2; return its path. Raises PylvsError."""
    state.write(DUMP_FILE, {"services": to_json(services), "table": to_json(rows)})
    return state.file(DUMP_FILE)


def to_json(value: Any) -> Any:
    """Convert to JSON types: dataclasses by field, enums by name, everything else as text."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.name.lower() if value.name else int(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): to_json(each) for key, each in value.items()}
    return str(value)
