"""Compare what a daemon sends with its JSON Schemas, which have no other fields than those named."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from pylvs.daemon.api.application import document


@functools.cache
def _document() -> dict[str, Any]:
    return document(closed=True)


@functools.cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a schema, given as JSON, with those that it refers to."""
    validator = jsonschema.Draft202012Validator({**json.loads(schema), "components": _document()["components"]})
    validator.check_schema(validator.schema)
    return validator


def wrong(schema: Mapping[str, Any], value: Any) -> Iterator[str]:
    """Yield what differs from the schema."""
    plain = json.loads(json.dumps(value))
    for error in _validator(json.dumps(schema)).iter_errors(plain):
        yield f"{error.json_path}: {error.message[:500]}"


def wrong_in_reply(method: str, path: str, status: int, reply: Any) -> list[str]:
    """Return what differs from the schema of a reply to this request."""
    operation = _document()["paths"].get(path.partition("?")[0], {}).get(method.lower())
    if operation is None:
        return []
    responses = operation["responses"]
    if status != 200 and "findings" in reply:  # a refused reload has them beside the error
        return list(wrong({"$ref": "#/components/schemas/RefusedReply"}, reply))
    content = responses["200" if status == 200 else "default"]["content"]["application/json"]
    return [f"{method} {path}: {each}" for each in wrong(content["schema"], reply)]


def wrong_in_event(event: Mapping[str, Any]) -> list[str]:
    """Return what differs from the schema of an event of this name."""
    kinds = _document()["components"]["schemas"]["Event"]["discriminator"]["mapping"]
    if event["event"] not in kinds:
        return [f"the event {event['event']} has no schema"]
    return [f"{event['event']}: {each}" for each in wrong({"$ref": kinds[event["event"]]}, event)]


def wrong_in_log_line(line: str) -> list[str]:
    """Return what differs from the schema of a log line."""
    return list(wrong({"$ref": "#/components/schemas/LogLine"}, json.loads(line)))
