"""The socket of pylvs-vrrp in the state directory: what both ends know of it, and its blocking client.

Messages are those of `pylvs.system.processes.channel`. Only root can open the socket. Both ends run the same version of
pylvs:
- the client sends {"hello": version}, and the process answers {"hello": version, "pid", "protocol"};
- between different versions only "stop" is defined, and `pylvs run` replaces the process;
- then {"id", "verb", ...} gets {"id", "ok"} or {"id", "error"}. `pylvs.vrrp.control.requests` has the fields.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pylvs import __version__
from pylvs.model.errors import NoSuchRouter, NotPermitted, PylvsError, needs_root
from pylvs.system.processes import channel
from pylvs.system.processes.channel import BadMessage
from pylvs.system.sockets import address_of, closed_on_error, peer_of

SOCKET_NAME = "vrrp"  # in the state directory
PID_FILE = "vrrp.pid"
PROTOCOL = 3
KIND = socket.SOCK_SEQPACKET
ANSWER_TIMEOUT_S = 10.0

Message = Mapping[str, Any]
GREETING: Message = {"hello": __version__}  # the first message


class NoRouters(PylvsError):
    """No process listens at the socket."""


class NotAccepting(PylvsError):
    """The process has not accepted the connections that wait."""


class _NoAnswer(PylvsError):
    """No message has come in time."""


class OtherVersion(PylvsError):
    """The process runs another version of pylvs."""


def connected(path: Path) -> tuple[socket.socket, int]:
    """Connect without blocking, if root or this user runs the process; return the socket and the process.

    Raises NoRouters, NotPermitted, and NotAccepting if the listen queue is full, because the process hangs.
    """
    end = socket.socket(socket.AF_UNIX, KIND | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with closed_on_error(end), address_of(path) as address:
            end.connect(address)
            process, user = peer_of(end)
            if user not in (0, os.geteuid()):
                raise NotPermitted(f"{path}: belongs to user {user}; name another --state-dir")
    except OSError as error:
        raise _connection_error(path, error) from None
    return end, process


def _connection_error(path: Path, error: OSError) -> PylvsError:
    match error:
        case FileNotFoundError() | NotADirectoryError() | ConnectionRefusedError():
            return NoRouters(f"no virtual routers run at {path}")
        case BlockingIOError():
            return NotAccepting(f"{path}: the process of the virtual routers does not answer")
        case PermissionError():
            return needs_root(path.parent)
    return PylvsError(f"{path}: {error.strerror}")


def check_greeting(path: Path, answer: Message) -> int:
    """Return the PID from the answer to GREETING. Raises OtherVersion, PylvsError."""
    pid = answer.get("pid")
    if not isinstance(answer.get("hello"), str) or not isinstance(pid, int):
        raise PylvsError(f"{path}: the process at this socket is not pylvs-vrrp")
    if (answer["hello"], answer.get("protocol")) != (__version__, PROTOCOL):
        raise OtherVersion(
            f"{path}: the virtual routers are run by pylvs {answer['hello']}, and this is {__version__}; "
            "restart pylvs run, and it replaces their process"
        )
    return pid


class Client:
    """A connection. Raises what `connected` raises, and OtherVersion."""

    def __init__(self, path: Path, patience_s: float = ANSWER_TIMEOUT_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._end, _ = connected(path)
        self._events: list[dict[str, Any]] = []  # that came before an answer
        self._asked = 0
        try:
            deadline = time.monotonic() + patience_s
            self._send(GREETING, deadline)
            self.pid = check_greeting(path, self._next(deadline))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._end.close()

    def ask(self, verb: str, **more: Any) -> Any:
        """Return the answer. Raises PylvsError, with the process's message if it refuses."""
        self._asked += 1
        deadline = time.monotonic() + self._patience_s
        self._send({"id": self._asked, "verb": verb, **more}, deadline)
        while (answer := self._next(deadline)).get("id") != self._asked:
            if "id" not in answer:  # not so the late answer to an earlier request
                self._events.append(answer)
        return answer_of(answer)

    def fileno(self) -> int:
        """Return the descriptor to wait for events."""
        return self._end.fileno()

    def events(self) -> list[dict[str, Any]]:
        """Return the events that have come, without waiting. Raises PylvsError at the end of the connection."""
        found, self._events = self._events, []
        try:
            while True:
                found.append(self._next(0.0))
        except _NoAnswer:
            return found

    def _send(self, message: Message, deadline: float) -> None:
        data, files, _ = channel.packet(message, may_be_long=True)
        try:
            self._end.settimeout(max(deadline - time.monotonic(), 0.0))
            socket.send_fds(self._end, [data], [each.fileno() for each in files])
        except (TimeoutError, BlockingIOError):
            raise self._no_answer() from None
        except OSError as error:
            raise self._gone(error.strerror or "") from None
        finally:
            for each in files:
                each.close()

    def _next(self, deadline: float) -> dict[str, Any]:
        """Return the next message. Raises _NoAnswer at this time, PylvsError."""
        try:
            self._end.settimeout(max(deadline - time.monotonic(), 0.0))
            try:
                message, descriptors = channel.receive(self._end)
            except ConnectionResetError:  # it has ended without reading all; its messages follow this error
                message, descriptors = channel.receive(self._end)
        except (TimeoutError, BlockingIOError):
            raise self._no_answer() from None
        except EOFError:
            raise self._gone("the other end has gone") from None
        except OSError as error:
            raise self._gone(error.strerror or "") from None
        except BadMessage as error:
            raise PylvsError(f"{self._path}: the process at this socket is not pylvs-vrrp: it sent {error}") from None
        channel.close_all(descriptors)
        return message

    def _no_answer(self) -> _NoAnswer:
        return _NoAnswer(f"{self._path}: no answer within {self._patience_s:g} s")

    def _gone(self, reason: str) -> PylvsError:
        return PylvsError(f"{self._path}: the process of the virtual routers has ended ({reason})")


def answer_of(answer: Message) -> Any:
    """Return the result in an answer. Raises PylvsError with the process's message if it refuses, NoSuchRouter."""
    if "error" in answer:
        raise (NoSuchRouter if answer.get("errno") == NoSuchRouter.errno else PylvsError)(str(answer["error"]))
    return answer.get("ok")
