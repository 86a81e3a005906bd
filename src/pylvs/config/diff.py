"""Compare two configurations: the changes as text, and their effect on connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from ipaddress import IPv4Address
from typing import Any, TypeVar

from pylvs.config.describe import Difference, describe_destination, describe_value, differing, field_differences, joined
from pylvs.model.checks import Check, FileCheck, HttpCheck, MiscCheck, targets_of
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import DestinationKey
from pylvs.model.service import ServiceFlag, ServiceKey
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import Configuration, WantedServer, WantedService

Item = TypeVar("Item")


class Kind(Enum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Effect(Enum):
    """The effect of a change on established connections."""

    STAY = "stay"  # none
    FOLLOW = "follow"  # their next packet takes the new path
    END = "end"  # pylvs no longer forwards them


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `path` names its object: a service, one of its servers, one of its checks ..."""

    path: tuple[str, ...]
    kind: Kind
    differences: tuple[Difference, ...] = ()
    details: str = ""  # of an added object
    effect: Effect = Effect.STAY
    note: str = ""  # the consequence
    service: str = ""  # the name of its service, if any

    def __str__(self) -> str:
        text = ": ".join(self.path)
        if self.kind is Kind.CHANGED:
            text += f": {', '.join(map(str, self.differences))}"
        else:
            text += f" {self.kind.value}" + (f" ({self.details})" if self.details else "")
        return f"{text}; {self.note}" if self.note else text

    def encoded(self) -> dict[str, Any]:
        """Return the change as JSON types."""
        return {
            "path": list(self.path),
            "change": self.kind.value,
            "settings": [{"name": each.name, "old": each.old, "new": each.new} for each in self.differences],
            "connections": self.effect.value,
            "service": self.service,
            "text": str(self),
        }


@dataclass(frozen=True, slots=True)
class Affected:
    """The services, also removed ones, that lose or move established connections."""

    touched: tuple[str, ...]
    untouched: int  # services that are in both configurations

    @classmethod
    def by(cls, changes: Iterable[Change], old: Configuration, new: Configuration) -> Affected:
        """Return the services that these changes affect."""
        reached = dict.fromkeys(
            change.service for change in changes if change.service and change.effect is not Effect.STAY
        )
        stay = [after.name for _, after in _pairs(old.services, new.services)]
        return cls(tuple(reached), sum(name not in reached for name in stay))


def differences(old: Configuration, new: Configuration) -> tuple[Change, ...]:
    """Return the changes in the order of the new configuration, removals last.

    The order of services and servers does not matter, because it does not affect the table.
    """
    found = list(_whole(("global_defs",), old.settings, new.settings))
    pairs = _pairs(old.services, new.services)
    before = {id(after): former for former, after in pairs}
    for service in new.services:
        former = before.get(id(service))
        if former is None:
            found.append(_service_added(service))
        elif former != service:
            found += _service(former, service)
    kept = {key for service in new.services for key in service.keys}
    staying = {id(former) for former, _ in pairs}
    found += [_service_removed(each, kept) for each in old.services if id(each) not in staying]
    return (*found, *_vrrp(old.vrrp, new.vrrp))


def _pairs(old: Sequence[WantedService], new: Sequence[WantedService]) -> list[tuple[WantedService, WantedService]]:
    """Pair each new service with the old one of the same name, or of the same keys if it was renamed."""
    names = {service.name: service for service in old}
    found = {service.name: names.pop(service.name) for service in new if service.name in names}
    left = {service.keys: service for service in names.values()}
    for service in new:
        if service.name not in found and service.keys in left:
            found[service.name] = left.pop(service.keys)
    return [(found[service.name], service) for service in new if service.name in found]


_FLAGS = {
    ServiceFlag.ONE_PACKET: "ops",
    ServiceFlag.SCHED_1: "flag-1",
    ServiceFlag.SCHED_2: "flag-2",
    ServiceFlag.SCHED_3: "flag-3",
}
_FLAGS_OF = {
    "sh": {ServiceFlag.SCHED_1: "sh-fallback", ServiceFlag.SCHED_2: "sh-port"},
    "mh": {ServiceFlag.SCHED_1: "mh-fallback", ServiceFlag.SCHED_2: "mh-port"},
}
_REPORTED_ELSEWHERE = (
    "name",
    "keys",
    "servers",
    "scheduler",
    "flags",
    "timeout_s",
    "netmask",
    "engine",
    "sorry_server",
)


