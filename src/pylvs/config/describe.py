"""Describe model objects by keepalived's keywords, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum, Flag
from typing import Any

from pylvs.config.compile.effective import keyword_of
from pylvs.config.schema.types import plain
from pylvs.model.checks import Script, Target
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Destination, Method, Tunnel, TunnelFlag, TunnelKind

METHODS = {Method.MASQ: "NAT", Method.LOCAL: "local", Method.TUNNEL: "TUN", Method.ROUTE: "DR"}
HIDDEN = "hidden"

_SECRETS = frozenset({"password"})
_JOINED = frozenset({"statuses", "arguments", "regex_options", "command", "devices", "cpus", "options"})
_IDENTITIES = ("name", "path", "device", "devices", "address")


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


def field_differences(old: Any, new: Any, without: Sequence[str] = ()) -> Iterator[Difference]:
    """Yield the differences between two objects of one class, except in the fields `without`."""
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after or field.name in without:
            continue
        keyword = keyword_of(type(old).__name__, field.name)
        if field.name in _SECRETS:
            yield Difference(keyword, HIDDEN if before else None, HIDDEN if after else None)
        elif isinstance(before, tuple) and isinstance(after, tuple) and field.name not in _JOINED:
            yield from _items(keyword, before, after)
        elif _is_model_object(before) and type(before) is type(after):
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
    """Return a value as text; None for no value. A field `name` that ends in `_s` has seconds."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ("", b"", ()):
        return None
    if isinstance(value, Enum) and not isinstance(value, Flag):
        return value.name.lower().replace("_", "-")
    if isinstance(value, (int, float)):
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
    if not _is_model_object(value):
        return str(value)
    own = [
        f"{keyword_of(type(value).__name__, field.name)} {describe_value(getattr(value, field.name), field.name)}"
        for field in fields(value)
        if getattr(value, field.name) != _default(field) and field.name not in _SECRETS
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
    described = {"weight": str(destination.weight), "method": METHODS[destination.method]}
    if destination.upper:
        described["uthreshold"] = str(destination.upper)
    if destination.lower:
        described["lthreshold"] = str(destination.lower)
    if destination.tunnel != Tunnel():
        described["tunnel"] = _tunnel(destination.tunnel)
    return described


def _tunnel(tunnel: Tunnel) -> str:
    names = [flag.name.lower() for flag in TunnelFlag if flag in tunnel.flags and flag.name]
    port = [f"port {tunnel.port}"] if tunnel.kind is TunnelKind.GUE else []
    return " ".join([tunnel.kind.name.lower(), *port, *names])


def _items(keyword: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Difference]:
    """Yield what was added to and removed from a list; compare items with the same identity."""
    removed = [each for each in before if each not in after]
    added = [each for each in after if each not in before]
    if not removed and not added:
        yield Difference(f"order of {keyword}", ", ".join(map(_identity, before)), ", ".join(map(_identity, after)))
        return
    names = {_identity(each): each for each in added}
    for each in removed:
        other = names.pop(_identity(each), None)
        if other is None:
            yield Difference(keyword, _identity(each), None, item=True)
        elif _is_model_object(each):
            for difference in field_differences(each, other):
                name = f"{keyword} {_identity(each)}: {difference.name}"
                yield Difference(name, difference.old, difference.new, difference.item)
        else:
            yield Difference(f"{keyword} {_identity(each)}", describe_value(each), describe_value(other))
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
