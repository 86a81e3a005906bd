"""Messages between pylvs's own processes, over UNIX sockets; and the blocking client of the router process.

A message is a pickled Python object behind its length. No end blocks: unsent bytes are kept, and a peer that does not
read loses the connection.

Only root can open the router process's socket. Both ends run the same version of pylvs:
- the client sends {"hello": version}, and the process answers {"hello": version, "pid", "protocol"};
- between different versions only "stop" is defined, and `pylvs run` replaces the process;
- then {"id", "verb", ...} gets {"id", "ok"} or {"id", "error"}.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pylvs import __version__
from pylvs.model.errors import NoSuchRouter, NotPermitted, PylvsError, needs_root
from pylvs.system.sockets import Unsent, address_of, closed_on_error, peer_of

SOCKET_NAME = "vrrp"  # in the state directory
PID_FILE = "vrrp.pid"
PROTOCOL = 2
_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 18
MAX_UNSENT = 64 << 20  # bytes; far more than a configuration takes
ANSWER_TIMEOUT_S = 10.0

Message = Mapping[str, Any]
GREETING: Message = {"hello": __version__}  # the first message
Watch = Callable[[int, Callable[[], None] | None, Callable[[], None] | None], None]  # as `Loop.watch`


class ConnectionClosed(Exception):
    """The peer closed the connection, does not read, or sent something else."""


class PeerGone(ConnectionClosed):
    """Nothing can be sent, as the peer has closed the connection; what it sent before may still be unread."""


class MessageSocket:
    """One end of a connection."""

    def __init__(self, end: socket.socket, most_unsent: int = MAX_UNSENT) -> None:
        end.setblocking(False)
        self.peer = 0  # the process that listened at the other end, where `connected` made it
        self._most_unsent = most_unsent
        self._end = end
        self._unsent = Unsent()
        self._received = bytearray()

    def fileno(self) -> int:
        """Watch it for reading, and for writing while `unsent`."""
        return self._end.fileno()

    @property
    def unsent(self) -> bool:
        """Whether to call `flush` when the socket is writable."""
        return bool(self._unsent)

    def send(self, message: Any) -> None:
        """Send a message, or keep it for `flush`. Raises ConnectionClosed."""
        import pickle  # late: the first advertisement does not wait for it

        data = pickle.dumps(message)
        self._unsent += _LENGTH.pack(len(data)) + data
        if len(self._unsent) > self._most_unsent:
            raise ConnectionClosed("the other end does not read")
        self.flush()

    def flush(self) -> None:
        """Send kept bytes as far as possible. Raises PeerGone, ConnectionClosed."""
        try:
            self._unsent.flush(self._end)
        except ConnectionError as error:
            raise PeerGone(error.strerror) from None
        except OSError as error:
            raise ConnectionClosed(error.strerror) from None

    def receive(self) -> list[Any]:
        """Return the complete messages. Raises ConnectionClosed at the end of the stream, after the last message."""
        closed = ""
        with contextlib.suppress(BlockingIOError):
            try:
                while chunk := self._end.recv(_CHUNK):
                    self._received += chunk
                closed = "the other end has gone"
            except ConnectionError as error:
                closed = str(error.strerror)
        import pickle  # late: as in `send`

        messages = []
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > MAX_UNSENT:
                raise ConnectionClosed("the peer sent data that is no message of pylvs")
            if len(self._received) < _LENGTH.size + length:
                break
            try:
                messages.append(pickle.loads(self._received[_LENGTH.size : _LENGTH.size + length]))
            except Exception:  # pickle raises exceptions of any class
                raise ConnectionClosed("the peer sent data that is no message of pylvs") from None
            del self._received[: _LENGTH.size + length]
        if closed and not messages:
            raise ConnectionClosed(closed)
        return messages

    def close(self) -> None:
        self._end.close()


class WatchedSocket:
    """A MessageSocket in an event loop: `on_message` receives each message, `on_closed` is called once, at the end.

    A peer's last messages are received although something was sent after it had closed the connection.
    """

    def __init__(
        self, watch: Watch, end: MessageSocket, on_message: Callable[[Any], None], on_closed: Callable[[], None]
    ) -> None:
        self._watch = watch
        self._socket = end
        self._on_message = on_message
        self._on_closed = on_closed
        self._open = True
        self._peer_gone = False  # the connection is closed once all is received
        self._writing = False  # watched for writing: only while bytes are unsent
        watch(end.fileno(), self._receive, None)

    def send(self, message: Any) -> None:
        """Send a message now or later; without effect once the connection is closed."""
        if self._open and not self._peer_gone:
            self._try(lambda: self._socket.send(message))

    def close(self) -> None:
        """Close the connection; twice is harmless."""
        if self._open:
            self._open = False
            self._watch(self._socket.fileno(), None, None)
            self._socket.close()
            self._on_closed()

    def _try(self, transmit: Callable[[], None]) -> None:
        try:
            transmit()
        except PeerGone:
            self._peer_gone = True
            self._watch(self._socket.fileno(), self._receive, None)
            return
        except ConnectionClosed:
            self.close()
            return
        if self._socket.unsent != self._writing:
            self._writing = self._socket.unsent
            flush = partial(self._try, self._socket.flush)
            self._watch(self._socket.fileno(), self._receive, flush if self._writing else None)

    def _receive(self) -> None:
        try:
            messages = self._socket.receive()
        except ConnectionClosed:
            self.close()
            return
        for message in messages:
            self._on_message(message)


def watch_in_asyncio(descriptor: int, read: Callable[[], None] | None, write: Callable[[], None] | None) -> None:
    """Watch a descriptor in the running asyncio loop, as `Loop.watch` does in the router process."""
    import asyncio  # late: commands do not need it

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, read) if read else loop.remove_reader(descriptor)
    loop.add_writer(descriptor, write) if write else loop.remove_writer(descriptor)


class NoRouters(PylvsError):
    """No process listens at the socket."""


class NotAccepting(PylvsError):
    """The process has not accepted the connections that wait."""


class OtherVersion(PylvsError):
    """The process runs another version of pylvs."""


def connected(path: Path) -> MessageSocket:
    """Connect without blocking, if root or this user runs the process.

    Raises NoRouters, NotPermitted, and NotAccepting if the listen queue is full, because the process hangs.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with closed_on_error(end), address_of(path) as address:
            end.connect(address)
            process, user = peer_of(end)
            if user not in (0, os.geteuid()):  # its pickles would run code here
                raise NotPermitted(f"{path}: belongs to user {user}; name another --state-dir")
    except OSError as error:
        raise _connection_error(path, error) from None
    found = MessageSocket(end)
    found.peer = process
    return found


