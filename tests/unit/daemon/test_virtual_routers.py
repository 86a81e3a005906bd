"""The daemon starts, adopts, configures, replaces and stops pylvs-vrrp."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pylvs import __version__
from pylvs.daemon.api.routes import metrics_page
from pylvs.daemon.loading import Refused
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.supervisor import Supervisor
from pylvs.daemon.virtual_routers import connection, supervision
from pylvs.model.errors import Busy, PylvsError, Unsupported
from pylvs.vrrp.client import Client
from pylvs.vrrp.ipc import PROTOCOL, NoRouters
from tests.memory import MemoryDirector
from tests.unit.daemon.daemons import FakeHost, host_of_router, run, server, service, until
from tests.unit.daemon.fake_routers import record, set_behaviour
from tests.waiting import PATIENCE_S


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    with host_of_router(tmp_path / "state") as found:
        yield found


def requests_of(host: FakeHost, verb: str) -> list[dict[str, Any]]:
    """Return the requests with this verb."""
    return [each for each in record(host.state) if each["verb"] == verb]


def events(daemon: Supervisor, name: str) -> list[dict[str, Any]]:
    """Return the events of this name."""
    return [dict(each) for each in daemon.events.recent() if each["event"] == name]


async def status_when(daemon: Supervisor, holds: Callable[[Mapping[str, Any]], object]) -> Mapping[str, Any]:
    """Wait for a status."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(found := await daemon.routers.status()):
            await asyncio.sleep(0.01)
    return found


async def states(daemon: Supervisor) -> dict[str, str]:
    """Return the states by name."""
    return {each["name"]: each["state"] for each in (await daemon.routers.status())["instances"]}


