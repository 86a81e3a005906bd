"""Run the commands of this tree in forks of one process that has only imported them.

    python command_server.py SOCKET

Comparisons with recordings run thousands of `ipvsadm` and `pylvs` commands. Nine tenths of their CPU time is the start
of the interpreter and imports. The server spends it once. A command still has its own process, forked before any state
is made, with the caller's arguments, environment, streams, namespaces and directory. It ends as an interpreter does.
tests/oracle/forked.py is the client. The server ends at the end of its standard input, and a command ends with its
caller.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL, get_errno
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import NoReturn

SOCKET = "PYLVS_TESTS_COMMANDS"
STATUS = struct.Struct("!i")
LENGTH = struct.Struct("!I")
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
# Modules that these commands import late. Without a module here, each command imports it.
LATE = (
    *("concurrent.futures.thread", "encodings.ascii", "hashlib", "logging", "resource"),
    *("pylvs.cli.director", "pylvs.cli.rules.mark"),
    *("pylvs.ipvsadm.commands", "pylvs.ipvsadm.listing", "pylvs.ipvsadm.options", "pylvs.ipvsadm.parsing"),
    *("pylvs.dataplane.bulk_add", "pylvs.dataplane.connections", "pylvs.dataplane.director", "pylvs.dataplane.editor"),
    *(
        "pylvs.dataplane.load",
        "pylvs.dataplane.rules.marks",
        "pylvs.dataplane.scheduler_tables",
        "pylvs.dataplane.vip_roles",
    ),
    "pylvs.system.namespaces",
)

Program = Callable[[], "str | int | None"]  # its result is the interpreter's: see sys.exit


@dataclass(frozen=True)
class Request:
    """A command, with the descriptors of its streams, namespaces and directory."""

    connection: socket.socket
    argv: list[str]
    env: dict[str, str]
    descriptors: list[int]  # stdin, stdout, stderr, network namespace, mount namespace, current folder

    def become(self) -> None:
        """Make this process the one that the caller would have started."""
        setns = CDLL(None, use_errno=True).setns
        network, mounts, folder = self.descriptors[3:]
        for descriptor, kind in ((network, CLONE_NEWNET), (mounts, CLONE_NEWNS)):
            if setns(descriptor, kind):
                raise OSError(get_errno(), "setns")
        os.fchdir(folder)
        for stream, number in zip(self.descriptors, range(3), strict=False):
            os.dup2(stream, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(self.env)
        sys.argv = [shutil.which(self.argv[0]) or self.argv[0], *self.argv[1:]]
        # As at a start of the interpreter: they leave their descriptors open.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def programs() -> dict[str, Program]:
    """Return the commands that are installed with pylvs."""
    found: dict[str, Program] = {}
    for script in distribution("pylvs").entry_points.select(group="console_scripts"):
        found[script.name] = script.load()
    for name in LATE:
        importlib.import_module(name)
    return found


def serve(listener: socket.socket, known: dict[str, Program]) -> Program | None:
    """Fork for each request. Return None at the end, and in a fork the function to run."""
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in ready:
            return None
        connection, _ = listener.accept()
        with connection:
            request = _receive(connection)
            if request is None:
                continue
            child = os.fork()
            if not child:
                connection.detach()
                listener.detach()
                request.become()
                return known[request.argv[0]]
            for descriptor in request.descriptors:
                os.close(descriptor)
            status = os.waitstatus_to_exitcode(_wait(child, connection))
            try:
                connection.sendall(STATUS.pack(status))
            except OSError:
                continue  # the caller has ended


def run(program: Program) -> NoReturn:
    """Run a command in a fork, and end it as the interpreter would.

    The interpreter would free each object. That copies the memory that forks share, and takes longer than the command.
    """
    try:
        result = program()
    except SystemExit as ended:
        result = ended.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(result)  # the interpreter reports it
    if isinstance(result, str):
        print(result, file=sys.stderr)
        result = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit((result or 0) & 0xFF)


def _receive(connection: socket.socket) -> Request | None:
    """Read a request; return None if the caller ends first."""
    ancillary_bytes = socket.CMSG_SPACE(6 * array.array("i").itemsize)
    head, ancillary, _, _ = connection.recvmsg(LENGTH.size, ancillary_bytes)
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    body = b""
    if len(head) == LENGTH.size:
        wanted = LENGTH.unpack(head)[0]
        while len(body) < wanted and (more := connection.recv(wanted - len(body))):
            body += more
        if len(body) == wanted:
            return Request(connection, **json.loads(body), descriptors=list(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    return None


def _wait(child: int, connection: socket.socket) -> int:
    """Wait for the child, and end it if its caller ends first."""
    end = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([end, connection.fileno()], [], [])
        if end not in ready:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(end)
    return os.waitpid(child, 0)[1]


@contextmanager
def command_server() -> Iterator[dict[str, str]]:
    """Start a server; return the environment in which tests/oracle/forked.py finds it."""
    with tempfile.TemporaryDirectory(prefix="pylvs-commands-") as folder:
        path = Path(folder) / "socket"
        with subprocess.Popen(
            [sys.executable, __file__, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin
            assert server.stdout
            if server.stdout.readline() != "ready\n":
                raise OSError(f"the command server did not start: exit {server.wait()}")
            try:
                yield {SOCKET: str(path)}
            finally:
                server.stdin.close()


def main(argv: Sequence[str]) -> Program | None:
    """Serve at a socket; see `serve` for the result."""
    known = programs()
    gc.collect()
    gc.freeze()  # forks share these pages for longer
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(argv[0])
        listener.listen()
        print("ready", flush=True)
        os.dup2(2, 1)
        return serve(listener, known)


if __name__ == "__main__":
    try:
        program = main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    if program:
        run(program)
