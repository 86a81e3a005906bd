"""Compare two configurations: the changes as text, by keepalived's keywords, and their effect on connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from enum import Enum, Flag
from ipaddress import IPv4Address
from typing import Any, TypeVar

from pylvs.config.address_moves import address_notes
from pylvs.config.compile.effective import keyword_of
from pylvs.config.language.lexer import SECRET_KEYWORDS
from pylvs.config.schema.service_types import tunnel_text
from pylvs.config.schema.types import plain
from pylvs.model.checks import Check, HttpCheck, Script, Target
from pylvs.model.dataclass import dataclass
from pylvs.model.service import (
    METHOD_NAMES,
    Destination,
    DestinationKey,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    flags_of,
)
from pylvs.model.vrrp import HIDDEN, VrrpConfiguration
from pylvs.model.wanted import Configuration, WantedServer, WantedService, predecessors

Item = TypeVar("Item")

_JOINED = frozenset({"statuses", "arguments", "regex_options", "command", "devices", "cpus", "options"})
_IDENTITIES = ("name", "path", "device", "devices", "address")
_ELSEWHERE = (
    "name",
    "group_name",
    "keys",
    "servers",
    "scheduler",
    "flags",
    "timeout_s",
    "netmask",
    "engine",
    "mss_clamp",
    "sorry_server",
)
_OF_ALL_DIRECTORS = {"password", "authentication", "virtual_router_id", "version"}  # equal on all directors
_SHARED = "all directors of this router must change it: one that differs becomes MASTER as well"
_LOST = "its connections are forwarded no more"
_CONTINUE = "its connections continue, except with expire_nodest_conn=1"
_VRRP: Mapping[str, str] = {
    "instances": "vrrp_instance",
    "groups": "vrrp_sync_group",
    "scripts": "vrrp_script",
    "files": "track_file",
    "processes": "vrrp_track_process",
    "sessions": "bfd_instance",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that differs, with both values as text, None for no value. An `item` is one of a list."""

    name: str
    old: str | None
    new: str | None
    item: bool = False

    def __str__(self) -> str:
        if self.item:
            return f"{self.name} {self.old} removed" if self.new is None else f"{self.name} {self.new} added"
        if self.old == self.new:  # a secret
            return f"{self.name} changed"
        return f"{self.name} {self.old or 'none'} -> {self.new or 'none'}"


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
        reached = dict.fromkeys(each.service for each in changes if each.service and each.effect is not Effect.STAY)
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
            found += [replace(change, service=service.name) for change in _service(former, service)]
    kept = {key for service in new.services for key in service.keys}
    staying = {id(former) for former, _ in pairs}
    found += [_service_removed(each, kept) for each in old.services if id(each) not in staying]
    return (*found, *_vrrp(old.vrrp, new.vrrp))


def _pairs(old: Sequence[WantedService], new: Sequence[WantedService]) -> list[tuple[WantedService, WantedService]]:
    """Pair each new service with the old one that it continues."""
    names = {service.name: service for service in old}
    former = predecessors({service.name: service.keys for service in old}, new)
    return [(names[former[service.name]], service) for service in new if service.name in former]


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
    if service.mss_clamp:
        described["mss_clamp"] = str(service.mss_clamp)
    names = {flag: name for name, flag in flags_of(service.scheduler).items()}
    flags = [names[flag] for flag in service.flags & ~ServiceFlag.PERSISTENT]
    if flags:
        described["flags"] = "+".join(flags)
    return described


def _service_added(service: WantedService) -> Change:
    servers = ", ".join(str(each.destination.key) for each in service.servers)
    details = f"{joined(_describe_scheduling(service))}; {f'servers {servers}' if servers else 'no servers'}"
    return Change(_path(service), Kind.ADDED, details=details, service=service.name)


def _service_removed(service: WantedService, kept: Iterable[ServiceKey]) -> Change:
    note = "another service has its address" if set(service.keys) <= set(kept) else _CONTINUE
    return Change(_path(service), Kind.REMOVED, note=note, service=service.name)


def _service(old: WantedService, new: WantedService) -> Iterator[Change]:
    """Yield the changes of one service, without its name in `service`."""
    path = _path(new)
    if old.name != new.name:
        yield Change(path, Kind.CHANGED, (Difference("name", old.name, new.name),))
    elif old.group_name != new.group_name:
        named = Difference("name in FIFOs and mails", old.group_name, new.group_name)
        yield Change(path, Kind.CHANGED, (named,))
    for key in new.keys:
        if key not in old.keys:
            yield Change((*path, f"address {_key(key)}"), Kind.ADDED)
    for key in old.keys:
        if key not in new.keys:
            yield Change((*path, f"address {_key(key)}"), Kind.REMOVED, note=_CONTINUE)
    found = (
        *differing(_describe_scheduling(old), _describe_scheduling(new)),
        *field_differences(old, new, _ELSEWHERE),
    )
    if found:
        yield Change(path, Kind.CHANGED, found)
    if old.sorry_server != new.sorry_server:
        yield _sorry_server(old, new)
    yield from _servers(old, new)


