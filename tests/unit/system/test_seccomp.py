"""What a process that parses may call, by the filter itself and in a process of its own."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys

import pytest

from pylvs.system.processes import seccomp
from pylvs.system.processes.seccomp import ALLOW, DENIED, KILL_PROCESS, REFUSE
from tests import classic_bpf

X86, ARM = 0xC000003E, 0xC00000B7
ARCHITECTURES = {"x86_64": X86, "aarch64": ARM}
COLUMNS = {"x86_64": 0, "aarch64": 1}
REFUSED = REFUSE | errno.EPERM
PROCESS = 4242


def result(machine: str, number: int, argument: int = 0, architecture: int = 0) -> int:
    """Return what the filter returns for a call. The interpreter loads in network order, the kernel in that of it."""
    data = struct.pack("!IIQ2I", number, architecture or ARCHITECTURES[machine], 0, argument & 0xFFFFFFFF, 0)
    return classic_bpf.run(seccomp.program(machine, PROCESS), data + bytes(40))


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_denied_call_is_refused_and_others_are_not(machine: str) -> None:
    column = COLUMNS[machine]
    classic_bpf.check(seccomp.program(machine, PROCESS))
    denied = {numbers[column] for numbers in DENIED.values()} - {-1}
    asked = {numbers[column] for numbers in (seccomp._CLONE, seccomp._CLONE3, seccomp._SOCKET, seccomp._TGKILL)}
    for number in range(500):
        if number not in asked:
            assert result(machine, number) == (REFUSED if number in denied else ALLOW), number


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_arguments_decide(machine: str) -> None:
    column = COLUMNS[machine]
    clone, asked_for_socket, tgkill = (each[column] for each in (seccomp._CLONE, seccomp._SOCKET, seccomp._TGKILL))
    assert result(machine, seccomp._CLONE3[column]) == REFUSE | errno.ENOSYS
    assert result(machine, clone, 0x3D0F00) == ALLOW, "a thread of glibc"
    assert result(machine, clone, 0x1200011) == REFUSED, "fork of glibc"
    for family in range(50):
        assert result(machine, asked_for_socket, family) == (ALLOW if family in seccomp.FAMILIES else REFUSED)
    assert result(machine, tgkill, PROCESS) == ALLOW
    assert result(machine, tgkill, 1) == REFUSED


def test_other_interfaces_of_the_machine_are_refused() -> None:
    assert result("x86_64", 1, architecture=0x40000003) == KILL_PROCESS, "i386"
    assert result("aarch64", 1, architecture=X86) == KILL_PROCESS
    assert result("x86_64", 0x40000000 | 1) == REFUSED, "x32"


CODE = """
import ctypes, errno, json, os, socket, subprocess, sys, threading
from pylvs.system import sandbox

def tried(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""

left = sandbox.confine(64, 1 << 30)
libc = ctypes.CDLL(None, use_errno=True)

def number(*arguments):
    if libc.syscall(*map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")

ran = []
thread = threading.Thread(target=lambda: ran.append(tried(os.fork)))
thread.start()
thread.join()
print(json.dumps({
    "left": left,
    "thread": ran,
    "fork": tried(os.fork),
    "execve": tried(os.execv, "/bin/true", ["true"]),
    "kill": tried(os.kill, os.getppid(), 0),
    "unshare": tried(number, 272 if os.uname().machine == "x86_64" else 97, 0x10000000),
    "bpf": tried(number, 321 if os.uname().machine == "x86_64" else 280, 0, 0, 0),
    "packets": tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "crypto": tried(socket.socket, 38, socket.SOCK_SEQPACKET),
    "udp": tried(socket.socket, socket.AF_INET, socket.SOCK_DGRAM),
}))
sys.stdout.flush()
os.abort()
"""


@pytest.mark.skipif(os.uname().machine not in ARCHITECTURES, reason="needs a machine that has a filter")
def test_a_process_that_parses_starts_no_program_and_reaches_no_other_process() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found.pop("left") == []
    assert found.pop("thread") == ["EPERM"], "threads can be made, and have the filter, too"
    assert found.pop("udp") == ""
    assert set(found.values()) == {"EPERM"}, found
    assert done.returncode == -6, "abort(3) ends it"
