"""A small HTTP/1.1 server for the sockets of the API and of the web page: h11 parses, asyncio waits.

Each connection has one request and one response, and is closed then. So a client leaves nothing in the daemon. What a
client can occupy has a limit: connections, bytes of a request, and the time to send it. Responses are sent in pieces
from the one copy that the operation made. At the limit of connections a new one replaces the oldest that waits for its
client. Those without a complete request come first, then those whose client does not read, then idle streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import math
import select
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError
from pylvs.system.http.lines import json_line
from pylvs.system.logs import get_logger
from pylvs.system.sockets import peer_of

if TYPE_CHECKING:
    from pylvs.system.http.wire import Wire

JSON = "application/json; charset=utf-8"
MAX_BODY = 1 << 20  # bytes
MAX_HEAD = 16 << 10
_MAX_FIELDS = 100  # of a query
_PIECE = 1 << 16  # bytes that are received or sent at a time
_SEND_BUFFER = 1 << 16  # bytes of a response that the kernel holds for a client that does not read
_SHUTDOWN_S = 1.0  # for requests that run at the stop
_LINGER_S, _MAX_LINGER = 1.0, 4 << 20  # a client sends the rest of a refused request before it reads the response
MAX_PAUSE_S = 0.5  # behind an operation: a command of another user waits for a few of them
_MAX_REASON = 200  # characters, in the log


@dataclass(frozen=True, slots=True)
class Limits:
    """What the clients of one socket may occupy.

    `pause_s` is the least time between two connections, and between two pieces of one request. `share`: operations are
    executed one after another, each followed by a pause of so many times its duration, at most MAX_PAUSE_S; 0: at once.
    """

    connections: int = 256
    of_one_user: int = 256
    request_s: float = 30.0  # for a complete request
    send_s: float = math.inf  # for a response that is no stream
    part_s: float = math.inf  # for a part of a stream
    pause_s: float = 0.0
    share: int = 0


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] = {}) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers

    def response(self) -> Response:
        return json_response({"error": self.text}, self.status, self.headers)


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request. `user` is that of the client's process, or over TCP its address; `headers` are in lower case.

    `end` is None for a request of another process of pylvs.
    """

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    end: socket.socket | None
    user: int | str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_disconnected(self) -> bool:
        """Whether the client has closed its socket, also if asyncio has not noticed it yet."""
        return self.end is not None and _is_closed(self.end)


@dataclass(frozen=True, slots=True)
class Response:
    """A response with its whole body."""

    body: bytes
    status: int = HTTPStatus.OK
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """A response whose parts come with time; an empty part only lets the server look whether the client is there."""

    parts: AsyncIterator[bytes]
    content_type: str
    close: Callable[[], None] = lambda: None  # called at the end
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response | Stream]]


def json_response(content: Any, status: int = HTTPStatus.OK, headers: Mapping[str, str] = {}) -> Response:
    """Return a response of JSON with a newline at its end."""
    return Response(json_line(content), status, headers=headers)


class _Waits(enum.IntEnum):
    """What a connection waits for, in the order in which connections are replaced; those at WORK are not."""

    REQUEST = 0
    READER = 1
    PART = 2
    WORK = 3


@dataclass(slots=True, eq=False)
class _Connection:
    end: socket.socket
    user: int | str
    wire: Wire | None = None
    http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.SERVER, MAX_HEAD))
    waits: _Waits = _Waits.REQUEST
    since: float = 0.0  # when it began to wait for that
    method: str = ""
    complete: bool = False  # the request

    def wait_for(self, what: _Waits) -> None:
        self.waits, self.since = what, time.monotonic()


