"""An operation of the API: its parameters, their validation, and its part of the OpenAPI document.

Requests are validated against an `Operation` and the OpenAPI document is generated from it, so the two cannot differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from pylvs.daemon.api.schema import Schemas
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import Busy, InvalidOperation, OutOfRange
from pylvs.system.http.server import Request, Response, Stream
from pylvs.system.logs import get_logger

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

LINES = "application/x-ndjson"
_LONGEST_NUMBER = 20  # digits
Given = Mapping[str, Any]  # the parameters of a request
Handler = Callable[["Supervisor", Given], Awaitable[Response | Stream]]
_TYPE_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of strings",
}
_SCHEMAS = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter; `pattern` is a regular expression of JSON Schema, for the document only.

    A number has `limits`, both included. A list is one of strings, and no part of a query.
    """

    kind: type
    help: str
    required: bool = False
    nullable: bool = False
    pattern: str = ""
    limits: tuple[int, int] | None = None

    def checked(self, name: str, value: Any) -> Any:
        """Return the value. Raises InvalidOperation if it has another type, OutOfRange."""
        if value is None and self.nullable:
            return None
        kinds = (int, float) if self.kind is float else self.kind
        fits = isinstance(value, kinds) and (self.kind is bool or not isinstance(value, bool))
        fits = fits and (self.kind is not list or all(isinstance(each, str) for each in value))
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidOperation(f"{name}: must be {_TYPE_NAMES[self.kind]}{' or null' if self.nullable else ''}")
        if self.limits is not None and not self.limits[0] <= value <= self.limits[1]:
            raise OutOfRange(f"{name}: must be from {self.limits[0]} to {self.limits[1]}")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema without a description."""
        name = _SCHEMAS[self.kind]
        pattern = {"pattern": self.pattern} if self.pattern else {}
        limits = {"minimum": self.limits[0], "maximum": self.limits[1]} if self.limits is not None else {}
        items = {"items": {"type": "string"}} if self.kind is list else {}
        return {"type": [name, "null"] if self.nullable else name, **pattern, **limits, **items}


WAIT = Field(bool, "false: reply as soon as the daemon has it; the table follows. true by default")


@dataclass(frozen=True, slots=True)
class Operation:
    """A method and a path with their handler; `takes` are fields of a POST's body or of a GET's query.

    `outlives_client`: a POST that is executed although its client has disconnected before. Others are dropped. A daemon
    that has hung would make edits that their operators have given up.
    """

    method: str
    path: str
    help: str
    handler: Handler
    replies: Any  # the type of a reply, or of each of its lines; str without a schema
    takes: Mapping[str, Field] = field(default_factory=dict)
    answers: str = "application/json"
    outlives_client: bool = False

    async def run(self, daemon: Supervisor, request: Request) -> Response | Stream:
        """Check a request, and execute it. Raises what handlers do, InvalidOperation, OutOfRange, Busy."""
        given = _body(request.body) if self.method == "POST" else self._query(request.query)
        checked = self._checked(given)
        if self.method == "POST" and not self.outlives_client and request.has_disconnected:
            get_logger().warning(f"{self.path} was not executed, because its client has disconnected")
            raise Busy("the client has disconnected")
        return await self.handler(daemon, checked)

    def _query(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the query, with booleans and whole numbers converted."""
        kinds = {name: each.kind for name, each in self.takes.items()}
        return {name: _converted(text, kinds.get(name, str)) for name, text in query.items()}

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        for name in given:
            if name not in self.takes:
                known = ", ".join(self.takes) or "nothing"
                raise InvalidOperation(f"{name}: {self.method} {self.path} does not take it; it takes {known}")
        for name, argument in self.takes.items():
            if argument.required and name not in given:
                raise InvalidOperation(f"{name}: is missing: {argument.help}")
        return {name: self.takes[name].checked(name, value) for name, value in given.items()}

    def described(self, schemas: Schemas) -> dict[str, Any]:
        """Return the OpenAPI operation; add the schemas that it refers to."""
        content: dict[str, Any] = {} if self.replies is str else {"schema": schemas.of(self.replies)}
        made: dict[str, Any] = {
            "summary": self.help,
            "responses": {
                "200": {"description": "done", "content": {self.answers: content}},
                "default": {
                    "description": "what is wrong and what to do",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        if self.takes and self.method == "POST":
            required = [name for name, each in self.takes.items() if each.required]
            schema: dict[str, Any] = {
                "type": "object",
                "properties": {name: each.schema() | {"description": each.help} for name, each in self.takes.items()},
                "additionalProperties": False,
            }
            if required:
                schema["required"] = required
            made["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": schema}}}
        elif self.takes:
            made["parameters"] = [
                {
                    "name": name,
                    "in": "query",
                    "required": each.required,
                    "description": each.help,
                    "schema": each.schema() | {"type": _SCHEMAS[each.kind]},  # a query cannot have null
                }
                for name, each in self.takes.items()
            ]
        return made


def _converted(text: str, kind: type) -> Any:
    """Return the value of a query, or the text, which `Field.checked` refuses."""
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    is_number = kind is int and text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER
    return int(text) if is_number else text


def _body(raw: bytes) -> dict[str, Any]:
    """Return the request's JSON object; an empty body is an empty object. Raises InvalidOperation."""
    try:
        found = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidOperation(f"the request's body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidOperation("the request's body must be a JSON object")
    return found