def _connection_error(path: Path, error: OSError) -> PylvsError:
    match error:
        case FileNotFoundError() | NotADirectoryError() | ConnectionRefusedError():
            return NoRouters(f"no virtual routers run at {path}")
        case BlockingIOError():
            return NotAccepting(f"{path}: the process of the virtual routers does not answer")
        case PermissionError():
            return needs_root(path.parent)
    return PylvsError(f"{path}: {error.strerror}")


def check_greeting(path: Path, answer: Any) -> int:
    """Return the PID from the answer to GREETING. Raises OtherVersion, PylvsError."""
    if not isinstance(answer, dict) or not isinstance(answer.get("hello"), str):
        raise PylvsError(f"{path}: the process at this socket is not pylvs-vrrp")
    if (answer["hello"], answer.get("protocol")) != (__version__, PROTOCOL):
        raise OtherVersion(
            f"{path}: the virtual routers are run by pylvs {answer['hello']}, and this is {__version__}; "
            "restart pylvs run, and it replaces their process"
        )
    return int(answer["pid"])


class Client:
    """A connection. Raises what `connected` raises, and OtherVersion."""

    def __init__(self, path: Path, patience_s: float = ANSWER_TIMEOUT_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._socket = connected(path)
        self._received: list[Any] = []
        self._asked = 0
        try:
            self._send(GREETING)
            self.pid = check_greeting(path, self._next(time.monotonic() + patience_s))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def ask(self, verb: str, **more: Any) -> Any:
        """Return the answer. Raises PylvsError, with the process's message if it refuses."""
        self._asked += 1
        self._send({"id": self._asked, "verb": verb, **more})
        deadline = time.monotonic() + self._patience_s
        while True:
            answer = self._next(deadline)
            if isinstance(answer, dict) and answer.get("id") == self._asked:
                return answer_of(answer)

    def fileno(self) -> int:
        """Return the descriptor to wait for events."""
        return self._socket.fileno()

    def events(self) -> list[Any]:
        """Return the messages that have come, without waiting. Raises PylvsError at the end of the connection."""
        try:
            found = self._received + self._socket.receive()
        except ConnectionClosed as closed:
            raise self._gone(closed) from None
        self._received = []
        return found

    def _send(self, message: Message) -> None:
        try:
            self._socket.send(message)
        except ConnectionClosed as closed:
            raise self._gone(closed) from None

    def _next(self, deadline: float) -> Any:
        while not self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise PylvsError(f"{self._path}: no answer within {self._patience_s:g} s")
            ready = select.poll()
            ready.register(self._socket, select.POLLIN | (select.POLLOUT if self._socket.unsent else 0))
            ready.poll(left * 1000)
            try:
                self._socket.flush()
                self._received += self._socket.receive()
            except ConnectionClosed as closed:
                raise self._gone(closed) from None
        return self._received.pop(0)

    def _gone(self, closed: ConnectionClosed) -> PylvsError:
        return PylvsError(f"{self._path}: the process of the virtual routers has ended ({closed})")


def answer_of(answer: Message) -> Any:
    """Return the result in an answer. Raises PylvsError with the process's message if it refuses, NoSuchRouter."""
    if "error" in answer:
        raise (NoSuchRouter if answer.get("errno") == NoSuchRouter.errno else PylvsError)(str(answer["error"]))
    return answer.get("ok")
