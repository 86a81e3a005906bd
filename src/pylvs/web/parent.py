"""The parent's end of the process that serves the web page: `pylvs run`, or `pylvs web` beside it.

| to the process | |
|---|---|
| {"serve": settings} | with the listener, unless it has that already, and a file with certificate and key |
| {"reply": number, "status": status, "body": text} | a long body is in a file in memory |
| {"line": number, "text": text} | a record of a trace |
| {"events": text} | lines of JSON |

| from it | |
|---|---|
| {"ask": number, "method", "path", "given", "token", "client"} | a request to the daemon's API |
| {"run": number, "job": kind, "given", "token", "client"} | a command; {"cancel": number} ends it, without a reply |
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

from pylvs.model.addresses import endpoint, family_of
from pylvs.model.errors import PylvsError, text_of
from pylvs.model.wanted import WebSettings
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes.asyncio_loop import AsyncioLoop, closed
from pylvs.system.processes.channel import BadMessage, Message, sealed
from pylvs.system.processes.child import Child
from pylvs.system.threads import to_thread
from pylvs.web import tokens
from pylvs.web.asked import Answer, Refused, Rights, Send, client_of
from pylvs.web.jobs import Jobs

WHAT = "the web page's process"
_BACKLOG = 128
_MOST_PENDING = 64  # requests and commands at once
_LONG = 1 << 15  # bytes of a body in a message
_MOST_FILE = 1 << 20  # bytes of a certificate with its chain, or a key
_READ_S = 10.0  # for these files
_MOST_WAITING = 256  # files that wait until the process reads


class WebParent:
    """Starts the process while there is an address, and executes its requests with `send`."""

    def __init__(self, send: Send, events: Callable[[], AsyncIterator[bytes]], jobs: Jobs) -> None:
        """`events` yields lines of JSON for as long as it is read."""
        self._send, self._events, self._jobs = send, events, jobs
        self.process = Child(
            AsyncioLoop(), WHAT, "pylvs.edge", self._receive, self._up, self._down, most_waiting=_MOST_WAITING
        )
        self._settings = WebSettings()
        self._rights = Rights(None)
        self._listener: socket.socket | None = None
        self._pem = b""
        self._error = ""
        self._pending: dict[asyncio.Task[None], int | None] = {}  # with the number of a command
        self._following: asyncio.Task[None] | None = None
        self._log = get_logger()

    @property
    def error(self) -> str:
        """Why no page is served as configured, "" if it is."""
        if self._listener is None or self._error:
            return self._error
        return self.process.problem

    @property
    def port(self) -> int:
        """The port of the listener; 0 without one."""
        return int(self._listener.getsockname()[1]) if self._listener is not None else 0

    async def follow(self, settings: WebSettings, more: tuple[tokens.Token, ...] = ()) -> None:
        """Serve these settings from now on. Files are read again: tokens and certificates may have changed.

        An error is logged only: nothing else depends on the page. What was served before ends then, because a token
        may have been revoked. Connections stay while address and certificate do.
        """
        former, self._settings = self._settings, settings
        try:
            pem, known = await _read(settings)
            if settings.address is not None and settings.refused:
                raise PylvsError(f"web_address {endpoint(*settings.address)} {settings.refused}")
            if settings.address != former.address or self._listener is None:
                self._stop_listening()
                self._listen(settings)
        except PylvsError as error:
            self._error = str(error)
            self._log.error(self._error)
            self._stop_listening()
            self.process.close()
            return
        stays = settings.address == former.address and pem == self._pem
        self._error, self._pem = "", pem
        self._rights = Rights((*(known or ()), *more) if known is not None or more else None)
        if self._listener is None:
            self.process.close()
        elif self.process.started:
            if self.process.up:
                self._serve(stays)
        else:
            self.process.start("web")

    async def close(self) -> None:
        """Serve no longer."""
        self._stop_listening()
        await self._jobs.close()
        tasks = [*self._pending, *([self._following] if self._following else [])]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await closed(self.process)

    def _listen(self, settings: WebSettings) -> None:
        """Raises PylvsError."""
        if settings.address is None:
            return
        address, port = settings.address
        try:
            self._listener = socket.create_server((str(address), port), family=family_of(address), backlog=_BACKLOG)
        except OSError as error:
            where = endpoint(address, port)
            raise PylvsError(f"web_address {where}: {os.strerror(error.errno or 0)}; write another port") from None
        self._listener.setblocking(False)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # the process may have it for some time: refuse clients now
            self._listener.close()
            self._listener = None

    def _up(self) -> None:
        self._serve()
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow_events())

    def _serve(self, stays: bool = False) -> None:
        """Send settings, and unless it `stays`, the listener with its certificate."""
        if self._listener is None:
            return
        files: list[Any] = [] if stays else [self._listener.dup()]
        if self._pem and not stays:
            files.append(os.fdopen(sealed(self._pem), "rb"))
        known = self._rights.known
        settings = {
            "tls": bool(self._pem),
            "url": self._settings.url,
            "tokens": None if known is None else [each.plain() for each in known],
        }
        self.process.send({"serve": settings}, files)

    def _down(self) -> None:
        """What is pending is for a process that has ended."""
        for each in self._pending:
            each.cancel()

    async def _follow_events(self) -> None:
        """Pass on events; what a process that does not read misses is lost, and the daemon's own page has it."""
        try:
            async for lines in self._events():
                if lines and not self.process.waits:
                    self.process.send({"events": lines.decode(errors="replace")})
        except PylvsError as error:
            self._log.warning(f"the web page gets no events: {error}")
        finally:
            self._following = None

    def _receive(self, message: dict[str, Any]) -> None:
        if "log" in message:
            level = message["log"]
            if level not in ("info", "warning", "error"):
                raise BadMessage("a line of the log without its fields")
            self._log.log(level, one_line(str(message.get("event")))[:2000])
            return
        if "cancel" in message:
            for task, command in self._pending.items():
                if command is not None and command == message["cancel"]:
                    task.cancel()
            return
        number = message.get("ask", message.get("run"))
        if not isinstance(number, int):
            raise BadMessage("a request without its number")
        if len(self._pending) >= _MOST_PENDING:
            error = {"error": "too many requests are executed at this moment; try again"}
            self._reply(number, (HTTPStatus.SERVICE_UNAVAILABLE, json.dumps(error).encode()))
            return
        task = asyncio.get_running_loop().create_task(self._answer(number, message))
        self._pending[task] = None if "ask" in message else number
        task.add_done_callback(self._pending.pop)

    async def _ask(self, message: Message) -> Answer:
        return await self._send(self._rights.ask(message))

    async def _run(self, number: int, message: Message) -> Answer:
        who, given = self._rights.job(message), message.get("given")
        if not isinstance(given, dict):
            raise BadMessage("a command without its fields")
        kind, client = str(message["job"]), client_of(message)
        self._log.info(f"the web page runs pylvs {kind}", who=who, client=client)

        def line(text: str) -> None:
            if not self.process.waits:
                self.process.send({"line": number, "text": text})

        return HTTPStatus.OK, await self._jobs.run(kind, given, line)

    async def _answer(self, number: int, message: Message) -> None:
        try:
            status, body = await (self._ask(message) if "ask" in message else self._run(number, message))
        except Refused as refused:
            status, body = refused.status, json.dumps({"error": str(refused)}).encode()
        except (PylvsError, OSError, BadMessage) as error:
            text = str(error) if not isinstance(error, OSError) else text_of(error)
            status, body = HTTPStatus.SERVICE_UNAVAILABLE, json.dumps({"error": text}).encode()
        self._reply(number, (status, body))

    def _reply(self, number: int, answer: Answer) -> None:
        status, body = answer
        if len(body) <= _LONG:
            self.process.send({"reply": number, "status": int(status), "body": body.decode(errors="replace")})
        else:
            self.process.send({"reply": number, "status": int(status)}, [os.fdopen(sealed(body), "rb")])


