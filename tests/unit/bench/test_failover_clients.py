"""The programs with which the bench of a failover measures: a server that echoes, and clients that count."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import failover
from tests.waiting import PATIENCE_S

FOLDER = Path(failover.__file__).parent
HERE = "127.0.0.1"
ESTABLISHED, RATE = 40, 100


@contextmanager
def started(program: str, *words: object) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run one of the programs; yield it, and the words of the line that says that it is ready."""
    command = [sys.executable, "-I", str(FOLDER / program), *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline().split()
            assert ready[0] == "ready"
            yield process, ready
        finally:
            process.kill()


@contextmanager
def a_server() -> Iterator[int]:
    """Yield the port of a server."""
    with started("server.py", HERE, 0) as (_, words):
        yield int(words[1])


def seen(clients: subprocess.Popen[str]) -> dict[str, Any]:
    """Let the clients end, and return what they report."""
    output, _ = clients.communicate("\n", timeout=PATIENCE_S)
    found: dict[str, Any] = json.loads(output)
    return found


def test_no_connection_is_lost_while_the_server_answers() -> None:
    with a_server() as port, started("clients.py", HERE, HERE, port, ESTABLISHED, RATE) as (clients, _):
        found = seen(clients)
    assert (found["reset"], found["silent"]) == (0, 0)
    assert len(found["served"]) <= found["begun"]


def test_each_connection_of_a_server_that_ended_is_lost() -> None:
    with ExitStack() as until:
        with a_server() as port:
            clients, _ = until.enter_context(started("clients.py", HERE, HERE, port, ESTABLISHED, RATE))
        found = seen(clients)
    assert (found["reset"], found["silent"]) == (ESTABLISHED, 0)


def report(clients: subprocess.Popen[str]) -> dict[str, Any]:
    """Ask connections that carry data all the time what they have seen."""
    assert clients.stdin is not None
    assert clients.stdout is not None
    clients.stdin.write("\n")
    clients.stdin.flush()
    found: dict[str, Any] = json.loads(clients.stdout.readline())
    return found


def test_connections_that_carry_data_report_what_was_reset_since_the_last_time() -> None:
    with ExitStack() as until:
        with a_server() as port, a_server() as other:
            clients, _ = until.enter_context(started("lasting.py", HERE, HERE, 5, port, other))
            found = report(clients)
            assert (found["reset"], found["silent"]) == (0, 0)
            assert found["longest_s"] > 0
        found = report(clients)
        assert (found["reset"], found["silent"]) == (2 * 5, 0)
        assert report(clients) == {"reset": 0, "silent": 0, "longest_s": 0.0}
