"""A connection to the message bus: authentication, the name, and messages in both directions."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from itertools import count

from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus import get_connectable_addresses

from pylvs.dbus.framing import BadFraming, Framing
from pylvs.system.sockets import Unsent

BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
REQUEST_NAME, DO_NOT_QUEUE, PRIMARY_OWNER = "RequestName", 4, 1  # with a flag and a result
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"
CONNECT_S = 3.0  # for the connection, the authentication and the name; shorter than the daemon's patience
WAIT_S = 0.5  # at once, while one of these is awaited
MAX_UNSENT = 4 << 20  # bytes
_CHUNK = 1 << 16


class Lost(Exception):
    """The bus closed the connection, or refused it; the text is the reason."""


class Bus:
    """One connection, which has the name `name`. No call blocks once it is made. Raises Lost.

    Until then `waiting` is called at least each WAIT_S.
    """

    def __init__(self, address: str, name: str, waiting: Callable[[], None] = lambda: None) -> None:
        self._waiting = waiting
        self._deadline = time.monotonic() + CONNECT_S
        self._serials = count(1)
        self._framing = Framing()
        self._unsent = Unsent()
        self._early: list[Message] = []  # other messages that came before the name
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._connect(address)
            self._request("Hello")
            result = self._request(REQUEST_NAME, "su", (name, DO_NOT_QUEUE))
            if result != (PRIMARY_OWNER,):
                raise Lost(f"another process has the name {name}: choose another dbus_service_name")
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._end.fileno()

    @property
    def unsent(self) -> bool:
        """Whether to call `flush` when the socket is writable."""
        return bool(self._unsent)

    @property
    def skipped(self) -> str:
        """Why a message was skipped last, "" if none was."""
        return self._framing.skipped

    def send(self, message: Message) -> None:
        """Send a message, or keep it for `flush`."""
        self._unsent += message.serialise(next(self._serials))
        if len(self._unsent) > MAX_UNSENT:
            raise Lost("it does not read")
        self.flush()

    def flush(self) -> None:
        """Send what is kept, as far as possible."""
        try:
            self._unsent.flush(self._end)
        except OSError as error:
            raise Lost(str(error.strerror)) from None

    def receive(self) -> list[Message]:
        """Return the messages that have come."""
        found, self._early = self._early, []
        try:
            data = self._end.recv(_CHUNK)
        except BlockingIOError:
            return found
        except OSError as error:
            raise Lost(str(error.strerror)) from None
        if not data:
            raise Lost("it closed the connection")
        try:
            return found + self._framing.messages(data)
        except BadFraming as error:
            raise Lost(f"it sent what cannot be read ({error})") from None

    def close(self) -> None:
        self._end.close()

    def _connect(self, address: str) -> None:
        try:
            path = next(iter(get_connectable_addresses(address)))
        except (ValueError, RuntimeError):
            raise Lost("an address is unix:path=PATH or unix:abstract=NAME") from None
        try:
            self._end.setblocking(False)
            self._end.connect(path)  # a local socket connects at once, or not
            authenticator = Authenticator()
            for data in authenticator:
                self._end.sendall(data)
                self._wait(select.POLLIN)
                answer = self._end.recv(1024)
                if not answer:
                    raise Lost("it closed the connection")
                authenticator.feed(answer)
            self._end.sendall(BEGIN)
        except OSError as error:
            raise Lost(str(error.strerror or error)) from None
        except (AuthenticationError, ValueError) as error:
            raise Lost(f"it refused the authentication: {error}") from None

    def _wait(self, events: int) -> None:
        """Wait for the socket."""
        ready = select.poll()
        ready.register(self._end, events)
        while True:
            self._waiting()
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise Lost(f"it did not answer within {CONNECT_S:g} s")
            if ready.poll(min(left, WAIT_S) * 1000):
                return

    def _request(self, method: str, signature: str | None = None, body: tuple[object, ...] = ()) -> tuple[object, ...]:
        """Call a method of the bus and return the result."""
        serial = next(self._serials)
        self._unsent += new_method_call(BUS, method, signature, body).serialise(serial)
        while True:
            self.flush()
            self._wait(select.POLLIN | (select.POLLOUT if self._unsent else 0))
            messages = self.receive()
            for at, message in enumerate(messages):
                if message.header.fields.get(HeaderFields.reply_serial) == serial:
                    self._early += messages[at + 1 :]
                    if message.header.message_type is MessageType.error:
                        raise Lost(_refusal(method, message))
                    return tuple(message.body)
                self._early.append(message)


def _refusal(method: str, error: Message) -> str:
    """Return why the bus refused a method. Its own text may differ each time, as it names the connection."""
    if method == REQUEST_NAME and error.header.fields.get(HeaderFields.error_name) == ACCESS_DENIED:
        return f"its policy does not let user {os.geteuid()} have the name"
    return str(error.body[0]) if error.body else f"it refused {method}"