def _key(key: ServiceKey) -> str:
    return f"fwmark {key.mark}" if key.mark else f"{DestinationKey(key.address, key.port)} {key.protocol.name.lower()}"


def _sorry_server(old: WantedService, new: WantedService) -> Change:
    before, after = old.sorry_server, new.sorry_server
    difference = Difference("sorry_server", describe_value(before), describe_value(after))
    change = Change(_path(new), Kind.CHANGED, (difference,))
    if before is None or (after is not None and after.key == before.key):
        return change
    return replace(change, effect=Effect.END, note=f"connections that {before.key} has are forwarded no more")


def _servers(old: WantedService, new: WantedService) -> Iterator[Change]:
    before, after = _by_key(old.servers), _by_key(new.servers)
    for key, server in after.items():
        path = (*_path(new), f"real server {key}")
        if key not in before:
            checks = ", ".join(_kind_of(check) for check in server.checks) or "no checks"
            details = f"{joined(describe_destination(server.destination))}, {checks}"
            yield Change(path, Kind.ADDED, details=details)
        elif before[key] != server:
            yield from _server(path, before[key], server)
    for key in before:
        if key not in after:
            yield Change((*_path(new), f"real server {key}"), Kind.REMOVED, effect=Effect.END, note=_LOST)


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
    return check.keyword


def _checks(path: tuple[str, ...], old: Sequence[Check], new: Sequence[Check]) -> Iterator[Change]:
    """Compare checks of the same kind and subject, then the remaining ones of the same kind in order."""
    removed = [check for check in old if check not in new]
    added = [check for check in new if check not in old]
    pairs: list[tuple[Check, Check]] = []
    keys: tuple[Callable[[Check], object], ...] = (lambda check: (_kind_of(check), check.subject), _kind_of)
    for key_of in keys:
        for check in list(added):
            former = next((each for each in removed if key_of(each) == key_of(check)), None)
            if former is not None:
                pairs.append((former, check))
                removed.remove(former)
                added.remove(check)
    kinds = [_kind_of(check) for check in new]
    for former, check in pairs:
        name = f"check {_kind_of(check)}" + (f" {check.subject}" if kinds.count(_kind_of(check)) > 1 else "")
        yield from _check((*path, name), former, check)
    for check in added:
        yield Change((*path, f"check {_kind_of(check)}"), Kind.ADDED, details=check.subject)
    for check in removed:
        yield Change((*path, f"check {_kind_of(check)} {check.subject}".rstrip()), Kind.REMOVED)


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


def _vrrp(old: VrrpConfiguration, new: VrrpConfiguration) -> Iterator[Change]:
    """Yield the changes of virtual routers and tracked objects."""
    if old == new:
        return
    yield from _whole(("vrrp",), old, new, (*_VRRP, "settings"))
    yield from _whole(("global_defs",), old.settings, new.settings)
    moves = address_notes(old, new)
    for field, keyword in _VRRP.items():
        for each in _named((), keyword, getattr(old, field), getattr(new, field), lambda item: str(item.name)):
            yield _of_router(each, moves) if field == "instances" else each


def _of_router(change: Change, moves: Mapping[str, str]) -> Change:
    """Return a change of a virtual router with its consequences; `moves` are those for addresses, by router."""
    shared = {difference.name for difference in change.differences} & _OF_ALL_DIRECTORS
    notes = [moves.get(change.path[0].partition(" ")[2], ""), _SHARED if shared else ""]
    return replace(change, note="; ".join(filter(None, notes)))


def field_differences(old: Any, new: Any, without: Sequence[str] = ()) -> Iterator[Difference]:
    """Yield the differences between two objects of one class, except in the fields `without`."""
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after or field.name in without:
            continue
        keyword = keyword_of(type(old).__name__, field.name)
        if keyword in SECRET_KEYWORDS:
            yield Difference(keyword, HIDDEN if before else None, HIDDEN if after else None)
        elif isinstance(before, tuple) and isinstance(after, tuple) and field.name not in _JOINED:
            yield from _items(keyword, before, after)
        elif _is_model_object(before) and type(before) is type(after) and not isinstance(before, Timeouts):
            yield from field_differences(before, after)
        else:
            yield Difference(keyword, describe_value(before, field.name), describe_value(after, field.name))