def _path(service: WantedService) -> tuple[str]:
    return (f"virtual_server {service.name}",)


def _describe_scheduling(service: WantedService) -> dict[str, str]:
    """Describe the scheduling of a service by keyword."""
    described = {"scheduler": service.scheduler}
    if service.flags & ServiceFlag.PERSISTENT:
        described["persistence_timeout"] = f"{service.timeout_s} s"
    if service.netmask >= 0:
        v4 = not service.keys or service.keys[0].address.version == 4
        described["persistence_granularity"] = str(IPv4Address(service.netmask)) if v4 else str(service.netmask)
    if service.engine:
        described["persistence_engine"] = service.engine
    names = _FLAGS | _FLAGS_OF.get(service.scheduler, {})
    flags = [names[flag] for flag in service.flags & ~ServiceFlag.PERSISTENT]
    if flags:
        described["flags"] = "+".join(flags)
    return described


def _service_added(service: WantedService) -> Change:
    servers = [f"{each.destination.key}" for each in service.servers]
    details = (
        joined(_describe_scheduling(service)) + "; " + (f"servers {', '.join(servers)}" if servers else "no servers")
    )
    return Change(_path(service), Kind.ADDED, details=details, service=service.name)


def _service_removed(service: WantedService, kept: Iterable[ServiceKey]) -> Change:
    ends = not set(service.keys) <= set(kept)
    note = "its connections are forwarded no more" if ends else "another service has its address"
    effect = Effect.END if ends else Effect.STAY
    return Change(_path(service), Kind.REMOVED, effect=effect, note=note, service=service.name)


def _service(old: WantedService, new: WantedService) -> Iterator[Change]:
    """Yield the changes of one service."""
    path, name = _path(new), new.name
    if old.name != new.name:
        yield Change(path, Kind.CHANGED, (Difference("name", old.name, new.name),), service=name)
    for key in new.keys:
        if key not in old.keys:
            yield Change((*path, f"address {_key(key)}"), Kind.ADDED, service=name)
    for key in old.keys:
        if key not in new.keys:
            note = "its connections are forwarded no more"
            yield Change((*path, f"address {_key(key)}"), Kind.REMOVED, effect=Effect.END, note=note, service=name)
    found = (
        *differing(_describe_scheduling(old), _describe_scheduling(new)),
        *field_differences(old, new, _REPORTED_ELSEWHERE),
    )
    if found:
        yield Change(path, Kind.CHANGED, found, service=name)
    if old.sorry_server != new.sorry_server:
        yield _sorry_server(old, new)
    yield from _servers(old, new)


def _key(key: ServiceKey) -> str:
    return f"fwmark {key.mark}" if key.mark else f"{DestinationKey(key.address, key.port)} {key.protocol.name.lower()}"


def _sorry_server(old: WantedService, new: WantedService) -> Change:
    difference = Difference("sorry_server", describe_value(old.sorry_server), describe_value(new.sorry_server))
    removed = old.sorry_server is not None and (
        new.sorry_server is None or new.sorry_server.key != old.sorry_server.key
    )
    note = f"connections that {old.sorry_server.key} has are forwarded no more" if removed and old.sorry_server else ""
    effect = Effect.END if removed else Effect.STAY
    return Change(_path(new), Kind.CHANGED, (difference,), effect=effect, note=note, service=new.name)


def _servers(old: WantedService, new: WantedService) -> Iterator[Change]:
    before, after = _by_key(old.servers), _by_key(new.servers)
    for key, server in after.items():
        path = (*_path(new), f"real server {key}")
        if key not in before:
            checks = ", ".join(_kind_of(check) for check in server.checks) or "no checks"
            details = f"{joined(describe_destination(server.destination))}, {checks}"
            yield Change(path, Kind.ADDED, details=details, service=new.name)
        elif before[key] != server:
            for change in _server(path, before[key], server):
                yield replace(change, service=new.name)
    for key in before:
        if key not in after:
            yield Change(
                (*_path(new), f"real server {key}"),
                Kind.REMOVED,
                effect=Effect.END,
                note="its connections are forwarded no more",
                service=new.name,
            )


def _by_key(servers: Iterable[WantedServer]) -> dict[DestinationKey, WantedServer]:
    """Return the servers by key; of duplicates the first counts."""
    found: dict[DestinationKey, WantedServer] = {}
    for server in servers:
        found.setdefault(server.destination.key, server)
    return found


