"""The carrier: TLS between two directors, in a process without privileges or files.

It alone reads bytes from the network. It connects to the other director, and accepts one connection from its address.
After the handshake, which proves that both have the same key, it checks each frame and passes it to the copier.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.peer import local, wire
from pylvs.peer.wire import BadFrame, Kind, Limits
from pylvs.system import sandbox, syscalls

NAME = b"pylvs-peer"  # shown by ps and top
_DESCRIPTORS, _MEMORY = 64, 256 << 20
HANDSHAKE_S = 5.0
SILENT_S = 10.0  # without a frame, in either direction: a director that follows another one sends one each second
REPORT_S = 0.5  # between two reports of what was refused
RETRY_S, LAST_RETRY_S = 0.5, 5.0  # between attempts to connect
MOST_HANDSHAKES = 4  # at once
_BUFFER = local.BUFFER


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the other director is, and its certificate."""

    address: Address
    port: int
    certificate: bytes
    connecting: ssl.SSLContext
    accepting: ssl.SSLContext


class Refused:
    """Connections that were refused, by the names in `local.COUNTERS`."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.changed = asyncio.Event()

    def add(self, reason: str) -> None:
        """Count one."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.changed.set()


class _Pipe:
    """One socket pair to the copier, and the connection that it has now."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        kinds: frozenset[Kind],
        refused: Refused,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._kinds = kinds  # that may come from the other director
        self._refused = refused
        self.number = 0  # of the connection; it has ended if `_remote` is None
        self._remote: asyncio.StreamWriter | None = None

    async def serve(self) -> None:
        """Send what the copier sends to the other director, until the copier ends."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                kind, number, content = await local.read(self._reader)
                remote = self._remote
                if number != self.number or remote is None:
                    continue
                if kind == local.CLOSED:
                    self._close(remote)
                    continue
                remote.write(wire.HEAD.pack(len(content), kind))
                remote.write(content)
                try:
                    async with asyncio.timeout(SILENT_S):
                        await remote.drain()
                except (TimeoutError, OSError):
                    self._close(remote)

    def _close(self, remote: asyncio.StreamWriter) -> None:
        remote.transport.abort()
        if remote is self._remote:
            self._remote = None

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        """Pass what comes by a new connection to the copier, until it ends. It replaces the one before."""
        if self._remote is not None:
            self._close(self._remote)
        self.number += 1
        number, self._remote = self.number, writer
        self._writer.write(local.frame(local.OPENED, number))
        reason = "the other director closed the connection"
        try:
            while True:
                kind, content = await self._next(reader, limits)
                self._writer.write(local.frame(kind, number, content))
                await self._writer.drain()
        except BadFrame as error:
            reason = f"it sent what no director sends: {error}"
            self._refused.add("bad frame")
        except TimeoutError:
            reason = f"it has been silent for {SILENT_S:g} s"
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self._refused.add("truncated")
        except ssl.SSLError as error:
            reason = _reason(error)
            self._refused.add("bad record")
        except OSError as error:
            reason = _reason(error)
        finally:
            self._close(writer)
            self._writer.write(local.closed(number, reason))

    async def _next(self, reader: asyncio.StreamReader, limits: Limits) -> tuple[int, bytes]:
        """Return the next frame, checked. Raises BadFrame, TimeoutError, IncompleteReadError, OSError."""
        async with asyncio.timeout(SILENT_S):
            length, kind = wire.HEAD.unpack(await reader.readexactly(wire.HEAD.size))
            if kind not in self._kinds:
                raise BadFrame(f"a frame of kind {kind}")
            if length > wire.most_bytes(kind, limits):
                raise BadFrame(f"{Kind(kind).name}: {length} bytes")
            content = await reader.readexactly(length)
        wire.check(kind, content, limits)
        return kind, content

    def end(self) -> None:
        """Close both ends."""
        if self._remote is not None:
            self._close(self._remote)
        self._writer.close()

    async def report(self) -> None:
        """Report what was refused, at most once in REPORT_S."""
        while True:
            await self._refused.changed.wait()
            self._refused.changed.clear()
            self._writer.write(local.refused(self._refused.counts))
            await asyncio.sleep(REPORT_S)

    def note(self, reason: str) -> None:
        """Report why there is no connection."""
        self._writer.write(local.closed(self.number, reason))


