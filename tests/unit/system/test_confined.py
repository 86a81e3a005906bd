"""How much may wait until a confined process reads."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.health.prober.link import ProberLink
from pylvs.system.processes.confined import ConfinedProcess, environment

SENT = 3000  # descriptors: as many PING_CHECKs that begin at once
AT_ONCE = 50  # in a packet
DEFINITIONS = "x" * 16_000  # of these checks: few such packets fit into the socket


class Opened:
    """A descriptor that is sent and closed, and whose file stays open."""

    closed = 0

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        Opened.closed += 1


def test_the_prober_has_no_limit() -> None:
    """It does not request descriptors: this process decides how many checks begin."""

    async def scenario() -> None:
        assert ProberLink().process._most_waiting == math.inf

    asyncio.run(scenario())


@pytest.mark.parametrize("limit", [math.inf, 2048])
def test_descriptors_wait_for_the_process_without_a_limit_unless_it_has_one(limit: float) -> None:
    async def scenario() -> None:
        Opened.closed = 0
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = os.open(os.devnull, os.O_RDONLY)
        process = ConfinedProcess("the process", "none", 1, lambda _: None, most_waiting=limit)
        ours.setblocking(False)
        process._up, process._end = True, ours
        with its:
            for _ in range(SENT // AT_ONCE):  # the event loop does not run between them
                process.send({"new": DEFINITIONS}, [Opened(number) for _ in range(AT_ONCE)])
            refused = limit < SENT
            assert process.problem == ("the process does not read" if refused else "")
            assert process.up is not refused
            await process.close()
        assert Opened.closed == SENT
        os.close(number)

    asyncio.run(scenario())


def test_a_confined_process_keeps_compiled_modules_where_this_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would compile into the source tree, in which `./dev undo` leaves nothing."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    code = "import sys; print(sys.pycache_prefix, sys.dont_write_bytecode)"
    shown = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(tmp_path), "False"]
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    shown = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(tmp_path), "True"]
