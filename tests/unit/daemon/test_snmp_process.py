"""The supervision of the SNMP sub-agent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pylvs.daemon import snmp_process
from pylvs.daemon.snmp_process import SnmpProcess
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.wanted import Configuration, GlobalSettings, SnmpSettings
from pylvs.system import logs
from pylvs.system.processes import VERSION_LINE, command, other_version
from tests.shortages import failing
from tests.unit.config.support import compiled
from tests.waiting import until_async

# Stands in for the sub-agent: it appends its PID and the socket of its configuration to a file, and waits.
AGENT = """
import os, pickle, signal, sys
sys.stdin.buffer.readline()  # the version
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


def as_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let AGENT be the sub-agent, and be started again at once."""
    monkeypatch.setattr(snmp_process, "command", lambda _, *arguments: [sys.executable, "-c", AGENT, *arguments])
    monkeypatch.setattr(snmp_process, "RESTART_PAUSE_S", 0.01)


def test_the_process_follows_the_configuration_and_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_agent(monkeypatch)

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


def test_the_process_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = "import sys; open(sys.argv[1] + '/given', 'wb').write(sys.stdin.buffer.read())"
    monkeypatch.setattr(snmp_process, "command", lambda _, *arguments: [sys.executable, "-c", copy, *arguments])
    text = """
global_defs {
    enable_snmp_vrrp
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    authentication {
        auth_type PASS
        auth_pass hunter22
    }
    virtual_ipaddress { 192.0.2.1/24 }
}
virtual_server 192.0.2.1 80 {
    lvs_method DR
    real_server 10.0.0.1 80 {
        HTTP_GET {
            url {
                path /hunter22
                status_code 200
            }
        }
    }
}
"""
    given = compiled(text).configuration
    assert b"hunter22" in pickle.dumps(given.vrrp)
    assert b"hunter22" in pickle.dumps(given.services)

    async def play() -> None:
        process = SnmpProcess(StateDirectory(tmp_path), "text")
        running = asyncio.create_task(process.run())
        process.configure(given)
        file = tmp_path / "given"
        await until_async(lambda: file.exists() and file.read_bytes().endswith(pickle.STOP))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert file.read_bytes().startswith(VERSION_LINE)
        assert b"VI_1" in file.read_bytes()
        assert b"hunter22" not in file.read_bytes()

    asyncio.run(play())


def test_a_process_of_another_version_reads_nothing_and_gives_the_reason(tmp_path: Path) -> None:
    """pip replaced the files below a daemon that runs, and then the sub-agent ended."""
    done = subprocess.run(
        command("pylvs.snmp", str(tmp_path), "text"),
        input=b"0.0.1\nno pickle",
        stderr=subprocess.PIPE,
        check=False,
    )
    (line,) = done.stderr.decode().splitlines()
    assert f"the SNMP sub-agent {other_version()}" in line
    assert done.returncode == 1


def test_a_process_that_is_silent_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = AGENT.replace("signal.pause()", "os.write(1, b'.'); signal.pause()")
    monkeypatch.setattr(snmp_process, "command", lambda _, *arguments: [sys.executable, "-c", silent, *arguments])
    for name, value in (("RESTART_PAUSE_S", 0.01), ("TICK_S", 0.01)):
        monkeypatch.setattr(snmp_process, name, value)

    process = SnmpProcess(StateDirectory(tmp_path), "text")
    problems: list[str] = []

    async def play() -> None:
        running = asyncio.create_task(process.run())
        process.configure(enabled("/a"))
        await until_async(lambda: len(started(tmp_path)) == 2)
        assert not is_running(started(tmp_path)[0][0])
        await until_async(lambda: not process.problem)  # the second one is alive
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    def note(_: str, fields: Mapping[str, object]) -> None:
        lines.append(str(fields["event"]))
        problems.append(process.problem)

    lines: list[str] = []
    former = logs.write_with(note)
    try:
        asyncio.run(play())
    finally:
        logs.write_with(former)
    assert lines[0] == problems[0] == "the SNMP sub-agent was silent for 0.6 s and is started again"


def test_a_process_that_cannot_be_started_is_a_problem_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_agent(monkeypatch)

    async def play() -> None:
        process = SnmpProcess(StateDirectory(tmp_path), "text")
        process.configure(enabled("/a"))
        with monkeypatch.context() as full:
            full.setattr(asyncio, "create_subprocess_exec", failing(errno.EAGAIN))
            running = asyncio.create_task(process.run())
            await until_async(lambda: process.problem)
        text = "the SNMP sub-agent could not be started (Resource temporarily unavailable) and is started again"
        assert process.problem == text
        await until_async(lambda: started(tmp_path))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the process confines itself")
def test_a_stopped_parser_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP of the process without privileges: the other one gives no sign of life for it."""
    for name, value in (("RESTART_PAUSE_S", 0.01), ("LEASE_TICKS", 5)):
        monkeypatch.setattr(snmp_process, name, value)

    async def play() -> None:
        process = SnmpProcess(StateDirectory(tmp_path), "text")
        running = asyncio.create_task(process.run())
        process.configure(enabled(f"unix:{tmp_path}/none"))
        await until_async(parsers)
        first = parsers()
        os.kill(first[0], signal.SIGSTOP)
        await until_async(lambda: set(parsers()) - set(first))
        await until_async(lambda: not is_running(first[0]))
        last = parsers()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until_async(lambda: not any(map(is_running, last)))

    asyncio.run(play())


def parsers() -> list[int]:
    """Return the processes that parse, children of this process's children, as soon as they have no privileges."""
    found = [process for child in children_of(os.getpid()) for process in children_of(child)]
    return [process for process in found if has_no_privileges(process)]


def has_no_privileges(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{process}/status").read_text()
        return status.startswith("Name:\tpylvs-agentx\n") and "\nUid:\t0" not in status
    return False


def children_of(process: int) -> list[int]:
    """Return the PIDs of children; none if the process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


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