class Carrier:
    """Both connections. `asking` and `answering` are ends of socket pairs."""

    def __init__(self, endpoint: Endpoint, limits: Limits) -> None:
        self._endpoint, self._limits = endpoint, limits
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepted: set[asyncio.Task[None]] = set()  # connections, those in their handshake too
        self.refused = Refused()

    async def run(self, asking: socket.socket, answering: socket.socket) -> None:
        """Serve until the copier ends."""
        ask = _Pipe(*await local.streams(asking), wire.ANSWERING, self.refused)
        answer = _Pipe(*await local.streams(answering), wire.ASKING, self.refused)
        works = (ask.serve(), answer.serve(), self._connect(ask), self._accept(answer), answer.report())
        tasks = [asyncio.ensure_future(each) for each in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            left = {*tasks, *self._accepted}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for pipe in (ask, answer):
                pipe.end()

    async def _connect(self, pipe: _Pipe) -> None:
        """Keep a connection to the other director."""
        endpoint, pause_s = self._endpoint, RETRY_S
        while True:
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    reader, writer = await asyncio.open_connection(
                        str(endpoint.address),
                        endpoint.port,
                        ssl=endpoint.connecting,
                        server_hostname="pylvs",
                        limit=_BUFFER,
                    )
                self._identify(writer)
            except TimeoutError:
                pipe.note(f"{endpoint.address} port {endpoint.port} does not answer")
            except (OSError, BadFrame) as error:
                pipe.note(f"{endpoint.address} port {endpoint.port}: {_reason(error)}")
            else:
                pause_s = RETRY_S
                await pipe.relay(reader, writer, self._limits)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_RETRY_S)

    def _identify(self, writer: asyncio.StreamWriter) -> None:
        """Raise BadFrame unless the other end has our certificate."""
        found = writer.get_extra_info("ssl_object")
        if found is None or found.getpeercert(binary_form=True) != self._endpoint.certificate:
            writer.transport.abort()
            raise BadFrame("it has another key")

    async def _accept(self, pipe: _Pipe) -> None:
        """Accept connections from the address of the other director."""
        loop = asyncio.get_running_loop()
        with listening(self._endpoint.address, self._endpoint.port) as listener:
            while True:
                sock, peer = await loop.sock_accept(listener)
                if _plain(peer[0]) != self._endpoint.address:
                    self.refused.add("another address")
                    sock.close()
                elif len(self._handshakes) >= MOST_HANDSHAKES:
                    self.refused.add("too many at once")
                    sock.close()
                else:
                    task = loop.create_task(self._serve(sock, pipe))
                    for tasks in (self._handshakes, self._accepted):
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)

    async def _serve(self, sock: socket.socket, pipe: _Pipe) -> None:
        """Make the handshake of a connection, and pass its frames until it ends."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_BUFFER, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=self._endpoint.accepting, ssl_handshake_timeout=HANDSHAKE_S
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            self._identify(writer)
        except (OSError, BadFrame) as error:
            self.refused.add("another key" if isinstance(error, (ssl.SSLError, BadFrame)) else "no handshake")
            sock.close()
            return
        task = asyncio.current_task()
        assert task
        self._handshakes.discard(task)
        await pipe.relay(reader, writer, self._limits)


def listening(other: Address, port: int) -> socket.socket:
    """Return a socket that listens on all addresses of the family of the other director. Raises OSError."""
    family = socket.AF_INET6 if isinstance(other, IPv6Address) else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(("", port))
    listener.listen(MOST_HANDSHAKES)
    return listener


def _plain(text: str) -> Address:
    return ip_address(text.partition("%")[0])


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"no connection by TLS ({(error.reason or str(error)).replace('_', ' ').lower()}): is the key the same?"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def main(
    endpoint: Endpoint,
    limits: Limits,
    asking: socket.socket,
    answering: socket.socket,
    confine: Callable[[], Sequence[str]] | None = None,
) -> None:
    """Be the carrier until the copier ends."""
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    asyncio.get_event_loop_policy()  # loads what a process without files cannot
    (confine or (lambda: sandbox.confine(_DESCRIPTORS, _MEMORY)))()
    asyncio.run(Carrier(endpoint, limits).run(asking, answering))
    os._exit(0)
