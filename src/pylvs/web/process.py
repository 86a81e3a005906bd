"""The process that serves the page: no privileges, one listener, TLS. `pylvs.web.parent` starts and configures it."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import socket
import ssl
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from pylvs.system import logs, sandbox, syscalls
from pylvs.system.http.server import HttpServer, Limits
from pylvs.system.http.wire import opened
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.processes.child import Parent
from pylvs.web.application import Application, Settings
from pylvs.web.daemon import Daemon
from pylvs.web.files import Files
from pylvs.web.tokens import Token

NAME = b"pylvs-web"  # shown by ps and top
_DESCRIPTORS, _MEMORY = 1024, 1 << 30
# A browser has six connections to a host, and many browsers share the address of a proxy.
LIMITS = Limits(connections=400, of_one_user=300, request_s=10.0, send_s=60.0, part_s=30.0)
_MAX_LINE = 2000  # characters


class WebProcess:
    """Serves the page for the parent at the other end of a socket."""

    def __init__(self, end: socket.socket, left: Sequence[str], files: Files) -> None:
        self._end, self._left, self._files = end, left, files
        self._over = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None

    async def run(self) -> None:
        """Run until the parent closes its end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_crash)
        self._parent = Parent(AsyncioLoop(), self._end, self._receive, self._over.set, self._left)
        self._daemon = Daemon(self._parent.send)
        self._application = Application(self._daemon, self._log, self._files)
        logs.write_with(lambda level, fields: self._log(level, str(fields["event"])))
        sampling = loop.create_task(self._daemon.sample_for_ever())
        sampling.add_done_callback(_ended)
        await self._over.wait()
        os._exit(0)  # the sockets of browsers have nothing that is worth a wait

    def _receive(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "serve" in message:
            self._serve(message["serve"], descriptors)
        else:
            self._daemon.receive(message, [_content(each) for each in descriptors])

    def _serve(self, given: dict[str, Any], descriptors: list[int]) -> None:
        """Use these settings. With a listener, serve that; the connections of the former one end."""
        known = given["tokens"]
        tokens = None if known is None else [Token(**each) for each in known]
        self._application.settings = Settings(bool(given["tls"]), str(given["url"]), tokens)
        self._daemon.changed()  # a token may have been revoked
        if not descriptors:
            return
        listener, *files = descriptors
        opened = _opener(files[0]) if files else None
        if self._serving is not None:
            self._serving.cancel()
        if self._listener is not None:
            self._listener.close()
        self._listener = socket.socket(fileno=listener)
        server = HttpServer(self._listener, self._application.handle, LIMITS, opened, _client)
        self._serving = asyncio.get_running_loop().create_task(until_shut_down(server))
        self._serving.add_done_callback(_ended)

    def _log(self, level: str, text: str) -> None:
        known = level if level in ("info", "warning", "error") else "info"
        self._parent.send({"log": known, "event": text[:_MAX_LINE]})


async def until_shut_down(server: HttpServer) -> None:
    """Serve until the parent shuts the listener down, because it serves another address or ends."""
    try:
        await server.run()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _opener(number: int) -> Any:
    """Return what makes the handshake with the certificate and the key of a file in memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(f"/proc/self/fd/{number}", password="")
    context.set_alpn_protocols(["http/1.1"])
    os.close(number)

    async def open_wire(end: socket.socket) -> Any:
        return await opened(end, context)

    return open_wire


def _content(number: int) -> bytes:
    """Return a sealed file's content, and close it."""
    try:
        size = os.fstat(number).st_size
        if not size:
            return b""
        with mmap.mmap(number, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as content:
            return content[:]
    finally:
        os.close(number)


def _client(end: socket.socket) -> str:
    """Return the client's address; one of IPv4 at a listener of IPv6 is a mapped one. Raises OSError."""
    return str(end.getpeername()[0]).removeprefix("::ffff:")


def _ended(task: asyncio.Task[None]) -> None:
    """End the process with a task that failed; the parent starts the next one."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _crash(task.get_loop(), {"exception": error, "message": ""})


def _crash(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process; the parent logs the last line of this."""
    error = context.get("exception")
    text = "".join(traceback.format_exception(error)) if error else context["message"]
    print(text, file=sys.stderr, flush=True)
    os._exit(1)


def main(end: socket.socket) -> None:
    """Serve the parent at the other end of this socket."""
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    files = Files()  # before: pylvs may be in a home that only root enters
    left = sandbox.confine(_DESCRIPTORS, _MEMORY, file_system=True)
    with asyncio.Runner() as runner:
        runner.run(WebProcess(end, left, files).run())