def test_the_process_gets_the_configuration_and_stops_with_the_daemon(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert await states(daemon) == {"VI_1": "MASTER"}
            assert daemon.status().endswith(", 1 virtual router")

    run(scenario())
    assert [each["verb"] for each in record(host.state)][:2] == ["subscribe", "configure"]
    assert requests_of(host, "configure")[0]["names"] == ["VI_1"]
    assert len(requests_of(host, "stop")) == 1
    with pytest.raises(NoRouters):
        Client(host.state / "vrrp")


def test_virtual_routers_start_before_the_tables_are_opened(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[bool] = []
    monkeypatch.setattr("pylvs.daemon.virtual_routers.part.FIRST_S", PATIENCE_S)

    def opened() -> MemoryDirector:
        configured.append(bool(requests_of(host, "configure")))
        return host.tables

    monkeypatch.setattr(host, "director", opened)

    async def scenario() -> None:
        async with host.daemon():
            pass

    run(scenario())
    assert configured == [True]


def test_a_process_that_does_not_start_delays_no_table(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylvs.daemon.virtual_routers.part.FIRST_S", 0.05)
    set_behaviour(host.state, silent=["configure"])
    opened: list[bool] = []

    def director() -> MemoryDirector:
        opened.append(True)
        set_behaviour(host.state)
        monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", 0.3)
        return host.tables

    monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", 1.0)
    monkeypatch.setattr(host, "director", director)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert opened == [True]
            monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", PATIENCE_S)
            await status_when(daemon, lambda status: not status["problem"])

    run(scenario())


def test_a_start_that_fails_ends_the_process_that_it_started(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def director() -> MemoryDirector:
        raise Unsupported("no BPF here")

    monkeypatch.setattr("pylvs.daemon.virtual_routers.part.FIRST_S", PATIENCE_S)
    monkeypatch.setattr(host, "director", director)

    async def scenario() -> None:
        with pytest.raises(Unsupported, match="no BPF here"):
            async with host.daemon():
                pass

    run(scenario())
    assert len(requests_of(host, "stop")) == 1


def test_a_daemon_that_cannot_serve_its_commands_ends_them_too(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def serving(*_: object) -> NoReturn:
        raise PylvsError("the socket cannot be bound")

    monkeypatch.setattr("pylvs.daemon.virtual_routers.part.FIRST_S", PATIENCE_S)
    monkeypatch.setattr("pylvs.daemon.supervisor.ApiServer.start", serving)

    async def scenario() -> None:
        with pytest.raises(PylvsError, match="cannot be bound"):
            async with host.daemon():
                pass

    run(scenario())
    assert len(requests_of(host, "stop")) == 1


def test_a_table_thread_that_hangs_is_unknown(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.supervisor.TABLE_LEASE_S", 0.2)
    monkeypatch.setattr("pylvs.daemon.liveness.TICK_S", 0.05)
    monkeypatch.setattr("pylvs.daemon.virtual_routers.forwarding.POLL_S", 0.02)
    hangs = threading.Event()

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: not daemon.liveness.silent())  # while it starts, it may be late on a busy machine
            before = len(events(daemon, "part_works"))
            try:
                stuck = asyncio.create_task(daemon.table_thread.run(hangs.wait, PATIENCE_S))
                await until(daemon.liveness.silent)
                text = "the thread that edits the tables has made no progress for 0.2 s; its state is unknown"
                assert list(daemon.liveness.silent().values()) == [text]
                assert events(daemon, "part_silent")[-1]["reason"] == text
                metric = 'pylvs_part_silent{part="the_thread_that_edits_the_tables"} 1.0'
                assert metric in (await metrics_page(daemon)).text
                await status_when(daemon, lambda status: status["data_plane"]["up"] is None)
                assert text in log_output.getvalue()
            finally:
                hangs.set()
            await stuck
            await until(lambda: not daemon.liveness.silent())
            await status_when(daemon, lambda status: status["data_plane"]["up"])
            assert len(events(daemon, "part_works")) == before + 1

    run(scenario())


def test_a_killed_daemon_leaves_the_process_and_the_next_one_adopts_it(host: FakeHost, log_output: io.StringIO) -> None:
    pids = []

    async def scenario() -> None:
        for kill in (True, True, False):
            async with host.daemon(kill=kill) as daemon:
                pids.append((await daemon.routers.status())["process"]["pid"])
            if kill:
                with Client(host.state / "vrrp") as client:
                    assert client.pid == pids[0]

    run(scenario())
    assert len(set(pids)) == 1
    assert len(requests_of(host, "stop")) == 1
    assert log_output.getvalue().count(f"adopted the running process of the virtual routers (process={pids[0]})") == 2


def test_no_process_runs_without_virtual_routers(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon(vrrp=False) as daemon:
            assert (await daemon.routers.status())["instances"] == []
        host.write(service(server(1)))
        async with host.daemon():
            pass

    run(scenario())
    assert record(host.state) == []


def test_a_process_that_is_left_behind_ends_where_no_virtual_router_is_wanted(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon(kill=True):
            pass
        async with host.daemon(vrrp=False):
            with pytest.raises(NoRouters):
                Client(host.state / "vrrp")

    run(scenario())
    assert len(requests_of(host, "stop")) == 1


def test_without_checks_there_are_virtual_routers_as_well(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon(checks=False) as daemon:
            assert await states(daemon) == {"VI_1": "MASTER"}

    run(scenario())


def test_a_reload_keeps_the_process_until_the_last_router_is_removed(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            first = (await daemon.routers.status())["process"]["pid"]
            set_behaviour(host.state, warnings=["VI_2: eth0 is down"])
            host.write(service(server(1)), routers=["VI_1", "VI_2"], router_id="one")
            done = await daemon.reload()
            assert (done.routers.warnings, done.routers.error) == (("VI_2: eth0 is down",), "")
            status = await daemon.routers.status()
            assert status["process"]["pid"] == first
            assert [each["name"] for each in status["instances"]] == ["VI_1", "VI_2"]
            assert requests_of(host, "configure")[-1]["router_id"] == "one"
            host.write(service(server(1)))
            await daemon.reload()
            assert (await daemon.routers.status())["instances"] == []
            with pytest.raises(NoRouters):
                Client(host.state / "vrrp")
            host.write(service(server(1)), routers=["VI_1"])
            await daemon.reload()
            assert (await daemon.routers.status())["process"]["pid"] != first

    run(scenario())


def test_a_configuration_that_the_process_refuses_changes_nothing(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            set_behaviour(host.state, refuses="VI_1: eth0 has no space")
            host.write(service(server(1), server(2)), routers=["VI_1", "VI_2"])
            with pytest.raises(PylvsError, match="VI_1: eth0 has no space"):
                await daemon.reload()
            assert host.servers() == {"10.0.0.1"}
            assert daemon.reloads == {"refused": 1}
            assert daemon.engine.configuration.vrrp.instances[1:] == ()
            set_behaviour(host.state)
            await daemon.reload()
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}
            assert requests_of(host, "configure")[-1]["names"] == ["VI_1", "VI_2"]

    run(scenario())


def test_a_file_that_is_refused_never_reaches_the_process(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.write(routers=["VI_2"])  # which counts as an empty file
            with pytest.raises(Refused):
                await daemon.reload()

    run(scenario())
    assert [each["names"] for each in requests_of(host, "configure")] == [["VI_1"]]


def test_a_process_that_dies_is_restarted_and_that_is_reported(host: FakeHost, log_output: io.StringIO) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            first = (await daemon.routers.status())["process"]["pid"]
            os.kill(first, signal.SIGKILL)
            await until(lambda: "was ended by signal 9" in log_output.getvalue())
            status = await status_when(daemon, lambda status: status["instances"] and not status["problem"])
            assert status["process"]["pid"] != first
            (event,) = events(daemon, "vrrp_problem")
            assert (
                event["reason"]
                == f"the virtual routers' process {first} has gone (was ended by signal 9); another is started"
            )
            assert host.servers() == {"10.0.0.1"}

    run(scenario())
    assert [each["names"] for each in requests_of(host, "configure")] == [["VI_1"]] * 2
    assert "the virtual routers are as configured again" in log_output.getvalue()


def test_a_restart_that_fails_unexpectedly_is_tried_again(host: FakeHost, log_output: io.StringIO) -> None:
    def fail() -> None:
        host.on_start = lambda: None
        raise RuntimeError("unexpected")

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await status_when(daemon, lambda status: status["instances"])
            host.on_start = fail
            host.processes[-1].kill()
            await until(lambda: "running virtual routers failed and is restarted" in log_output.getvalue())
            await until(lambda: len(host.processes) == 2)
            await status_when(daemon, lambda status: status["instances"])

    run(scenario())


def no_thread(*_: object) -> NoReturn:
    raise BlockingIOError(errno.EAGAIN, "can't start new thread")


def test_without_a_free_thread_the_stop_continues(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            await status_when(daemon, lambda status: status["instances"])
            monkeypatch.setattr(supervision, "to_thread", no_thread)

    run(scenario())
    assert host.servers() == set()
    assert "can't start new thread" in log_output.getvalue()


def test_a_process_without_replies_is_reported_and_a_reload_continues(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            set_behaviour(host.state, silent=["configure", "status"])
            monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", 0.3)
            host.write(service(server(1), server(2)), routers=["VI_2"])
            done = await daemon.reload()
            assert "does not answer" in done.routers.error
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}
            set_behaviour(host.state)
            monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", PATIENCE_S)
            await status_when(daemon, lambda status: not status["problem"])
            assert await states(daemon) == {"VI_2": "MASTER"}

    run(scenario())


def test_at_the_end_a_process_that_hangs_is_killed_and_another_one_removes_its_addresses(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    async def scenario() -> None:
        async with host.daemon():
            monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", 0.3)
            os.kill(host.processes[-1].pid, signal.SIGSTOP)
            monkeypatch.setattr(supervision, "START_TIMEOUT_S", PATIENCE_S)
            host.on_start = lambda: monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", PATIENCE_S)

    run(scenario())
    first, second = host.processes
    assert f"process {first.pid} does not answer: it is killed" in log_output.getvalue()
    assert first.wait(PATIENCE_S) == -signal.SIGKILL
    assert [each["verb"] for each in record(host.state) if each["pid"] == second.pid] == ["configure", "stop"]


def test_a_process_that_hangs_is_killed_within_the_lease_and_another_one_started(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr(supervision, "HEARTBEAT_S", 0.05)
    host.lease_s = 3.0
    host.write(service(server(1)), routers=["VI_1"])

    async def scenario() -> None:
        async with host.daemon() as daemon:
            first = (await daemon.routers.status())["process"]["pid"]
            os.kill(first, signal.SIGSTOP)
            status = await status_when(daemon, lambda status: status["instances"] and not status["problem"])
            while status["process"]["pid"] == first:
                status = await status_when(daemon, lambda status: status["instances"] and not status["problem"])
            reasons = [each["reason"] for each in events(daemon, "vrrp_problem")]
            silent = f"the virtual routers' process {first} has not answered for 3 s; it is killed"
            assert f"{silent}, and another is started" in reasons
            assert silent in log_output.getvalue()
            assert f"process {first} has gone (was ended by signal 9)" in log_output.getvalue()

    run(scenario())


def test_the_next_daemon_kills_a_process_that_hangs(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    async def scenario() -> None:
        async with host.daemon(kill=True):
            pass
        os.kill(host.processes[-1].pid, signal.SIGSTOP)
        monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", 0.3)
        host.on_start = lambda: monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", PATIENCE_S)
        async with host.daemon() as daemon:
            status = await status_when(daemon, lambda status: status["instances"] and not status["problem"])
            assert status["process"]["pid"] == host.processes[-1].pid

    run(scenario())
    assert len(host.processes) == 2
    assert f"process {host.processes[0].pid} has not answered for 0.3 s; it is killed" in log_output.getvalue()


@pytest.mark.parametrize(
    ("other", "version"), [({"version": "0.0.1"}, "0.0.1"), ({"protocol": PROTOCOL - 1}, __version__)]
)
def test_a_process_of_another_version_is_replaced(
    host: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
    log_output: io.StringIO,
    tmp_path: Path,
    other: dict[str, Any],
    version: str,
) -> None:
    ended = tmp_path / "ended"
    there: list[bool] = []
    start = host.start_routers

    def noted(state: StateDirectory, log_format: str) -> subprocess.Popen[bytes]:
        there.append(ended.exists())
        return start(state, log_format)

    monkeypatch.setattr(host, "start_routers", noted)

    async def scenario() -> None:
        async with host.daemon(kill=True):
            pass
        set_behaviour(host.state, **other, takes_s=0.2, leaves=str(ended))
        with Client(host.state / "vrrp"):
            pass

    with pytest.raises(PylvsError, match=rf"run by pylvs {re.escape(version)}, and this is .*; restart pylvs run"):
        run(scenario())

    async def next_one() -> None:
        (first,) = {each["pid"] for each in requests_of(host, "configure")}

        async def soon() -> None:
            await until(lambda: bool(requests_of(host, "stop")))
            set_behaviour(host.state)

        answering = asyncio.create_task(soon())
        async with host.daemon() as daemon:
            assert (await daemon.routers.status())["process"]["pid"] != first
        await answering

    run(next_one())
    assert there == [False, True], "the old one has ended before the new one begins"
    assert "of another version; it is replaced" in log_output.getvalue()


def test_a_process_that_cannot_be_made_harms_no_service(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_state: object, _log_format: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(host, "start_routers", start)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert host.servers() == {"10.0.0.1"}
            status = await daemon.routers.status()
            assert status["problem"] == "no process could be made for the virtual routers: Cannot allocate memory"

    run(scenario())


def test_events_of_the_process_are_events_of_the_daemon(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            await daemon.routers.request("yield", names=[], seconds=60.0)
            await until(lambda: bool(events(daemon, "vrrp_transition")))
            (event,) = events(daemon, "vrrp_transition")
            assert {name: event[name] for name in event if name != "at"} == {
                "event": "vrrp_transition",
                "instance": "VI_1",
                "before": "MASTER",
                "state": "BACKUP",
                "reason": "yielded by the operator",
            }

    run(scenario())


class Broken(MemoryDirector):
    """Tables that cannot be read while `error` has a reason, or that are busy."""

    error = ""
    busy = False

    def edition(self) -> int:
        if self.busy:
            raise Busy("the tables are locked by process 4711")
        if self.error:
            raise Unsupported(self.error)
        return super().edition()


def test_the_loss_of_the_packet_path_and_its_end_are_reported_but_no_foreign_edit(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.daemon.virtual_routers.forwarding.FAULT_AFTER_S", 0.0)
    for name in ("virtual_routers.forwarding.POLL_S", "table.reconciler.POLL_S"):
        monkeypatch.setattr(f"pylvs.daemon.{name}", 0.02)
    tables = host.tables = Broken()
    errors: list[str | None] = []
    forwarding_error = Supervisor._forwarding_error

    def noted(daemon: Supervisor) -> str | None:
        errors.append(forwarding_error(daemon))
        return errors[-1]

    monkeypatch.setattr(Supervisor, "_forwarding_error", noted)

    def reports() -> list[tuple[bool, str]]:
        """Return the reports that differ from the one before."""
        every = [(each["up"], each["reason"]) for each in requests_of(host, "data_plane")]
        return [each for at, each in enumerate(every) if not at or each != every[at - 1]]

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: reports() == [(True, "")])
            tables.busy = True
            await until(lambda: daemon.reconciler.last.busy)
            seen = len(errors)
            await until(lambda: len(errors) > seen + 3)
            tables.error, tables.busy = "no BPF here any more", False
            await until(lambda: len(reports()) == 2)
            assert (await daemon.routers.status())["data_plane"] == {"up": False, "reason": "no BPF here any more"}
            tables.error = ""
            await until(lambda: len(reports()) == 3)

    run(scenario())
    assert reports() == [(True, ""), (False, "no BPF here any more"), (True, "")]
