"""A blocking client of the router process, for commands.

Messages are dicts. The client sends {"hello": version}, the process answers {"hello": version, "pid", "protocol"};
between different versions only "stop" is defined. Then {"id", "verb", ...} gets {"id", "ok"} or {"id", "error"}.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pylvs import __version__
from pylvs.model.errors import NotPermitted, PylvsError
from pylvs.system.unix_sockets import address_of, peer_of
from pylvs.vrrp.ipc import PROTOCOL, ConnectionClosed, MessageSocket

ANSWER_TIMEOUT_S = 10.0

Message = Mapping[str, Any]


class NoRouters(PylvsError):
    """No process listens at the socket."""


class OtherVersion(PylvsError):
    """The process runs another version of pylvs."""


def connected(path: Path) -> MessageSocket:
    """Connect without blocking, if root or this user runs the process.

    Raises NoRouters, NotPermitted, and PylvsError if the listen queue is full because the process hangs.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with address_of(path) as address:
            end.connect(address)
        _, user = peer_of(end)
        if user not in (0, os.geteuid()):  # its pickles would run code here
            raise NotPermitted(f"{path}: belongs to user {user}; name another --state-dir")
        return MessageSocket(end)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        end.close()
        raise NoRouters(
            f"no virtual routers run at {path}; start pylvs run with a vrrp_instance, or name its --state-dir"
        ) from None
    except BlockingIOError:
        end.close()
        raise PylvsError(f"{path}: the process of the virtual routers does not answer") from None
    except PermissionError:
        end.close()
        raise NotPermitted(f"{path}: Operation not permitted; run as root") from None
    except OSError as error:
        end.close()
        raise PylvsError(f"{path}: {error.strerror}") from None
    except BaseException:
        end.close()
        raise


def greeting() -> Message:
    """Return the first message."""
    return {"hello": __version__}


def check_greeting(path: Path, answer: Any) -> int:
    """Return the PID from the answer to `greeting`. Raises OtherVersion, PylvsError."""
    if not isinstance(answer, dict) or not isinstance(answer.get("hello"), str):
        raise PylvsError(f"{path}: this is no process of pylvs")
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
            self._send(greeting())
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
            events = select.POLLIN | (select.POLLOUT if self._socket.unsent else 0)
            poll = select.poll()
            poll.register(self._socket, events)
            poll.poll(left * 1000)
            try:
                self._socket.flush()
                self._received += self._socket.receive()
            except ConnectionClosed as closed:
                raise self._gone(closed) from None
        return self._received.pop(0)

    def _gone(self, closed: ConnectionClosed) -> PylvsError:
        return PylvsError(f"{self._path}: the process of the virtual routers went away ({closed})")


def answer_of(answer: Message) -> Any:
    """Return the result in an answer. Raises PylvsError with the process's message if it refuses."""
    if "error" in answer:
        raise PylvsError(str(answer["error"]))
    return answer.get("ok")
