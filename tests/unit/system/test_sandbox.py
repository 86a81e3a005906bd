"""Privileges are given up, and what a service manager forbids is reported instead of ending the process."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import subprocess
import sys

import pytest

from pylvs.system import sandbox
from tests.privileges import assert_unprivileged

CODE = """
import errno, json, os, sys
from pylvs.system import sandbox, syscalls

def refused(*_):
    raise PermissionError(errno.EPERM, "Operation not permitted")

for name in set(sys.argv[1:]) - {"file_system"}:
    if name == "capset":
        call = syscalls.call
        syscalls.call = lambda subject, name, *more: refused() if name == "capset" else call(subject, name, *more)
    else:
        setattr(os, name, refused)
left = sandbox.confine(64, 1 << 30, file_system="file_system" in sys.argv)
try:
    os.listdir("/etc")
    reads = True
except OSError:
    reads = False
print(json.dumps({"left": left, "uid": os.geteuid(), "reads": reads}))
"""


def confined(*forbidden: str) -> dict[str, object]:
    """Return what a confined process reports; these calls are forbidden."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *forbidden], env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has privileges to give up")
@pytest.mark.parametrize(
    ("forbidden", "left"),
    [
        ((), []),
        (("chroot",), ["the file system: Operation not permitted"]),
        (("setresuid",), ["the user root: Operation not permitted"]),
        (("capset",), ["capabilities: Operation not permitted"]),
    ],
)
def test_what_is_left_is_reported(forbidden: tuple[str, ...], left: list[str]) -> None:
    found = confined(*forbidden)
    assert found["left"] == left
    assert found["reads"] is ("chroot" in forbidden)
    assert (found["uid"] == 0) is ("setresuid" in forbidden)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has privileges to give up")
def test_an_unprivileged_user_can_neither_signal_nor_read_a_confined_process() -> None:
    """Many services run as the user 65534."""
    code = "from pylvs.system import sandbox; sandbox.USER = 'no-such-user'\n"
    code += "sandbox.confine(64, 1 << 30); print(flush=True); input()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert_unprivileged(process.pid)
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]
        for attempt in (f"kill -0 {process.pid}", f"kill -STOP {process.pid}", f"exec 3</proc/{process.pid}/mem"):
            done = subprocess.run([*other, attempt], capture_output=True, text=True)
            assert done.returncode != 0, attempt
            assert re.search("not permitted|denied", done.stderr), done.stderr
        process.communicate(b"\n")


def test_a_number_that_an_account_has_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "USER", "no-such-user")
    accounts = {"users": {65520}, "groups": {65521}}

    def look_up(kind: str, number: int) -> None:
        if number not in accounts[kind]:
            raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", lambda number: look_up("users", number))
    monkeypatch.setattr(grp, "getgrgid", lambda number: look_up("groups", number))
    assert sandbox.account() == (65522, 65522)
    accounts["users"] = set(sandbox.NUMBERS)
    assert sandbox.account() == (65534, 65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has privileges to give up")
def test_a_process_that_needs_the_file_system_reads_it_as_another_user() -> None:
    found = confined("file_system")
    assert found["left"] == []
    assert found["reads"]
    assert found["uid"] != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has capabilities to give up")
def test_a_process_keeps_only_the_capabilities_that_it_names_and_root_s_scripts_have_all() -> None:
    show = "import sys; from pylvs.system import syscalls; print(syscalls.missing_capabilities(*sys.argv[1:]))"
    code = f"""
import subprocess, sys
from pylvs.system import sandbox, syscalls
sandbox.keep_only("CAP_NET_ADMIN", "CAP_BPF")
print([each for each in syscalls.CAPABILITIES if not syscalls.missing_capabilities(each)], flush=True)
subprocess.run([sys.executable, "-c", {show!r}, "CAP_SETUID", "CAP_NET_RAW"])
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['CAP_NET_ADMIN', 'CAP_BPF']", "[]"]
