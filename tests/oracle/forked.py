"""Run commands in forks of a process that has imported their program (see ../oracle_support/command_server.py).

A command of a test takes longer to start its interpreter than to do its work. Where the environment names the
server's socket, `run` hands it the command line, the environment, the standard streams, and this process's own network
namespace, mounts and current folder. Without it, or for any other program, `run` starts a process as usual.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence

SOCKET = "PYLVS_TESTS_COMMANDS"  # the server's socket
PROGRAMS = ("pylvs", "ipvsadm", "ipvsadm-save", "ipvsadm-restore")
STATUS = struct.Struct("!i")  # the server's answer: as subprocess gives it, a signal is negative
LENGTH = struct.Struct("!I")  # before the request


def takes(argv: Sequence[str], env: Mapping[str, str] | None = None) -> bool:
    """Whether the server runs this command."""
    return argv[0] in PROGRAMS and SOCKET in (os.environ if env is None else env)


def run(
    argv: Sequence[str], stdin: bytes = b"", env: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end and collect what it writes. Raises subprocess.TimeoutExpired."""
    if not takes(argv, env):
        return subprocess.run(argv, input=stdin, capture_output=True, env=env, timeout=timeout_s)
    streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.pwrite(streams[0], stdin, 0)
        status = call(argv, streams, env, timeout_s)
        out, err = (os.pread(stream, os.fstat(stream).st_size, 0) for stream in streams[1:])
    finally:
        for stream in streams:
            os.close(stream)
    return subprocess.CompletedProcess(argv, status, out, err)


def call(
    argv: Sequence[str], streams: Sequence[int], env: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> int:
    """Let the server run a command on these three streams; its exit status. Raises subprocess.TimeoutExpired."""
    environment = dict(os.environ if env is None else env)
    request = json.dumps({"argv": list(argv), "env": environment}).encode("ascii")  # lone surrogates pass as \u escapes
    place = [os.open(path, os.O_RDONLY) for path in ("/proc/self/ns/net", "/proc/self/ns/mnt", ".")]
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(timeout_s)
            server.connect(environment[SOCKET])
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [*streams, *place]))
            server.sendmsg([LENGTH.pack(len(request))], [rights])
            server.sendall(request)
            try:
                answer = server.recv(STATUS.size, socket.MSG_WAITALL)
            except TimeoutError:
                assert timeout_s is not None
                raise subprocess.TimeoutExpired(argv, timeout_s) from None
    finally:
        for descriptor in place:
            os.close(descriptor)
    if len(answer) != STATUS.size:
        raise OSError(f"the command server ended before {argv[0]} did")
    status: int = STATUS.unpack(answer)[0]
    return status
