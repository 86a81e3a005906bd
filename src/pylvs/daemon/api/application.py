"""The operations of the API by path: who may use them, how errors become responses."""

from __future__ import annotations

import os
import socket
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pylvs import __version__
from pylvs.daemon.api import replies
from pylvs.daemon.api.operation import Given, Operation
from pylvs.daemon.api.routes import ROUTES
from pylvs.daemon.api.schema import VERSION, Schemas, components
from pylvs.model.errors import (
    Busy,
    InvalidOperation,
    NoSuchDestination,
    NoSuchRouter,
    NoSuchRule,
    NoSuchService,
    NoSuchTables,
    OutOfRange,
    PylvsError,
    text_of,
)
from pylvs.system.http.lines import json_line
from pylvs.system.http.server import HttpServer, Limits, Refusal, Request, Response, Stream, json_response
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes.shortage import missing
from pylvs.web.asked import CLIENT, ROLE, WHO, Ask
from pylvs.web.tokens import OPERATE

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

# Of the socket for a group: members may be slow or malicious. Operations for them take a fifth of a CPU.
_OF_MEMBERS = Limits(connections=16, of_one_user=4, request_s=5.0, send_s=60.0, pause_s=0.005, share=4)
_LONGEST, _MAX_TEXT = 300, 1000  # characters of a name and of the fields, in the log
_STATUSES: dict[type[PylvsError], HTTPStatus] = {
    NoSuchService: HTTPStatus.NOT_FOUND,
    NoSuchDestination: HTTPStatus.NOT_FOUND,
    NoSuchRouter: HTTPStatus.NOT_FOUND,
    NoSuchRule: HTTPStatus.NOT_FOUND,
    NoSuchTables: HTTPStatus.NOT_FOUND,
    InvalidOperation: HTTPStatus.BAD_REQUEST,
    OutOfRange: HTTPStatus.BAD_REQUEST,
    Busy: HTTPStatus.SERVICE_UNAVAILABLE,
}


def document(closed: bool = False) -> dict[str, Any]:
    """Return the OpenAPI document; with `closed`, objects have no other fields than those named."""
    schemas = Schemas(closed)
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method.lower()] = each.described(schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "pylvs run", "version": VERSION, "x-pylvs-version": __version__},
        "paths": paths,
        "components": {"schemas": components(schemas)},
    }


async def openapi(_daemon: Supervisor, _: Given) -> Response:
    return json_response(document())


OPERATIONS = (*ROUTES, Operation("GET", "/v1/openapi.json", "This document.", openapi, replies.OpenApi))
_BY_PATH: dict[str, dict[str, Operation]] = {}
for _each in OPERATIONS:
    _BY_PATH.setdefault(_each.path, {})[_each.method] = _each


def server(daemon: Supervisor, listener: socket.socket) -> HttpServer:
    """Return the server of the socket for root."""
    return HttpServer(listener, partial(_for_root, daemon))


def group_server(daemon: Supervisor, listener: socket.socket) -> HttpServer:
    """Return the server of the socket for members of a group."""
    return HttpServer(listener, partial(_for_group, daemon), _OF_MEMBERS)


async def _for_group(daemon: Supervisor, request: Request) -> Response | Stream:
    """Execute a request that changes nothing. Raises Refusal."""
    if request.method != "GET" and any(each.path == request.path for each in OPERATIONS):
        text = f"{request.method} {request.path}: this socket is for reading; root alone may change anything"
        raise Refusal(HTTPStatus.FORBIDDEN, text)
    return await _executed(daemon, request)


async def _for_root(daemon: Supervisor, request: Request) -> Response | Stream:
    """Execute a request. Refuse other users than root and the daemon's own, even if the socket's mode let them connect.

    Raises Refusal.
    """
    if request.user not in (0, os.geteuid()):
        raise Refusal(HTTPStatus.FORBIDDEN, "root alone may ask this daemon")
    return await _executed(daemon, request)


async def execute(daemon: Supervisor, ask: Ask) -> tuple[int, bytes]:
    """Execute a request of the web page, and return status and body."""
    content = json_line(ask.given) if ask.method == "POST" else b""
    query = {name: str(value) for name, value in ask.given.items()} if ask.method == "GET" else {}
    request = Request(ask.method, ask.path, query, content, None, os.geteuid(), ask.headers())
    try:
        response = await _executed(daemon, request)
    except Refusal as refusal:
        response = refusal.response()
    assert isinstance(response, Response)  # the page asks for no stream
    return response.status, response.body


async def _operated(daemon: Supervisor, operation: Operation, request: Request) -> Response | Stream:
    """Execute an operation. If a user of the web page asks, it is logged, and published as an event."""
    who = request.headers.get(WHO, "")
    if not who or operation.method == "GET":
        return await operation.run(daemon, request)
    who, client = one_line(who)[:_LONGEST], one_line(request.headers.get(CLIENT, ""))[:_LONGEST]
    if request.headers.get(ROLE) != OPERATE:
        raise Refusal(HTTPStatus.FORBIDDEN, f"{who} may read, and not operate")
    name = request.path.removeprefix("/v1/")
    text = one_line(request.body.decode(errors="replace"))[:_MAX_TEXT]
    response = await operation.run(daemon, request)
    get_logger().info(f"{name} by a user of the web page", who=who, client=client, text=text)
    daemon.events.publish("operated", who=who, client=client, operation=name, text=text)
    return response


async def _executed(daemon: Supervisor, request: Request) -> Response | Stream:
    """Return the response, with `{"error": TEXT}` for exceptions of handlers. Raises Refusal."""
    methods = _BY_PATH.get(request.path, {})
    operation = methods.get(request.method)
    what = f"{request.method} {request.path}"
    if operation is None and methods:  # RFC 9110, 15.5.6
        text = f"{what}: {HTTPStatus.METHOD_NOT_ALLOWED.phrase}"
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, text, {"Allow": ", ".join(methods)})
    if operation is None:
        raise Refusal(HTTPStatus.NOT_FOUND, f"{what}: {HTTPStatus.NOT_FOUND.phrase}")
    try:
        return await _operated(daemon, operation, request)
    except Refusal:
        raise
    except PylvsError as error:
        status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), HTTPStatus.CONFLICT)
        raise Refusal(status, str(error)) from None
    except (OSError, MemoryError) as error:  # TimeoutError, too; another attempt may not have it
        text = missing(error) or text_of(error)
        get_logger().error(f"{what} failed: {text}")
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text) from None
    except Exception:
        get_logger().exception(f"{what} failed: this is a bug")
        raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a bug of pylvs; its log has the trace") from None
