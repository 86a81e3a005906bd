"""Asking the process of the virtual routers, without an event loop: for commands.

Over a `Pipe`, in dicts. Whoever connects says {"hello": version} and is answered {"hello": version, "pid", "protocol"};
between two versions only "stop" means anything. Then {"id", "verb", ...} is answered {"id", "ok"} or {"id", "error"}.
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
from pylvs.vrrp.control import PROTOCOL
from pylvs.vrrp.pipe import Closed, Pipe

PATIENCE_S = 10.0  # for an answer; the process does nothing that takes long

Message = Mapping[str, Any]


class NoRouters(PylvsError):
    """Nobody answers at the socket."""


class OtherVersion(PylvsError):
    """The process belongs to another version of pylvs."""


def connected(path: Path) -> Pipe:
    """Connect to the process that listens there, if root or this user runs it, without waiting.

    Raises NoRouters, NotPermitted, and PylvsError if the queue of connections is full because the process hangs.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with address_of(path) as address:
            end.connect(address)
        _, user = peer_of(end)
        if user not in (0, os.geteuid()):  # what it says would be believed
            raise NotPermitted(f"{path}: belongs to user {user}; name another --state-dir")
        return Pipe(end)
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
    """What comes first."""
    return {"hello": __version__}


def check_greeting(path: Path, told: Any) -> int:
    """The process's number, of what it answers to `greeting`. Raises OtherVersion, PylvsError."""
    if not isinstance(told, dict) or not isinstance(told.get("hello"), str):
        raise PylvsError(f"{path}: this is no process of pylvs")
    if (told["hello"], told.get("protocol")) != (__version__, PROTOCOL):
        raise OtherVersion(
            f"{path}: the virtual routers are run by pylvs {told['hello']}, and this is {__version__}; "
            "restart pylvs run, and it replaces their process"
        )
    return int(told["pid"])


class Client:
    """One connection. Raises as `connected`, and OtherVersion."""

    def __init__(self, path: Path, patience_s: float = PATIENCE_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._pipe = connected(path)
        self._heard: list[Any] = []
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
        """End the connection."""
        self._pipe.close()

    def ask(self, verb: str, **more: Any) -> Any:
        """The answer. Raises PylvsError, with the process's words where it says no."""
        self._asked += 1
        self._send({"id": self._asked, "verb": verb, **more})
        deadline = time.monotonic() + self._patience_s
        while True:
            told = self._next(deadline)
            if isinstance(told, dict) and told.get("id") == self._asked:
                return answer_of(told)

    def _send(self, message: Message) -> None:
        try:
            self._pipe.send(message)
        except Closed as closed:
            raise self._gone(closed) from None

    def _next(self, deadline: float) -> Any:
        while not self._heard:
            left = deadline - time.monotonic()
            if left <= 0:
                raise PylvsError(f"{self._path}: no answer within {self._patience_s:g} s")
            ways = select.POLLIN | (select.POLLOUT if self._pipe.unsent else 0)
            poll = select.poll()
            poll.register(self._pipe, ways)
            poll.poll(left * 1000)
            try:
                self._pipe.flush()
                self._heard += self._pipe.receive()
            except Closed as closed:
                raise self._gone(closed) from None
            except Exception as error:  # whatever unpickling makes of what another version says
                raise PylvsError(f"{self._path}: this is no answer of pylvs {__version__} ({error})") from None
        return self._heard.pop(0)

    def _gone(self, closed: Closed) -> PylvsError:
        return PylvsError(f"{self._path}: the process of the virtual routers went away ({closed})")


def answer_of(told: Message) -> Any:
    """What was asked for. Raises PylvsError with the process's words where it says no."""
    if "error" in told:
        raise PylvsError(str(told["error"]))
    return told.get("ok")
