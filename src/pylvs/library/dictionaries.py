"""Services and servers as dictionaries of JSON types, and back: for files, queues and other programs."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from pylvs.library.errors import InvalidValue, located
from pylvs.library.keys import choice, text
from pylvs.library.values import NO_FLAGS, Flag, Persistence, Server, Service, Tunnel

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

_SERVICE = ("protocol", "address", "port", "scheduler", "persistence", "flags", "servers")
_MARK = ("mark", "version", *_SERVICE[3:])
_SERVER = ("address", "port", "weight", "forwarding", "upper", "lower", "tunnel")
_PERSISTENCE = ("timeout_s", "netmask", "engine")
_TUNNEL = ("kind", "port", "checksum", "remote_checksum")


def service_to_dict(service: Service) -> dict[str, Any]:
    """Return a service with its servers."""
    named: dict[str, Any] = {"mark": service.mark, "version": service.address.version}
    if not service.mark:
        protocol = service.protocol.name.lower()
        named = {"protocol": protocol, "address": str(service.address), "port": service.port}
    persistence = service.persistence
    return {
        **named,
        "scheduler": service.scheduler,
        "persistence": persistence and _persistence_to_dict(persistence),
        "flags": [flag.name for flag in Flag if flag in service.flags],
        "servers": [server_to_dict(each) for each in service.servers],
    }


def _persistence_to_dict(found: Persistence) -> dict[str, Any]:
    netmask = str(found.netmask) if isinstance(found.netmask, IPv4Address) else found.netmask
    return {"timeout_s": found.timeout_s, "netmask": netmask, "engine": found.engine}


def server_to_dict(server: Server) -> dict[str, Any]:
    """Return a server with its tunnel."""
    tunnel = server.tunnel
    return {
        "address": str(server.address),
        "port": server.port,
        "weight": server.weight,
        "forwarding": server.forwarding.value,
        "upper": server.upper,
        "lower": server.lower,
        "tunnel": tunnel
        and {
            "kind": tunnel.kind.name.lower(),
            "port": tunnel.port,
            "checksum": tunnel.checksum,
            "remote_checksum": tunnel.remote_checksum,
        },
    }


def service_from_dict(data: object) -> Service:
    """Return the service of a dictionary. Raises InvalidValue, with the position of the value."""
    is_mark = isinstance(data, Mapping) and "mark" in data
    given = _given(data, "service", _MARK if is_mark else _SERVICE, ("mark",) if is_mark else _SERVICE[:3])
    if given.get("persistence") is not None:
        with located("persistence"):
            given["persistence"] = Persistence(**_given(given["persistence"], "persistence", _PERSISTENCE, ()))
    if "flags" in given:
        given["flags"] = _flags(given["flags"])
    servers = given.pop("servers", [])
    if not isinstance(servers, list | tuple):
        raise InvalidValue("servers", servers, "must be a list")
    found = []
    for at, each in enumerate(servers):
        with located(f"servers[{at}]"):
            found.append(server_from_dict(each))
    return Service.of_mark(**given, servers=found) if is_mark else Service(**given, servers=found)


def server_from_dict(data: object) -> Server:
    """Return the server of a dictionary. Raises InvalidValue, with the position of the value."""
    given = _given(data, "server", _SERVER, _SERVER[:2])
    if given.get("tunnel") is not None:
        with located("tunnel"):
            given["tunnel"] = Tunnel(**_given(given["tunnel"], "tunnel", _TUNNEL, ()))
    return Server(given.pop("address"), given.pop("port"), **given)


def _given(data: object, what: str, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of a dictionary with known names alone. Raises InvalidValue."""
    if not isinstance(data, Mapping):
        raise InvalidValue(what, data, f"must be a dictionary with {', '.join(needed or known)}")
    for name in data:
        if name not in known:
            raise InvalidValue(str(name), data[name], f"is unknown; a {what} has: {', '.join(known)}")
    for name in needed:
        if name not in data:
            raise InvalidValue(name, None, f"is missing; a {what} has: {', '.join(known)}")
    return dict(data)


def _flags(names: object) -> Flag:
    if not isinstance(names, list | tuple):
        raise InvalidValue("flags", names, 'must be a list of names, as ["FALLBACK"]')
    flags = NO_FLAGS
    for each in names:
        flags |= choice("flags", text("flags", each, "must be names"), Flag)
    return flags