def joined(described: Mapping[str, str]) -> str:
    """`weight 3, method DR`."""
    return ", ".join(f"{name} {value}" for name, value in described.items())


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    """Yield the differences between two descriptions by keyword."""
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield Difference(name, before.get(name), after.get(name))


def describe_value(value: Any, name: str = "") -> str | None:
    """Return a value as text; None for no value. A field `name` ends in `_s` for seconds, `_us` for microseconds."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ("", b"", ()):
        return None
    if isinstance(value, Enum) and not isinstance(value, Flag):
        return value.name.lower().replace("_", "-")
    if isinstance(value, (int, float)):
        if name.endswith("_us"):
            return f"{plain(value / 1000)} ms"
        text = plain(value) if isinstance(value, float) else str(int(value))
        return f"{text} s" if name.endswith("_s") else text
    if isinstance(value, bytes):
        text = value.decode("latin-1")
        return text.strip() if value.isascii() and text.strip().isprintable() else value.hex()
    if isinstance(value, tuple):
        return " ".join(_part(each) for each in value)
    return _object(value)


def _part(value: Any) -> str:
    """Describe an item of a list; a pair of numbers is a range."""
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return str(value[0]) if value[0] == value[1] else f"{value[0]}-{value[1]}"
    return describe_value(value) or '""'


def _object(value: Any) -> str:
    """Describe an object on one line, with every setting that is not its default."""
    if isinstance(value, Destination):
        return f"{value.key} ({joined(describe_destination(value))})"
    if isinstance(value, Script):
        account = ":".join(filter(None, (value.user, value.group)))
        return f"{value} as {account}" if account else str(value)
    if isinstance(value, Target):
        return " ".join(_describe_target(value))
    if isinstance(value, Timeouts) or not _is_model_object(value):
        return str(value)
    named = ((keyword_of(type(value).__name__, field.name), field) for field in fields(value))
    own = [
        f"{keyword} {describe_value(getattr(value, field.name), field.name)}"
        for keyword, field in named
        if getattr(value, field.name) != _default(field) and keyword not in SECRET_KEYWORDS
    ]
    return ", ".join(own) or "on"


def _describe_target(target: Target) -> Iterator[str]:
    yield str(target)
    if target.source or target.source_port:
        yield f"from {target.source or 'any address'}" + (f" port {target.source_port}" if target.source_port else "")
    if target.device:
        yield f"by {target.device}"
    if target.mark:
        yield f"with mark {target.mark}"
    if target.via_vip:
        yield "via_vip"


def describe_destination(destination: Destination) -> dict[str, str]:
    """Return weight, forwarding method, thresholds and tunnel of a real server by keyword."""
    described = {"weight": str(destination.weight), "method": METHOD_NAMES[destination.method]}
    if destination.upper:
        described["uthreshold"] = str(destination.upper)
    if destination.lower:
        described["lthreshold"] = str(destination.lower)
    if destination.tunnel != Tunnel():
        described["tunnel"] = tunnel_text(destination.tunnel)
    return described


def _items(keyword: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Difference]:
    """Yield what was added to and removed from a list; compare items with the same identity."""
    removed = [each for each in before if each not in after]
    added = [each for each in after if each not in before]
    if not removed and not added:
        yield Difference(f"order of {keyword}", ", ".join(map(_identity, before)), ", ".join(map(_identity, after)))
        return
    names = {_identity(each): each for each in added}
    for item in removed:
        other = names.pop(_identity(item), None)
        if other is None:
            yield Difference(keyword, _identity(item), None, item=True)
        elif _is_model_object(item):
            for difference in field_differences(item, other):
                name = f"{keyword} {_identity(item)}: {difference.name}"
                yield Difference(name, difference.old, difference.new, difference.item)
        else:
            yield Difference(f"{keyword} {_identity(item)}", describe_value(item), describe_value(other))
    for name in names:
        yield Difference(keyword, None, name, item=True)


def _identity(item: Any) -> str:
    """Return the name or text that identifies an item of a list."""
    if isinstance(item, tuple) and item and isinstance(item[0], str):
        return item[0]
    if _is_model_object(item) and not isinstance(item, (Destination, Script, Target)):
        if "__str__" in vars(type(item)):
            return str(item)
        for name in _IDENTITIES:
            if getattr(item, name, None):
                return describe_value(getattr(item, name)) or ""
    return describe_value(item) or '""'


def _is_model_object(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, (type, Destination, Script, Target))


def _default(field: Field[Any]) -> Any:
    """Return the default of a field; MISSING if it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default
