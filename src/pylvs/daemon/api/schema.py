"""JSON Schemas of replies, events and log lines, made of the types that the daemon serves.

`reference` writes them as a page.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pylvs.daemon.api import replies
from pylvs.daemon.api.events import EVENTS
from pylvs.health.events import Event, Override
from pylvs.model.service import DestinationKey

# MAJOR.MINOR of the schemas. A new field or event is a new MINOR version, so programs must ignore what they do not
# know. A field that is removed or changes its meaning is a new MAJOR version, and a new path instead of /v1.
VERSION = "1.2"

Schema = dict[str, Any]
_SIMPLE: Mapping[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    DestinationKey: {"type": "string"},
    Any: {},
}
EVENT = "Event"


class AnyEvent:
    """An event of any kind."""


class EventsReply(TypedDict):
    """Events of a server."""

    events: list[AnyEvent]


class Schemas:
    """Schemas by name, for `#/components/schemas`. With `closed`, objects have no other fields."""

    def __init__(self, closed: bool = False) -> None:
        self.named: dict[str, Schema] = {}
        self._types: dict[str, Any] = {}
        self._closed = closed

    def of(self, hint: Any) -> Schema:
        """Return the schema of a type; classes are named, and referred to."""
        if hint in _SIMPLE:
            return dict(_SIMPLE[hint])
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self.of(arguments[0]) | {"description": arguments[1]}
        if origin is NotRequired:
            return self.of(arguments[0])
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return self._union([self.of(each) for each in arguments])
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if hint is AnyEvent:
            return {"$ref": f"#/components/schemas/{EVENT}"}
        return self._reference(hint)

    def event(self, name: str, hint: type) -> Schema:
        """Return the schema of one kind of event."""
        schema = self._object(hint)
        schema["properties"] = {"event": {"const": name}} | {
            key: value for key, value in schema["properties"].items() if key != "event"
        }
        schema["required"] = ["event", *(each for each in schema["required"] if each != "event")]
        return schema

    def _union(self, schemas: list[Schema]) -> Schema:
        plain = [each["type"] for each in schemas if each.keys() <= {"type", "description"}]
        if len(plain) < len(schemas):
            return {"anyOf": schemas}
        text = next((each["description"] for each in schemas if "description" in each), None)
        return {"type": plain} | ({"description": text} if text else {})

    def _reference(self, hint: Any) -> Schema:
        name = hint.__name__
        assert self._types.setdefault(name, hint) is hint, f"two types have the name {name}"
        if name not in self.named:
            self.named[name] = {}  # a type may contain itself
            self.named[name] = self._object(hint)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, hint: Any) -> Schema:
        properties, required = {}, []
        for name, field_hint, optional in _fields_of(hint):
            properties[name] = self.of(field_hint)
            required += [] if optional else [name]
        text = " ".join((hint.__doc__ or "").split())
        schema: Schema = {"type": "object", "description": text, "properties": properties, "required": required}
        return schema | ({"additionalProperties": False} if self._closed and hint is not replies.LogLine else {})


def _fields_of(hint: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield name, type, and whether it may be absent."""
    hints = get_type_hints(hint, include_extras=True)
    if is_typeddict(hint):
        for name, each in hints.items():
            yield name, each, get_origin(each) is NotRequired
    elif is_dataclass(hint):
        for each in fields(hint):
            yield each.name, _shown(hints[each.name]), False
    else:
        raise TypeError(f"{hint}: no schema can be made of it")


def _shown(hint: Any) -> Any:
    """Return the type by which `encode_event` shows a field of this one."""
    return OperatorOverride if hint is Override else hint


class OperatorOverride(TypedDict):
    """An override by the operator."""

    standing: replies.Standing
    weight: int | None


def health_events() -> Mapping[str, type[Event]]:
    """Return the classes of all events of health checks, by name."""
    found: dict[str, type[Event]] = {}
    waiting: list[type[Event]] = [Event]
    while waiting:
        kind = waiting.pop()
        children = kind.__subclasses__()
        waiting += children
        if not children:
            found[kind.name] = kind
    return dict(sorted(found.items()))


def event_types() -> Mapping[str, type]:
    """Return the types of all events, by name."""
    return {**health_events(), **EVENTS}


def components(schemas: Schemas) -> dict[str, Schema]:
    """Return the named schemas, with those of events and log lines."""
    schemas.of(replies.Error)
    schemas.of(replies.RefusedReply)
    schemas.of(replies.LogLine)
    for name, hint in event_types().items():
        schemas.named[event_name(name)] = schemas.event(name, hint)
    references = {name: f"#/components/schemas/{event_name(name)}" for name in event_types()}
    schemas.named[EVENT] = {
        "description": "One event: a line of GET /v1/events, and of events.jsonl in the state directory.",
        "oneOf": [{"$ref": each} for each in references.values()],
        "discriminator": {"propertyName": "event", "mapping": references},
    }
    return dict(sorted(schemas.named.items()))


def event_name(event: str) -> str:
    """Return the name of an event's schema: `ServerDownEvent`."""
    return "".join(map(str.capitalize, event.split("_"))) + EVENT


def documented(value: Any) -> str:
    """Return a schema as a short text for a table."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if "anyOf" in value:
        return " or ".join(documented(each) for each in value["anyOf"])
    kind = value.get("type", "anything")
    if kind == "array":
        return f"list of {documented(value['items'])}"
    if kind == "object":
        return f"object of {documented(value['additionalProperties'])}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
