"""A command that may not open enough files reports it in one line, and changes nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

COMMAND = "import sys; from pylvs.ipvsadm.main import main; sys.exit(main())"
SERVICE = "-t 10.0.0.99:80"
ENOUGH = 1024


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"pylvs-fd{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    ipvsadm(name, "-C")
    subprocess.run(["ip", "netns", "exec", name, "pylvs", "down"], check=True, capture_output=True)
    subprocess.run(["ip", "netns", "del", name], check=True)


def ipvsadm(
    namespace: str, words: str, files: int = ENOUGH, most: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with this limit of open files; `most` is the hard limit."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files if most is None else most))

    inside = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", COMMAND, *words.split()]
    return subprocess.run(inside, capture_output=True, text=True, preexec_fn=limit)


@pytest.mark.parametrize("files", [8, 20, 57, 59, 100])
def test_a_first_edit_without_enough_descriptors_leaves_nothing(namespace: str, files: int) -> None:
    done = ipvsadm(namespace, f"-A {SERVICE}", files)
    assert done.returncode
    (line,) = done.stderr.splitlines()
    assert "Too many open files" in line
    assert "this kernel" not in line
    assert ipvsadm(namespace, "-Sn").stdout == ""
    assert ipvsadm(namespace, f"-A {SERVICE}").returncode == 0


def test_a_first_edit_raises_a_limit_that_is_too_low(namespace: str) -> None:
    done = ipvsadm(namespace, f"-A {SERVICE}", 40, ENOUGH)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_edit_without_enough_descriptors_changes_nothing(namespace: str) -> None:
    assert ipvsadm(namespace, f"-A {SERVICE}").returncode == 0
    assert ipvsadm(namespace, f"-a {SERVICE} -r 10.0.0.21").returncode == 0
    before = ipvsadm(namespace, "-Sn").stdout
    refused = 0
    for files in range(6, 64):
        done = ipvsadm(namespace, f"-e {SERVICE} -r 10.0.0.21 -g -w {files}", files)
        if done.returncode == 0:
            break
        refused += 1
        (line,) = done.stderr.splitlines()
        assert "Too many open files" in line
        assert ipvsadm(namespace, "-Sn").stdout == before
    assert refused > 5
    assert f"-w {files}\n" in ipvsadm(namespace, "-Sn").stdout
