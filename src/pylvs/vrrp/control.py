"""Where the process of the virtual routers is asked and told: a UNIX socket in the daemon's state directory.

Only root is listened to. A client says its version first; then requests are answered in their order, and who asked for
events gets them as they happen. A client that does not read is dropped, it delays nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import pylvs
from pylvs.model.errors import PylvsError
from pylvs.system.unix_sockets import peer_of
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.pipe import Closed, Pipe

NAME = "vrrp"  # of the socket, in the state directory
PROTOCOL = 1
MOST_UNREAD = 8 << 20  # bytes that wait for one client, in memory that is locked
Verb = Callable[[dict[str, Any]], Any]


class Client:
    """One who asks."""

    def __init__(self, end: socket.socket) -> None:
        self.pipe = Pipe(end, MOST_UNREAD)
        self.known = False  # has said its version
        self.follows = False  # events


class Control:
    """The socket and its clients. `verbs` answer; what they raise as PylvsError is the answer, too."""

    def __init__(self, loop: Loop, verbs: Mapping[str, Verb]) -> None:
        self._loop = loop
        self._verbs = verbs
        self._clients: dict[int, Client] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def open(self) -> None:
        """Listen in the current directory, which is the state directory: a path of any length fits so."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(NAME)
        before = os.umask(0o177)
        try:
            self._listener.bind(NAME)
        finally:
            os.umask(before)
        self._listener.listen(16)
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Nobody is answered any more."""
        with contextlib.suppress(OSError):
            os.unlink(NAME)
        self._listener.close()
        for client in list(self._clients.values()):
            self._drop(client)

    def tell(self, event: dict[str, Any]) -> None:
        """To everyone who follows."""
        for client in list(self._clients.values()):
            if client.follows:
                self._say(client, event)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            end, _ = self._listener.accept()
            if peer_of(end)[1] not in (0, os.geteuid()):
                end.close()
                return
            client = Client(end)
            self._clients[end.fileno()] = client
            self._loop.watch(end.fileno(), lambda: self._hear(client))

    def _hear(self, client: Client) -> None:
        try:
            messages = client.pipe.receive()
        except Closed:
            self._drop(client)
            return
        for message in messages:
            if client.known:
                self._answer(client, message)
            else:
                client.known = "hello" in message  # of another version it may only be asked to stop
                self._say(client, {"hello": pylvs.__version__, "pid": os.getpid(), "protocol": PROTOCOL})

    def _answer(self, client: Client, request: dict[str, Any]) -> None:
        verb = request.get("verb", "")
        answer: dict[str, Any] = {"id": request.get("id")}
        if verb == "subscribe":
            client.follows = True
            answer["ok"] = {}
        elif verb not in self._verbs:
            answer["error"] = f"{verb}: no such verb; there are: {', '.join(sorted(self._verbs))}"
        else:
            try:
                answer["ok"] = self._verbs[verb](request)
            except PylvsError as error:
                answer["error"] = str(error)
            except Exception as error:
                self._say(client, answer | {"error": f"{type(error).__name__}: {error}: this is a bug"})
                raise
        self._say(client, answer)

    def _say(self, client: Client, message: dict[str, Any]) -> None:
        try:
            client.pipe.send(message)
        except Closed:
            self._drop(client)
            return
        self._expect(client)

    def _expect(self, client: Client) -> None:
        """Watch for room to write as long as something waits for it."""
        write = (lambda: self._flush(client)) if client.pipe.unsent else None
        self._loop.watch(client.pipe.fileno(), lambda: self._hear(client), write)

    def _flush(self, client: Client) -> None:
        try:
            client.pipe.flush()
        except Closed:
            self._drop(client)
            return
        self._expect(client)

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client.pipe.fileno(), None) is not None:
            self._loop.forget(client.pipe.fileno())
            client.pipe.close()
