"""A connection to the message bus: authentication, the name, and messages in both directions."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterator
from itertools import count

from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus import get_connectable_addresses

from pylvs.dbus.framing import BadFraming, Framing
from pylvs.system.sockets import Unsent

BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
REQUEST_NAME, DO_NOT_QUEUE, PRIMARY_OWNER = "RequestName", 4, 1  # with a flag and a result
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"
MAX_UNSENT = 4 << 20  # bytes
_CHUNK = 1 << 16


class Lost(Exception):
    """The bus closed the connection, or refused it; the text is the reason."""


class Bus:
    """One connection, which has the name `name` once `ready`. No call blocks. Raises Lost."""

    def __init__(self, address: str, name: str) -> None:
        self.ready = False
        self._name = name
        self._serials = count(1)
        self._framing = Framing()
        self._unsent = Unsent()
        self._early: list[Message] = []  # messages that came before the name
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._handshake = self._shake_hands(address)
        try:
            next(self._handshake)
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
        """Return the messages that have come; before the name none, as these continue the handshake."""
        if not self.ready:
            try:
                next(self._handshake)
            except StopIteration:
                self.ready = True
            except OSError as error:
                raise Lost(str(error.strerror or error)) from None
            return []
        found, self._early = self._early, []
        return found + self._framed(self._read())

    def _read(self) -> bytes:
        """Return what has come, b"" for nothing."""
        try:
            data = self._end.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise Lost(str(error.strerror)) from None
        if not data:
            raise Lost("it closed the connection")
        return data

    def _framed(self, data: bytes) -> list[Message]:
        try:
            return self._framing.messages(data)
        except BadFraming as error:
            raise Lost(f"it sent what cannot be read ({error})") from None

    def close(self) -> None:
        self._end.close()

    def _shake_hands(self, address: str) -> Iterator[None]:
        """Connect, authenticate, and get the name; yield where data must come first. Raises OSError, too."""
        try:
            path = next(iter(get_connectable_addresses(address)))
        except (ValueError, RuntimeError):
            raise Lost("an address is unix:path=PATH or unix:abstract=NAME") from None
        try:
            self._end.connect(path)  # a local socket connects at once, or not
            authenticator = Authenticator()
            for data in authenticator:
                self._end.sendall(data)
                yield
                authenticator.feed(self._read())
            self._end.sendall(BEGIN)
        except OSError as error:
            raise Lost(str(error.strerror or error)) from None
        except (AuthenticationError, ValueError) as error:
            raise Lost(f"it refused the authentication: {error}") from None
        yield from self._request("Hello")
        result = yield from self._request(REQUEST_NAME, "su", (self._name, DO_NOT_QUEUE))
        if result != (PRIMARY_OWNER,):
            raise Lost(f"another process has the name {self._name}: choose another dbus_service_name")

    def _request(
        self, method: str, signature: str | None = None, body: tuple[object, ...] = ()
    ) -> Generator[None, None, tuple[object, ...]]:
        """Call a method of the bus; yield until the result is there, and return it."""
        serial = next(self._serials)
        self._unsent += new_method_call(BUS, method, signature, body).serialise(serial)
        self.flush()
        while True:
            yield
            messages = self._framed(self._read())
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
