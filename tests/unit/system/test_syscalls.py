"""System calls through libc: their effect, and their errors with errno and subject."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pylvs.system import syscalls


@pytest.mark.parametrize(
    ("call", "number", "subject"),
    [
        (lambda: syscalls.setns(-1, 0, "the namespace"), errno.EBADF, "the namespace"),
        (lambda: syscalls.call("watch 3", "inotify_rm_watch", -1, 3), errno.EBADF, "watch 3"),
        (lambda: syscalls.call("/", "inotify_add_watch", -1, b"/", syscalls.CLONE_FS), errno.EBADF, "/"),
        (lambda: syscalls.prctl(-1, 0), errno.EINVAL, "prctl -1"),
        (lambda: syscalls.membarrier(-1), errno.EINVAL, "membarrier"),
    ],
)
def test_an_error_has_its_errno_and_names_its_subject(call: Callable[[], object], number: int, subject: str) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        call()
    assert (raised.value.errno, raised.value.filename) == (number, subject)


def test_an_unknown_mount_point_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    refused = r"No such file|not permitted"
    with pytest.raises(OSError, match=refused) as raised:
        syscalls.mount("x", missing, "tmpfs")
    assert raised.value.filename == str(missing)
    with pytest.raises(OSError, match=refused) as raised:
        syscalls.unmount(missing)
    assert raised.value.filename == str(missing)


def test_a_process_gets_a_name() -> None:
    code = (
        "from pylvs.system import syscalls; syscalls.prctl(syscalls.PR_SET_NAME, b'called-so');"
        "print(open('/proc/self/comm').read(), end='')"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "called-so\n"


def test_libc_is_opened_by_the_first_call() -> None:
    code = "from pylvs.system import syscalls as s;print(s._libc); s.prctl(s.PR_SET_NAME, b'x'); print(s._libc)"
    before, after = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert before == "None"
    assert "CDLL" in after


def test_a_text_is_formatted_up_to_a_size() -> None:
    """On x86-64 and arm64 a va_list is passed as a pointer; no conversion reads it here."""
    assert syscalls.vsnprintf(8, b"100%% of it", ctypes.addressof(ctypes.create_string_buffer(64))) == b"100% of"
