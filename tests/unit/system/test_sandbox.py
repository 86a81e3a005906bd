"""Privileges are given up, and what a service manager forbids is reported instead of ending the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

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
def test_a_process_that_needs_the_file_system_reads_it_as_another_user() -> None:
    found = confined("file_system")
    assert found["left"] == []
    assert found["reads"]
    assert found["uid"] != 0