class HttpServer:
    """Serves the connections of one listener, which is non-blocking."""

    def __init__(
        self,
        listener: socket.socket,
        handler: Handler,
        limits: Limits = Limits(),  # noqa: B008  immutable
        open_wire: Callable[[socket.socket], Awaitable[Wire]] | None = None,
        user_of: Callable[[socket.socket], int | str] = lambda end: peer_of(end)[1],
    ) -> None:
        """`open_wire` makes the handshake of TLS. Without it, bytes are sent as they are."""
        self._listener, self._handler, self._limits = listener, handler, limits
        self._open_wire, self._user_of = open_wire, user_of
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._refusals: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Accept connections until cancelled; then end those that there are."""
        try:
            while True:
                await self._accept()
                await asyncio.sleep(self._limits.pause_s)
        finally:
            await self._close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            end, _ = await loop.sock_accept(self._listener)
        except ConnectionAbortedError:
            return
        try:
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            connection = _Connection(end, self._user_of(end))
        except OSError:  # the client has disconnected
            end.close()
            return
        if not await self._make_space(connection.user):
            if len(self._refusals) < self._limits.connections:  # each for a second at most
                task = loop.create_task(self._refuse(connection))
                self._refusals.add(task)
                task.add_done_callback(self._refusals.discard)
            else:
                end.close()
            return
        connection.wait_for(_Waits.REQUEST)
        self._connections[connection] = loop.create_task(self._serve(connection))

    async def _make_space(self, user: int | str) -> bool:
        """End the connection that is replaced, if none is free for this user; return False if all are executed now."""
        own = [each for each in self._connections if each.user == user]
        if len(own) >= self._limits.of_one_user:
            found = own
        elif len(self._connections) >= self._limits.connections:
            found = list(self._connections)
        else:
            return True
        found = [each for each in found if each.waits is not _Waits.WORK]
        if not found:
            return False
        task = self._connections[min(found, key=lambda each: (each.waits, each.since))]
        task.cancel()
        await asyncio.wait({task})
        return True

    async def _refuse(self, connection: _Connection) -> None:
        text = "too many requests are executed at this moment; try again"
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    await self._send_all(connection, json_response({"error": text}, HTTPStatus.SERVICE_UNAVAILABLE))
        finally:
            connection.end.close()

    async def _serve(self, connection: _Connection) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError):  # the client has disconnected, or does not read
                await self._exchange(connection)
        except PylvsError as error:  # of a stream that has begun
            get_logger().error(f"a response was not completed: {error}")
        except Exception:
            get_logger().exception("a response was not completed: this is a bug")
        finally:
            connection.end.close()
            del self._connections[connection]

    async def _exchange(self, connection: _Connection) -> None:
        try:
            async with asyncio.timeout(self._limits.request_s):
                if self._open_wire is not None:
                    connection.wire = await self._open_wire(connection.end)
                request = await self._received(connection)
        except TimeoutError:
            if self._open_wire is not None and connection.wire is None:
                return
            text = f"the request was not complete in {self._limits.request_s:g} s"
            await self._send_all(connection, json_response({"error": text}, HTTPStatus.REQUEST_TIMEOUT))
            return
        except Refusal as refusal:
            await self._send_all(connection, refusal.response())
            return
        connection.complete = True
        connection.wait_for(_Waits.WORK)
        response = await self._handled(request)
        if isinstance(response, Response):
            del request  # with its body
            await self._send_all(connection, response)
            return
        try:
            await self._send_stream(connection, response)
        finally:
            if isinstance(response.parts, AsyncGenerator):  # now, not when the collector finds it behind an error
                await response.parts.aclose()
            response.close()

    async def _handled(self, request: Request) -> Response | Stream:
        try:
            if not self._limits.share:
                return await self._handler(request)
            async with self._turn:
                if request.has_disconnected:
                    raise ConnectionResetError(errno.ECONNRESET, "disconnected")
                begin = time.monotonic()
                try:
                    return await self._handler(request)
                finally:
                    pause_s = min(self._limits.share * (time.monotonic() - begin), MAX_PAUSE_S)
                    await asyncio.sleep(pause_s)
        except Refusal as refusal:
            return refusal.response()

    async def _received(self, connection: _Connection) -> Request:
        """Return the request. Raises Refusal; OSError if the client disconnects."""
        http, head, body, pause_s = connection.http, None, bytearray(), 0.0
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise self._malformed(error) from None
            if event is h11.NEED_DATA:
                await asyncio.sleep(pause_s)
                pause_s = self._limits.pause_s
                await self._receive(connection)
            elif isinstance(event, h11.Request):
                head, connection.method = event, event.method.decode("ascii")
                _check_encoding(head)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY:
                    raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {MAX_BODY} bytes")
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                path, query = _target(head.target.decode("ascii", "replace"))
                fields = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
                return Request(connection.method, path, query, bytes(body), connection.end, connection.user, fields)
            else:
                raise ConnectionResetError(errno.ECONNRESET, "disconnected")

    async def _receive(self, connection: _Connection) -> None:
        loop, http, wire = asyncio.get_running_loop(), connection.http, connection.wire
        if http.they_are_waiting_for_100_continue:
            go_on = http.send(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[])) or b""
            await (loop.sock_sendall(connection.end, go_on) if wire is None else wire.send(go_on))
        http.receive_data(await (loop.sock_recv(connection.end, _PIECE) if wire is None else wire.receive()))

    def _malformed(self, error: h11.RemoteProtocolError) -> Refusal:
        reason = " ".join(str(error).split())[:_MAX_REASON]
        if not self._limits.share:  # others would fill the log
            get_logger().warning(f"malformed request refused: {reason}")
        return Refusal(error.error_status_hint, f"malformed request: {reason}")

    async def _send_all(self, connection: _Connection, response: Response) -> None:
        """Send a response as a whole. Raises OSError, TimeoutError."""
        http = connection.http
        headers = {"Content-Length": str(len(response.body)), **response.headers}
        async with _within(self._limits.send_s):
            await self._send_head(connection, response.status, response.content_type, headers)
            if connection.method != "HEAD":
                await self._send(connection, http.send(h11.Data(data=response.body)) or b"")
            if connection.wire is not None:
                await connection.wire.close()
        if not connection.complete:
            await self._linger(connection.end)

    async def _send_stream(self, connection: _Connection, stream: Stream) -> None:
        http = connection.http
        headers = {"Cache-Control": "no-store", **stream.headers}
        await self._send_head(connection, HTTPStatus.OK, stream.content_type, headers)
        if connection.method == "HEAD":  # a response without a body, RFC 9110, 9.3.2
            return
        connection.wait_for(_Waits.PART)
        async for part in stream.parts:
            if part:
                async with _within(self._limits.part_s):
                    await self._send(connection, http.send(h11.Data(data=part)) or b"")
                connection.wait_for(_Waits.PART)
            elif _is_closed(connection.end):
                return
        await self._send(connection, http.send(h11.EndOfMessage()) or b"")

    async def _send_head(
        self, connection: _Connection, status: int, content_type: str, headers: Mapping[str, str]
    ) -> None:
        fields = {"Content-Type": content_type, **headers, "Connection": "close"}
        head = h11.Response(status_code=status, headers=list(fields.items()), reason=HTTPStatus(status).phrase.encode())
        await self._send(connection, connection.http.send(head) or b"")

    async def _send(self, connection: _Connection, data: bytes) -> None:
        connection.wait_for(_Waits.READER)
        loop, rest = asyncio.get_running_loop(), memoryview(data)
        while rest:
            piece = rest[:_PIECE]
            await (loop.sock_sendall(connection.end, piece) if connection.wire is None else connection.wire.send(piece))
            rest = rest[_PIECE:]

    @staticmethod
    async def _linger(end: socket.socket) -> None:
        """Receive the rest of a refused request: a client that cannot send it would not read the response."""
        loop, received = asyncio.get_running_loop(), 0
        with contextlib.suppress(OSError, TimeoutError):
            end.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LINGER_S):
                while received < _MAX_LINGER and (data := await loop.sock_recv(end, _PIECE)):
                    received += len(data)

    async def _close(self) -> None:
        """Let requests that run end within a short time, then end all connections."""
        running = {task for each, task in self._connections.items() if each.waits in (_Waits.WORK, _Waits.READER)}
        if running:
            await asyncio.wait(running, timeout=_SHUTDOWN_S)
        tasks = [*self._connections.values(), *self._refusals]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _within(seconds: float) -> asyncio.Timeout:
    return asyncio.timeout(None if math.isinf(seconds) else seconds)


def _is_closed(end: socket.socket) -> bool:
    """Return whether the other end is closed; one that has shut down only its sending is not."""
    poll = select.poll()
    poll.register(end, 0)  # POLLHUP is always reported
    return bool(poll.poll(0))


def _check_encoding(head: h11.Request) -> None:
    """Raise Refusal for a body in an encoding: RFC 9110, 15.5.16."""
    for name, value in head.headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            text = f"Content-Encoding: {value.decode('ascii', 'replace')}: send the body without an encoding"
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text, {"Accept-Encoding": "identity"})


def _target(text: str) -> tuple[str, dict[str, str]]:
    """Return path and query of a request's target. Raises Refusal."""
    try:
        parts = urlsplit(text)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"malformed request: its target is no URL: {error}") from None
    return unquote(parts.path), query
