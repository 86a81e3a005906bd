"""What the daemon must know again after a crash, as JSON: the services that are its own, and the operator's words."""

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
from pylvs.model.destination import DestinationKey
from pylvs.model.director import DestinationRow, ServiceRow
from pylvs.model.errors import Unsupported
from pylvs.model.service import Protocol, ServiceKey
from pylvs.model.wanted import Configuration

SERVICES_FILE, OVERRIDES_FILE = "services", "overrides"
OwnedServices = Mapping[
    ServiceKey, frozenset[DestinationKey]
]  # services that the daemon keeps, with the servers configured


def owned_services(configuration: Configuration) -> OwnedServices:
    """What a configuration makes the daemon's own."""
    return {
        key: frozenset(each.destination.key for each in service.servers)
        for service in configuration.services
        for key in service.keys
    }


def save_owned(state: StateDirectory, own: OwnedServices) -> None:
    """Before the first edit of them. Raises PylvsError."""
    rows = [
        [key.protocol.name, str(key.address), key.port, key.mark, [[str(each.address), each.port] for each in servers]]
        for key, servers in own.items()
    ]
    state.keep(SERVICES_FILE, rows)


def load_owned(state: StateDirectory) -> OwnedServices:
    """Of the daemon before this one, where it did not end by itself. Raises Unsupported."""
    try:
        return {
            ServiceKey(Protocol[protocol], ip_address(address), port, mark): frozenset(
                _server(each) for each in servers
            )
            for protocol, address, port, mark, servers in state.read(SERVICES_FILE) or ()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(state, SERVICES_FILE, error) from None


def _server(words: Any) -> DestinationKey:
    address, port = words
    return DestinationKey(ip_address(address), port)


def adoptable_rows(rows: Iterable[ServiceRow], own: OwnedServices, configuration: Configuration) -> list[ServiceRow]:
    """What the rows found say about servers: those of the daemon's own services alone, with servers that are new in the
    configuration put in, since their absence says nothing."""
    wanted = {
        key: {each.destination.key: each.destination for each in service.servers}
        for service in configuration.services
        for key in service.keys
    }
    found = []
    for row in rows:
        key = row.service.key
        if key in own and key in wanted:
            there = {each.destination.key for each in row.destinations}
            new = [each for name, each in wanted[key].items() if name not in own[key] and name not in there]
            found.append(replace(row, destinations=(*row.destinations, *map(DestinationRow, new))))
    return found


def save_overrides(state: StateDirectory, overrides: Mapping[ServerName, Override]) -> None:
    """What the operator said and did not take back. Raises PylvsError."""
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
    state.keep(OVERRIDES_FILE, rows)


def load_overrides(state: StateDirectory) -> dict[ServerName, Override]:
    """What he said to the daemon before this one. Raises Unsupported."""
    try:
        return {
            (row["service"], _server((row["address"], row["port"]))): Override(Standing(row["standing"]), row["weight"])
            for row in state.read(OVERRIDES_FILE) or ()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(state, OVERRIDES_FILE, error) from None


def _damaged(state: StateDirectory, name: str, error: Exception) -> Unsupported:
    return Unsupported(f"{state.file(name)}: damaged ({error}); remove it")


# --- ownership -------------------------------------------------------------------------------------------------------
# Which services are the daemon's: it may remove them, and so may the one after it, if it is killed.


class Ownership:
    """Noted in the state directory before the first edit of a service, and until the last."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._own: OwnedServices = {}
        self.keys: frozenset[ServiceKey] = frozenset()

    def former(self) -> OwnedServices:
        """Those of the daemon before this one, with the servers that it knew. Raises Unsupported."""
        self._own = load_owned(self._state)
        return self._own

    async def before(self, wanted: OwnedServices) -> None:
        """Edits come that lead from the services there are to these, whose servers need not be there yet.

        Raises PylvsError where that cannot be noted.
        """
        fresh = {key: frozenset[DestinationKey]() for key in wanted}
        await self._note(fresh | dict(self._own))

    async def after(self, wanted: OwnedServices) -> None:
        """The edits are done. Raises PylvsError."""
        await self._note(wanted)

    async def _note(self, own: OwnedServices) -> None:
        await asyncio.to_thread(save_owned, self._state, own)
        self._own, self.keys = own, frozenset(own)


# --- dump ------------------------------------------------------------------------------------------------------------
# Everything that the daemon knows, as JSON in a file: for whoever must find out afterwards how it was.


DUMP_FILE = "dump"


def write_dump(state: StateDirectory, services: Sequence[ServiceSnapshot], rows: Sequence[ServiceRow]) -> Path:
    """Where it was written. Raises PylvsError."""
    state.keep(DUMP_FILE, {"services": to_json(services), "table": to_json(rows)})
    return state.file(DUMP_FILE)


def to_json(value: Any) -> Any:
    """Nouns as JSON has them: fields by name, names of what has one, text of everything else."""
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
