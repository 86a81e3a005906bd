"""A start or a stop in which something fails or hangs ends: virtual routers at once, the daemon in bounded time."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from pylvs.daemon import Options
from pylvs.daemon.host.service_manager import EXTEND_S, ServiceManager
from pylvs.daemon.limits import CLOSE_S, SCRIPTS_S, STOP_S, TABLE_LEASE_S, TABLES_S
from pylvs.daemon.loading import LOAD_TIMEOUT_S, Loaded, Refused
from pylvs.daemon.state import history, overrides
from pylvs.daemon.supervisor import Supervisor
from pylvs.daemon.via_vip import HostSettings
from pylvs.daemon.virtual_routers.first import FirstRouters, ForkedProcess
from pylvs.model.errors import PylvsError
from pylvs.model.wanted import GlobalSettings
from pylvs.system.table_thread import TICK_S, TableThread, ThreadHangs
from tests.memory import MemoryDirector
from tests.unit.daemon.daemons import FakeHost, host_of_router, run, until
from tests.unit.daemon.fake_routers import record
from tests.unit.daemon.simulation.clock import Clock, SimPool
from tests.unit.health.clock import START_S, FakeTimeLoop
from tests.waiting import PATIENCE_S


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    with host_of_router(tmp_path / "state") as found:
        yield found


class Hang:
    """Work that hangs until `release`, with any arguments; `begun` is set when it begins."""

    def __init__(self) -> None:
        self.begun, self._over = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> None:
        self.begun.set()
        self._over.wait(PATIENCE_S)

    def release(self) -> None:
        assert not self._over.is_set(), "it has lasted until now"
        self._over.set()

    def end(self) -> None:
        """End the thread of a test that failed."""
        self._over.set()


@pytest.fixture
def hang() -> Iterator[Hang]:
    found = Hang()
    yield found
    found.end()


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the thread of the tables hang if it is silent for a moment."""
    monkeypatch.setattr("pylvs.daemon.supervisor.TABLE_LEASE_S", 0.05)
    monkeypatch.setattr("pylvs.system.table_thread.TICK_S", 0.05)


def hang_at_the_file(host: FakeHost, hang: Hang, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reading the file hang from now on."""

    def load(_: Options) -> Loaded:
        hang()
        return host.file

    monkeypatch.setattr(host, "load", load)


def gave_up(host: FakeHost) -> bool:
    """Return whether the virtual routers were stopped."""
    return "stop" in verbs(host)


def verbs(host: FakeHost) -> set[str]:
    """Return the verbs of the requests to the virtual routers."""
    return {each["verb"] for each in record(host.state)}


async def stop_a_start(host: FakeHost, hang: Hang, wanted: Collection[str] = ("configure",)) -> None:
    """Start a daemon, stop it when its start hangs and its routers got these requests, and wait for its end.

    Raises the daemon's error.
    """
    daemon = Supervisor(Options("test.conf", state_dir=host.state), host)
    running = asyncio.create_task(daemon.run())
    try:
        await until(lambda: hang.begun.is_set() and verbs(host).issuperset(wanted))
        daemon.stop()
        await asyncio.wait_for(running, PATIENCE_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        hang.release()


def test_a_start_that_fails_ends_a_process_that_does_not_listen_yet(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_: Options) -> Loaded:
        raise OSError("no file can be read")

    monkeypatch.setattr(host, "load", unreadable)
    process = ForkedProcess(os.posix_spawnp("sleep", ["sleep", str(PATIENCE_S)], os.environ))
    first = FirstRouters(process, host.file.configuration)
    options = Options("test.conf", state_dir=host.state)

    async def scenario() -> None:
        with pytest.raises(OSError, match="no file can be read"):
            await Supervisor(options, host, first=first).run()

    run(scenario())
    assert process.poll() == -signal.SIGTERM
    assert host.left() == set()


@pytest.mark.usefixtures("short_lease")
def test_the_stop_does_not_wait_for_a_table_thread_that_hangs(
    host: FakeHost, hang: Hang, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            # not `adapt_host`, which the daemon calls after changes of the host, too
            monkeypatch.setattr(HostSettings, "prepare", lambda *_: daemon.table_thread.run(hang))
            reload = asyncio.create_task(daemon.reload())
            await until(hang.begun.is_set)
        with pytest.raises(ThreadHangs):
            await reload
        hang.release()

    run(scenario())
    assert gave_up(host)
    assert "the thread that edits the tables hangs; the process ends without it" in log_output.getvalue()
    assert host.servers() == {"10.0.0.1"}, "for the next daemon, or pylvs stop"
    assert "services.json" in host.left()


def test_virtual_routers_stop_before_a_reload_ends_that_hangs(
    host: FakeHost, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            hang_at_the_file(host, hang, monkeypatch)
            reload = asyncio.create_task(daemon.reload())
            await until(hang.begun.is_set)
            daemon.stop()
            await until(lambda: gave_up(host))
            assert host.servers() == {"10.0.0.1"}, "the stop waits for the reload"
            hang.release()
            with pytest.raises(Refused, match="pylvs run is stopping"):
                await reload

    run(scenario())
    assert host.servers() == set()


def test_the_stop_does_not_wait_for_a_reload_that_hangs(
    host: FakeHost, hang: Hang, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.supervisor.CHANGE_END_S", 0.05)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            hang_at_the_file(host, hang, monkeypatch)
            reload = asyncio.create_task(daemon.reload())
            await until(hang.begun.is_set)
        hang.release()
        with pytest.raises(Refused, match="pylvs run is stopping"):
            await reload

    run(scenario())
    assert host.servers() == set()
    assert "the start or a reload hangs; the stop does not wait for it" in log_output.getvalue()


@pytest.mark.usefixtures("short_lease")
def test_a_start_that_hangs_can_be_stopped(host: FakeHost, hang: Hang, monkeypatch: pytest.MonkeyPatch) -> None:
    def director() -> MemoryDirector:
        hang()
        return host.tables

    monkeypatch.setattr(host, "director", director)
    with pytest.raises(ThreadHangs):
        run(stop_a_start(host, hang))
    assert gave_up(host)


def test_a_start_that_hangs_while_it_reads_the_file_can_be_stopped(
    host: FakeHost, hang: Hang, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    hang_at_the_file(host, hang, monkeypatch)
    monkeypatch.setattr("pylvs.daemon.supervisor.CHANGE_END_S", 0.05)
    with pytest.raises(PylvsError, match="the start hangs; pylvs run ends without it"):
        run(stop_a_start(host, hang, wanted=()))
    assert "the start hangs" in log_output.getvalue()


def test_virtual_routers_stop_before_a_start_ends_that_hangs_at_a_part(
    host: FakeHost, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.vip_checks, "adapt_host", hang)
    daemon = Supervisor(Options("test.conf", state_dir=host.state), host)

    async def scenario() -> None:
        running = asyncio.create_task(daemon.run())
        await until(lambda: hang.begun.is_set() and "configure" in verbs(host))
        daemon.stop()
        try:
            await until(lambda: gave_up(host))
        finally:
            hang.release()
            await asyncio.wait_for(running, PATIENCE_S)

    run(scenario())
    assert host.servers() == set()


@pytest.mark.usefixtures("short_lease")
def test_a_first_table_that_hangs_does_not_delay_the_end_of_virtual_routers(
    host: FakeHost, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.tables, "add_service", hang)
    run(stop_a_start(host, hang))
    assert gave_up(host)


def test_the_stop_does_not_wait_for_scripts_that_hang(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(host, "close", never)
    monkeypatch.setattr("pylvs.daemon.host.part.CLOSE_S", 0.05)

    async def scenario() -> None:
        async with host.daemon():
            pass

    run(scenario())
    assert "scripts or other processes of the daemon hang; it ends without them" in log_output.getvalue()


def test_a_process_whose_threads_hang_ends() -> None:
    code = """
import asyncio, threading
from pylvs.daemon import start
class Daemon:
    async def run(self):
        threading.Thread(target=threading.Event().wait).start()
start.EXIT_S = 1
asyncio.run(start._to_the_end(Daemon()))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S)
    assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize(("call_s", "late_s"), [(29.0, None), (1e9, 30.0)])
