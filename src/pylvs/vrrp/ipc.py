"""The socket of pylvs-vrrp in the state directory: what both ends know of it.

Messages are those of `pylvs.system.processes.channel`. Only root can open the socket. Both ends run the same version of
pylvs:
- the client sends {"hello": version}, and the process answers {"hello": version, "pid", "protocol"};
- between different versions only "stop" is defined, and `pylvs run` replaces the process;
- then {"id", "verb", ...} gets {"id", "ok"} or {"id", "error"}. `pylvs.vrrp.control.requests` has the fields.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pylvs import __version__
from pylvs.model.errors import NoSuchRouter, NotPermitted, PylvsError, needs_root
from pylvs.system.sockets import address_of, closed_on_error, peer_of

PROTOCOL = 4
KIND = socket.SOCK_SEQPACKET
NOT_OURS = "the process at this socket is not pylvs-vrrp, or that of a build before 0.1.0; end it"

Message = Mapping[str, Any]
GREETING: Message = {"hello": __version__}  # the first message


class NoRouters(PylvsError):
    """No process listens at the socket."""


class NotAccepting(PylvsError):
    """The process has not accepted the connections that wait."""


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
    if error.errno == errno.EPROTOTYPE:  # the socket is of another kind
        return PylvsError(f"{path}: {NOT_OURS}")
    return PylvsError(f"{path}: {error.strerror}")


def check_greeting(path: Path, answer: Message) -> int:
    """Return the PID from the answer to GREETING. Raises OtherVersion, PylvsError."""
    pid = answer.get("pid")
    if not isinstance(answer.get("hello"), str) or not isinstance(pid, int):
        raise PylvsError(f"{path}: {NOT_OURS}")
    if (answer["hello"], answer.get("protocol")) != (__version__, PROTOCOL):
        raise OtherVersion(
            f"{path}: the virtual routers are run by pylvs {answer['hello']}, and this is {__version__}; "
            "restart pylvs run, and it replaces their process"
        )
    return pid


def answer_of(answer: Message) -> Any:
    """Return the result in an answer. Raises PylvsError with the process's message if it refuses, NoSuchRouter."""
    if "error" in answer:
        raise (NoSuchRouter if answer.get("errno") == NoSuchRouter.errno else PylvsError)(str(answer["error"]))
    return answer.get("ok")
