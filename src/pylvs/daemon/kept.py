"""What the daemon must know again after a crash, as JSON: the services that are its own, and the operator's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from pylvs.daemon.state_dir import StateDirectory
from pylvs.health.history import ServerName
from pylvs.health.overrides import Override, Standing
from pylvs.model.destination import DestinationKey
from pylvs.model.director import DestinationRow, ServiceRow
from pylvs.model.errors import Unsupported
from pylvs.model.service import Protocol, ServiceKey
from pylvs.model.wanted import Configuration

SERVICES, OVERRIDES = "services", "overrides"
Own = Mapping[ServiceKey, frozenset[DestinationKey]]  # services that the daemon keeps, with the servers configured


def own_of(configuration: Configuration) -> Own:
    """What a configuration makes the daemon's own."""
    return {
        key: frozenset(each.destination.key for each in service.servers)
        for service in configuration.services
        for key in service.keys
    }


def keep_own(state: StateDirectory, own: Own) -> None:
    """Before the first edit of them. Raises PylvsError."""
    rows = [
        [key.protocol.name, str(key.address), key.port, key.mark, [[str(each.address), each.port] for each in servers]]
        for key, servers in own.items()
    ]
    state.keep(SERVICES, rows)


def kept_own(state: StateDirectory) -> Own:
    """Of the daemon before this one, where it did not end by itself. Raises Unsupported."""
    try:
        return {
            ServiceKey(Protocol[protocol], ip_address(address), port, mark): frozenset(
                _server(each) for each in servers
            )
            for protocol, address, port, mark, servers in state.read(SERVICES) or ()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(state, SERVICES, error) from None


def _server(words: Any) -> DestinationKey:
    address, port = words
    return DestinationKey(ip_address(address), port)


def left_behind(rows: Iterable[ServiceRow], own: Own, configuration: Configuration) -> list[ServiceRow]:
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


def keep_overrides(state: StateDirectory, overrides: Mapping[ServerName, Override]) -> None:
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
    state.keep(OVERRIDES, rows)


def kept_overrides(state: StateDirectory) -> dict[ServerName, Override]:
    """What he said to the daemon before this one. Raises Unsupported."""
    try:
        return {
            (row["service"], _server((row["address"], row["port"]))): Override(Standing(row["standing"]), row["weight"])
            for row in state.read(OVERRIDES) or ()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(state, OVERRIDES, error) from None


def _damaged(state: StateDirectory, name: str, error: Exception) -> Unsupported:
    return Unsupported(f"{state.file(name)}: damaged ({error}); remove it")
