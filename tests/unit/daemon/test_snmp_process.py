"""The supervision of the SNMP sub-agent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from pylvs.daemon import snmp_process
from pylvs.daemon.snmp_process import SnmpProcess
from pylvs.daemon.state_dir import StateDirectory
from pylvs.model.wanted import Configuration, GlobalSettings, SnmpSettings
from tests.waiting import until_async

# Stands in for the sub-agent: it appends its PID and the socket of its configuration to a file, and waits.
AGENT = """
import os, pickle, signal, sys
socket = pickle.load(sys.stdin.buffer).settings.snmp.socket
with open(sys.argv[1] + "/started", "a") as out:
    out.write(f"{os.getpid()} {socket}\\n")
signal.pause()
"""


def enabled(socket: str) -> Configuration:
    return Configuration(settings=GlobalSettings(snmp=SnmpSettings(socket=socket, vrrp=True)))


def started(folder: Path) -> list[tuple[int, str]]:
    """Return PID and socket of each sub-agent that was started."""
    file = folder / "started"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(line.split()[0]), line.split()[1]) for line in lines]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_process_follows_the_configuration_and_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snmp_process, "command", lambda _, *arguments: [sys.executable, "-c", AGENT, *arguments])
    monkeypatch.setattr(snmp_process, "RESTART_PAUSE_S", 0.01)

    async def play() -> None:
        process = SnmpProcess(StateDirectory(tmp_path), "text")
        running = asyncio.create_task(process.run())
        process.configure(Configuration())
        process.configure(enabled("/a"))
        await until_async(lambda: [each[1] for each in started(tmp_path)] == ["/a"])
        process.configure(enabled("/a"))  # no change
        os.kill(started(tmp_path)[0][0], signal.SIGKILL)
        await until_async(lambda: [each[1] for each in started(tmp_path)] == ["/a", "/a"])
        process.configure(enabled("/b"))
        await until_async(lambda: [each[1] for each in started(tmp_path)] == ["/a", "/a", "/b"])
        assert not is_running(started(tmp_path)[1][0])
        process.configure(Configuration())
        await until_async(lambda: not is_running(started(tmp_path)[2][0]))
        process.configure(enabled("/c"))
        await until_async(lambda: len(started(tmp_path)) == 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not is_running(started(tmp_path)[3][0])

    asyncio.run(play())


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = AGENT.replace("signal.pause()", "signal.pause(); signal.pause()")
    stubborn = stubborn.replace("socket =", "signal.signal(signal.SIGTERM, lambda *_: None); socket =")
    monkeypatch.setattr(snmp_process, "command", lambda _, *arguments: [sys.executable, "-c", stubborn, *arguments])
    monkeypatch.setattr(snmp_process, "END_S", 0.01)

    async def play() -> None:
        process = SnmpProcess(StateDirectory(tmp_path), "text")
        running = asyncio.create_task(process.run())
        process.configure(enabled("/a"))
        await until_async(lambda: len(started(tmp_path)) == 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not is_running(started(tmp_path)[0][0])

    asyncio.run(play())