def test_callers_give_up_when_no_call_ends_for_the_lease(
    call_s: float, late_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("pylvs.system.table_thread.ThreadPoolExecutor", lambda *_, **__: SimPool(clock.loop))

    async def scenario() -> None:
        thread = TableThread("test")
        watching = asyncio.create_task(thread.give_up_if_silent(30.0))
        begin = clock.now()
        calls = [asyncio.create_task(thread.run(clock.spend, call_s)) for _ in range(3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        if late_s is None:
            assert results == [None] * 3, "each ends in time, though not all together"
            watching.cancel()
            return
        assert [type(each) for each in results] == [ThreadHangs] * 3
        assert late_s <= clock.now() - begin <= late_s + 2 * TICK_S
        with pytest.raises(ThreadHangs):
            await thread.run(clock.spend, 0.0)

    with clock.in_force():
        clock.loop.run_until_complete(scenario())
    clock.loop.close()


def test_each_phase_of_the_start_and_the_stop_has_a_limit(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[float] = []
    monkeypatch.setattr(host.manager, "allow", allowed.append)

    async def scenario() -> None:
        async with host.daemon():
            pass

    run(scenario())
    script_s = GlobalSettings().startup_script_timeout_s + SCRIPTS_S
    assert allowed == [
        LOAD_TIMEOUT_S,
        script_s,
        TABLES_S,
        TABLES_S,
        0,
        STOP_S,
        CLOSE_S + TABLE_LEASE_S + overrides.END_S + history.END_S,
    ]


def test_more_time_is_requested_until_the_limit_of_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = FakeTimeLoop()
    sent: list[tuple[float, str]] = []
    manager = ServiceManager({})
    monkeypatch.setattr(manager, "_send", lambda text: sent.append((loop.time() - START_S, text)))

    async def scenario() -> None:
        asking = asyncio.create_task(manager.extend_limits())
        manager.allow(45.0)
        await asyncio.sleep(600.0)
        asking.cancel()

    loop.run_until_complete(scenario())
    loop.close()
    pause_s = EXTEND_S / 3
    assert sent == [
        (at * pause_s, f"EXTEND_TIMEOUT_USEC={round(min(EXTEND_S, 45.0 - at * pause_s) * 1e6)}") for at in range(5)
    ]