def _server(path: tuple[str, ...], old: WantedServer, new: WantedServer) -> Iterator[Change]:
    before, after = old.destination, new.destination
    found = [*differing(describe_destination(before), describe_destination(after))]
    found += field_differences(old, new, ("destination", "checks"))
    if found:
        effect, notes = Effect.STAY, []
        if before.weight and not after.weight:
            notes.append("established connections stay, new clients go elsewhere")
        if before.method is not after.method:
            notes.append("established connections keep the old method")
        elif before.tunnel != after.tunnel:
            effect = Effect.FOLLOW
            notes.append("established connections take the new tunnel too")
        yield Change(path, Kind.CHANGED, tuple(found), effect=effect, note="; ".join(notes))
    yield from _checks(path, old.checks, new.checks)


def _kind_of(check: Check) -> str:
    return "SSL_GET" if isinstance(check, HttpCheck) and check.tls else check.word


def _subject(check: Check) -> str:
    """Return what distinguishes checks of one kind: their target, script or file."""
    if isinstance(check, MiscCheck):
        return str(check.script)
    if isinstance(check, FileCheck):
        return check.path
    return ", ".join(map(str, targets_of(check)))


def _checks(path: tuple[str, ...], old: Sequence[Check], new: Sequence[Check]) -> Iterator[Change]:
    """Compare checks of the same kind and subject, then the remaining ones of the same kind in order."""
    removed = [check for check in old if check not in new]
    added = [check for check in new if check not in old]
    pairs: list[tuple[Check, Check]] = []
    keys: tuple[Callable[[Check], object], ...] = (lambda check: (_kind_of(check), _subject(check)), _kind_of)
    for key_of in keys:
        for check in list(added):
            former = next((each for each in removed if key_of(each) == key_of(check)), None)
            if former is not None:
                pairs.append((former, check))
                removed.remove(former)
                added.remove(check)
    kinds = [_kind_of(check) for check in new]
    for former, check in pairs:
        name = f"check {_kind_of(check)}" + (f" {_subject(check)}" if kinds.count(_kind_of(check)) > 1 else "")
        yield from _check((*path, name), former, check)
    for check in added:
        yield Change((*path, f"check {_kind_of(check)}"), Kind.ADDED, details=_subject(check))
    for check in removed:
        yield Change((*path, f"check {_kind_of(check)} {_subject(check)}".rstrip()), Kind.REMOVED)


def _check(path: tuple[str, ...], old: Check, new: Check) -> Iterator[Change]:
    if isinstance(old, HttpCheck) and isinstance(new, HttpCheck):
        yield from _whole(path, old, new, ("urls", "tls"))
        yield from _named(path, "url", old.urls, new.urls, lambda url: url.path)
    else:
        yield from _whole(path, old, new)


def _whole(path: tuple[str, ...], old: Any, new: Any, without: Sequence[str] = ()) -> Iterator[Change]:
    """Yield the differences of two objects as one change."""
    found = tuple(field_differences(old, new, without))
    if found:
        yield Change(path, Kind.CHANGED, found)


def _named(
    path: tuple[str, ...], keyword: str, old: Sequence[Item], new: Sequence[Item], name_of: Callable[[Item], str]
) -> Iterator[Change]:
    """Yield the changes between two lists of named objects."""
    before = {name_of(each): each for each in old}
    after = {name_of(each): each for each in new}
    for name, item in after.items():
        if name not in before:
            yield Change((*path, f"{keyword} {name}"), Kind.ADDED)
        elif before[name] != item:
            yield from _whole((*path, f"{keyword} {name}"), before[name], item)
    yield from (Change((*path, f"{keyword} {name}"), Kind.REMOVED) for name in before if name not in after)


_VRRP: Mapping[str, str] = {
    "instances": "vrrp_instance",
    "groups": "vrrp_sync_group",
    "scripts": "vrrp_script",
    "files": "track_file",
    "processes": "vrrp_track_process",
}


def _vrrp(old: VrrpConfiguration, new: VrrpConfiguration) -> Iterator[Change]:
    """Yield the changes of virtual routers and tracked objects."""
    if old == new:
        return
    yield from _whole(("vrrp",), old, new, (*_VRRP, "settings"))
    yield from _whole(("global_defs",), old.settings, new.settings)
    for field, keyword in _VRRP.items():
        yield from _named((), keyword, getattr(old, field), getattr(new, field), lambda item: str(item.name))
