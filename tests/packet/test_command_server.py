"""The server runs commands in forks, with the same input and results as separate processes."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracle_support.command_server import SOCKET, command_server
from tests.processes import tools_first

ORACLE = Path(__file__).parents[1] / "oracle"
TIMEOUT_S = 60
# Runs `forked.run` as the oracle's scripts do, and prints the result.
CALL = """
import sys; sys.path.insert(0, sys.argv[1])
import forked
done = forked.run(sys.argv[2:], sys.stdin.buffer.read())
print(repr((done.returncode, done.stdout, done.stderr)))
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with command_server() as found:
        yield os.environ | {"PATH": tools_first()} | found


def served(environment: dict[str, str], *argv: str, stdin: str = "", before: tuple[str, ...] = ()) -> str:
    """Return the result of a command that the server runs for a process with this environment."""
    return subprocess.run(
        [*before, sys.executable, "-c", CALL, ORACLE, *argv],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def started(environment: dict[str, str], *argv: str, stdin: str = "", before: tuple[str, ...] = ()) -> str:
    """Return the result of the same command as a process of its own."""
    return served(
        {key: value for key, value in environment.items() if key != SOCKET}, *argv, stdin=stdin, before=before
    )


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [
        (("ipvsadm", "--version"), ""),
        (("ipvsadm", "-A"), ""),
        (("ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "no\udcff"), ""),
        (("ipvsadm", "-R"), "-A -t nonsense\n"),
        (("ipvsadm-save", "-x"), ""),
        (("ipvsadm-restore",), "# nothing\n"),
        (("pylvs", "attach"), ""),
        (("pylvs", "no-such-command"), ""),
        (("pylvs", "--help"), ""),
    ],
    ids=lambda value: "",
)
def test_a_command_does_what_a_process_of_its_own_does(
    environment: dict[str, str], argv: tuple[str, ...], stdin: str
) -> None:
    own = ("unshare", "--net")
    expected = started(environment, *argv, stdin=stdin, before=own)
    assert served(environment, *argv, stdin=stdin, before=own) == expected


def test_a_command_edits_the_tables_of_its_callers_network_namespace(environment: dict[str, str]) -> None:
    call = shlex.join([sys.executable, "-c", CALL, str(ORACLE)])
    script = f"""
        mount -t sysfs sysfs /sys
        {call} ipvsadm -A -t 192.0.2.1:80 -s rr </dev/null
        ipvsadm -Sn
        {call} pylvs down </dev/null
        ipvsadm -Sn
    """
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-ec", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    added, listed, *_ = done.stdout.splitlines()
    assert added == "(0, b'', b'')"
    assert listed == "-A -t 192.0.2.1:80 -s rr"
    assert done.stdout.count("192.0.2.1") == 1
    assert "192.0.2.1" not in subprocess.run(["ipvsadm", "-Sn"], env=environment, capture_output=True, text=True).stdout


def children(environment: dict[str, str]) -> list[str]:
    """Return the commands that the server is running."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(environment[SOCKET])
        pid = int.from_bytes(asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_command_ends_when_its_caller_is_killed(environment: dict[str, str]) -> None:
    endless = ["ipvsadm", "-R"]  # it continues to read, because the test keeps its input open
    script = f"import sys; sys.path.insert(0, {str(ORACLE)!r}); import forked; forked.call({endless}, (0, 1, 2))"
    until = time.monotonic() + TIMEOUT_S
    with subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE
    ) as caller:
        assert caller.stdin
        while not children(environment):
            assert time.monotonic() < until, "the command did not start"
            time.sleep(0.01)
        caller.kill()
        while children(environment):
            assert time.monotonic() < until, "the command went on without its caller"
            time.sleep(0.01)


def test_without_a_server_a_process_is_started(environment: dict[str, str]) -> None:
    assert "ipvsadm v" in started(environment, "ipvsadm", "--version", before=("unshare", "--net"))