async def _read(settings: WebSettings) -> tuple[bytes, tuple[tokens.Token, ...] | None]:
    """Read the files in a thread: a file system may hang. Raises PylvsError."""
    try:
        async with asyncio.timeout(_READ_S):
            return await to_thread(_files, settings)
    except TimeoutError:
        raise PylvsError(f"web_tokens {settings.tokens}: not read within {_READ_S:g} s: its disk hangs") from None
    except OSError as error:
        raise PylvsError(f"web_tokens {settings.tokens}: {text_of(error)}") from None


def _files(settings: WebSettings) -> tuple[bytes, tuple[tokens.Token, ...] | None]:
    """Return certificate with key, and the tokens; None without web_tokens. Raises PylvsError."""
    if settings.address is None:
        return b"", None
    known = tokens.read(settings.tokens) if settings.tokens else None
    if not settings.certificate:
        return b"", known
    pem = _content("web_certificate", settings.certificate)
    if settings.key:
        pem += b"\n" + _content("web_key", settings.key)
    _check_pem(settings, pem)
    return pem, known


def _check_pem(settings: WebSettings, pem: bytes) -> None:
    """Raises PylvsError if no server can use certificate and key."""
    import ssl  # late: few daemons serve TLS

    number = sealed(pem)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"/proc/self/fd/{number}", password="")
    except (OSError, ValueError) as error:
        reason = (getattr(error, "reason", "") or "").replace("_", " ").lower()
        if b"CERTIFICATE-----" not in pem:
            text = f"web_certificate {settings.certificate}: has no certificate in PEM format"
        elif b"PRIVATE KEY-----" not in pem:
            text = f"web_key {settings.key or settings.certificate}: has no private key in PEM format"
        elif reason == "key values mismatch":
            text = f"web_key {settings.key}: is not the key of web_certificate {settings.certificate}"
        elif b"ENCRYPTED" in pem:
            text = f"web_key {settings.key or settings.certificate}: is encrypted; write the key without a password"
        else:
            text = f"web_certificate {settings.certificate}: {reason or error}"
        raise PylvsError(text) from None
    finally:
        os.close(number)


def _content(keyword: str, path: str) -> bytes:
    """Raises PylvsError."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(number, "rb") as file:
            return file.read(_MOST_FILE)
    except OSError as error:
        raise PylvsError(f"{keyword} {path}: {error.strerror}") from None
