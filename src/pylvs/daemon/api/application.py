"""The API as an application of aiohttp: who may ask, and what an error becomes.

A handler answers with `answer`, and raises a PylvsError for what cannot be done: its text becomes `{"error": "..."}`.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pylvs.daemon.api import routes
from pylvs.daemon.api.desk import Desk
from pylvs.daemon.api.operations import answer
from pylvs.model.errors import Busy, InvalidOperation, NoSuchDestination, NoSuchService, OutOfRange, PylvsError
from pylvs.system.logs import get_logger

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_SHUTDOWN_S = 1.0  # for requests that are under way at the end
_MOST_BYTES = 1 << 20  # of a request
_LONGEST_REASON = 200  # characters, in the log
_STATUSES: dict[type[PylvsError], HTTPStatus] = {
    NoSuchService: HTTPStatus.NOT_FOUND,
    NoSuchDestination: HTTPStatus.NOT_FOUND,
    InvalidOperation: HTTPStatus.BAD_REQUEST,
    OutOfRange: HTTPStatus.BAD_REQUEST,
    Busy: HTTPStatus.SERVICE_UNAVAILABLE,
}


async def begin(desk: Desk, listener: socket.socket) -> web.AppRunner:
    """Answer requests on this socket until the runner is cleaned up, which closes the socket."""
    application = web.Application(middlewares=[_root_alone, _errors_in_words], client_max_size=_MOST_BYTES)
    application.add_routes(each.route() for each in routes.all_operations(desk))
    logging.getLogger("aiohttp.server").addFilter(_one_line)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner


@web.middleware
async def _root_alone(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whoever gets at the socket in spite of its mode is refused, unless it is root or the daemon's own user."""
    peer = request.transport.get_extra_info("socket") if request.transport else None
    if peer is None:  # gone already, and nobody knows who it was
        return answer({"error": "who asks must wait for the answer"}, HTTPStatus.FORBIDDEN)
    if peer.family == socket.AF_UNIX:
        _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user not in (0, os.geteuid()):
            return answer({"error": "root alone may ask this daemon"}, HTTPStatus.FORBIDDEN)
    return await handler(request)


@web.middleware
async def _errors_in_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        refusal = answer({"error": f"{request.method} {request.path}: {error.reason}"}, error.status)
        if "Allow" in error.headers:  # RFC 9110, 15.5.6
            refusal.headers["Allow"] = error.headers["Allow"]
        return refusal
    except PylvsError as error:
        return answer({"error": str(error)}, _status(error))
    except Exception:
        get_logger().exception(f"{request.method} {request.path} failed: this is a bug")
        return answer({"error": "this is a bug of pylvs; its log has the trace"}, HTTPStatus.INTERNAL_SERVER_ERROR)


def _one_line(record: logging.LogRecord) -> bool:
    """A malformed request is its sender's fault: aiohttp's trace of it would only hide other lines."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        reason = " ".join(error.message.split())[:_LONGEST_REASON]
        record.msg, record.args = "malformed request refused: %s", (reason,)
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True


def _status(error: PylvsError) -> HTTPStatus:
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), HTTPStatus.CONFLICT)
