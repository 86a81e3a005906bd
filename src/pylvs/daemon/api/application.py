"""The API as an aiohttp application: who may use it, how errors become responses.

aiohttp is large, so the functions that need it import it (`server`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pylvs import __version__
from pylvs.daemon.api import replies
from pylvs.daemon.api.operation import Given, Operation, json_response
from pylvs.daemon.api.routes import ROUTES
from pylvs.daemon.api.schema import VERSION, Schemas, components
from pylvs.model.errors import (
    NO_MEMORY,
    Busy,
    InvalidOperation,
    NoSuchDestination,
    NoSuchService,
    OutOfRange,
    PylvsError,
    text_of,
)
from pylvs.system.logs import get_logger
from pylvs.system.sockets import peer_of
from pylvs.system.syscalls import SHORTAGES

if TYPE_CHECKING:
    from aiohttp import web

    from pylvs.daemon.supervisor import Supervisor

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Errors that another attempt may not have: no descriptor, memory or thread, a full or failing disk.
_OF_THIS_MACHINE = (*SHORTAGES, errno.EAGAIN, errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)
_SILENCE_S = 60.0  # between two lines about a shortage
_SHUTDOWN_S = 1.0  # for requests that run at the stop
_MAX_REQUEST_BYTES = 1 << 20
_MAX_REASON_LENGTH = 200  # characters, in the log
_STATUSES: dict[type[PylvsError], HTTPStatus] = {
    NoSuchService: HTTPStatus.NOT_FOUND,
    NoSuchDestination: HTTPStatus.NOT_FOUND,
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


async def openapi(_daemon: Supervisor, _: web.Request, _given: Given) -> web.Response:
    return json_response(document())


OPERATIONS = (*ROUTES, Operation("GET", "/v1/openapi.json", "This document.", openapi, replies.OpenApi))


async def serve(daemon: Supervisor, listener: socket.socket) -> web.AppRunner:
    """Serve requests on this socket until the runner is cleaned up, which closes the socket."""
    import aiohttp
    from aiohttp import web

    middlewares = [web.middleware(_root_only), web.middleware(_errors_as_json)]
    application = web.Application(middlewares=middlewares, client_max_size=_MAX_REQUEST_BYTES)
    application.add_routes(each.route(daemon) for each in OPERATIONS)
    logging.getLogger("aiohttp.server").addFilter(_one_line)
    timeout: dict[str, Any] = {"shutdown_timeout": _SHUTDOWN_S}
    at_site = aiohttp.__version__.startswith("3.8.")  # aiohttp 3.8, of Debian 12; later the runner has it
    runner = web.AppRunner(application, access_log=None, **({} if at_site else timeout))
    try:
        await runner.setup()
        asyncio.get_running_loop().set_exception_handler(AcceptFailures())
        await web.SockSite(runner, listener, **(timeout if at_site else {})).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


class AcceptFailures:
    """Log a shortage that keeps connections waiting once a minute. asyncio reports it up to 128 times a second."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._silent_until = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle what no task does, in place of the loop's default handler."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in SHORTAGES:
            loop.default_exception_handler(context)
        elif self._now() >= self._silent_until:
            self._silent_until = self._now() + _SILENCE_S
            get_logger().error(f"connections wait, as none can be accepted: {error.strerror}")


async def _root_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse other users than root and the daemon's own, even if the socket's mode let them connect."""
    peer = request.transport.get_extra_info("socket") if request.transport else None
    if peer is None:  # the client has disconnected, so its user is unknown
        return json_response({"error": "the client disconnected before its user was known"}, HTTPStatus.FORBIDDEN)
    if peer.family == socket.AF_UNIX:
        _, user = peer_of(peer)
        if user not in (0, os.geteuid()):
            return json_response({"error": "root alone may ask this daemon"}, HTTPStatus.FORBIDDEN)
    return await handler(request)


async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn exceptions of handlers into `{"error": TEXT}`."""
    from aiohttp import web

    try:
        return await handler(request)
    except web.HTTPException as error:
        refusal = json_response({"error": f"{request.method} {request.path}: {error.reason}"}, error.status)
        if "Allow" in error.headers:  # RFC 9110, 15.5.6
            refusal.headers["Allow"] = error.headers["Allow"]
        return refusal
    except PylvsError as error:
        status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), HTTPStatus.CONFLICT)
        return json_response({"error": str(error)}, status)
    except MemoryError:
        get_logger().error(f"{request.method} {request.path} failed: {NO_MEMORY}")
        return json_response({"error": NO_MEMORY}, HTTPStatus.SERVICE_UNAVAILABLE)
    except Exception as error:
        if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE):
            text = text_of(error)
            get_logger().error(f"{request.method} {request.path} failed: {text}")
            return json_response({"error": text}, HTTPStatus.SERVICE_UNAVAILABLE)
        get_logger().exception(f"{request.method} {request.path} failed: this is a bug")
        return json_response(
            {"error": "this is a bug of pylvs; its log has the trace"}, HTTPStatus.INTERNAL_SERVER_ERROR
        )


def _one_line(record: logging.LogRecord) -> bool:
    """Log a malformed request as one line: it is the client's error, and aiohttp's trace would hide other lines."""
    from aiohttp.http_exceptions import HttpProcessingError

    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        reason = " ".join(error.message.split())[:_MAX_REASON_LENGTH]
        record.msg, record.args = "malformed request refused: %s", (reason,)
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True
