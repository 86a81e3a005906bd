"""The daemon follows the addresses and devices of its host."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import pytest

from pylvs.daemon.host.changes import HostChanges, call_at_changes
from pylvs.daemon.host.services import HostServices
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.table.cache import TableCache
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.daemon.virtual_routers.forwarding import FAULT_AFTER_S
from pylvs.dataplane.watch import GATHER_S, RETRY_S
from pylvs.health.engine import Engine
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy, PylvsError
from pylvs.netlink.codec import Netlink, NetlinkError
from pylvs.netlink.links import devices
from pylvs.system.table_thread import TableThread
from tests.unit.daemon.daemons import VIP, FakeHost, run, server, service, until
from tests.unit.health.clock import START_S, FakeTimeLoop
from tests.waiting import PATIENCE_S


def test_an_update_that_waited_long_delays_the_next_one_by_seconds() -> None:
    """A director that gets its address must check its servers, even if the table was locked for long."""
    loop = FakeTimeLoop()
    changed = asyncio.Event()
    begun: list[float] = []

    async def update() -> float:
        begun.append(loop.time() - START_S)
        if len(begun) == 1:
            await asyncio.sleep(60)
            changed.set()
        return 3600.0

    with patch.object(time, "monotonic", loop.time):
        task = loop.create_task(call_at_changes(update, changed))
        loop.pass_(600)
        task.cancel()
        loop.close()
    first, second = begun
    assert 60 < second - first <= 60 + RETRY_S + GATHER_S


@pytest.mark.parametrize("turns", range(6))
def test_an_end_at_the_moment_of_a_change_is_not_lost(turns: int) -> None:
    async def scenario() -> None:
        changed = asyncio.Event()

        async def update() -> float:
            return 3600.0

        with patch("pylvs.daemon.host.changes.GATHER_S", 0), patch("pylvs.daemon.host.changes.RETRY_S", 0):
            task = asyncio.create_task(call_at_changes(update, changed))
            await asyncio.sleep(0.01)  # it waits for a change
            changed.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=PATIENCE_S / 10)
        assert done, "the cancellation was lost"

    run(scenario())


def test_checks_follow_addresses_although_the_tables_cannot(tmp_path: Path) -> None:
    """With ha_suspend, a director that has the address must check its servers, even while devices are not attached."""
    host = FakeHost(tmp_path)
    present: list[Address] = []
    host.write(service(server(1), ha_suspend=True))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await daemon.host_changes.follow()
            present.append(VIP)
            with patch.object(host.tables, "follow_host", side_effect=Busy("the tables are locked")):
                before = dict(host.probes)
                with contextlib.suppress(Busy):
                    await daemon.host_changes.follow()
                await until(lambda: host.probes != before)

    with patch.object(host, "addresses", lambda: present):
        run(scenario())


@contextlib.asynccontextmanager
async def host_changes(host: FakeHost) -> AsyncIterator[HostChanges]:
    thread = TableThread("test")
    engine = Engine(host.file.configuration, host.probe_of)
    services: Any = SimpleNamespace(engine=engine, reconciler=SimpleNamespace(table=TableCache(host.tables)))
    yield HostChanges(host, StateDirectory(host.state), thread, services)
    await engine.close()
    thread.close()


def test_tables_that_others_lock_are_not_lost(tmp_path: Path) -> None:
    """The attached devices forward as before: with track_data_plane no master must change to fault."""
    host = FakeHost(tmp_path)

    async def scenario() -> None:
        async with host_changes(host) as changes:
            with patch.object(host.tables, "follow_host", side_effect=Busy("the tables are locked")):
                for _ in range(3):
                    with pytest.raises(Busy):
                        await changes.follow()
                    assert changes.error == ""
            await changes.follow()

    run(scenario())


@pytest.mark.parametrize("what", ["addresses", "adapt_host", "follow_host"])
def test_a_failure_to_follow_the_host_counts_when_it_is_repeated(tmp_path: Path, what: str) -> None:
    host = FakeHost(tmp_path)
    part: Any = {"addresses": host, "adapt_host": host.vip_checks, "follow_host": host.tables}[what]

    async def scenario() -> None:
        async with host_changes(host) as changes:
            errors = []
            for _ in range(2):
                with patch.object(part, what, side_effect=OSError(errno.ENOBUFS, "no buffer")), pytest.raises(OSError):
                    await changes.follow()
                errors.append(changes.error)
            await changes.follow()
            assert [*errors, changes.error] == ["", f"[Errno {errno.ENOBUFS}] no buffer", ""]

    run(scenario())


def test_what_other_programs_changed_is_logged_when_it_is_put_right(tmp_path: Path, log_output: io.StringIO) -> None:
    host = FakeHost(tmp_path)
    line = "eth0: its program was removed, and is attached again"

    async def scenario() -> None:
        async with host_changes(host) as changes:
            with patch.object(host.tables, "follow_host", return_value=[line]):
                await changes.follow()
            await changes.follow()

    run(scenario())
    assert log_output.getvalue().count(f"warning: {line}\n") == 1


def test_after_a_failure_the_host_is_followed_again_before_the_loss_counts(log_output: io.StringIO) -> None:
    loop = FakeTimeLoop()
    begun: list[float] = []

    async def update() -> float:
        begun.append(loop.time())
        raise OSError("no buffer" if len(begun) < 3 else "no descriptor")

    with patch.object(time, "monotonic", loop.time):
        task = loop.create_task(call_at_changes(update, asyncio.Event()))
        loop.pass_(10)
        task.cancel()
        loop.close()
    assert all(later - earlier < FAULT_AFTER_S / 2 for earlier, later in pairwise(begun))
    assert log_output.getvalue().count("could not follow addresses and devices") == 2, "each reason once"


def test_a_second_cancellation_does_not_disturb_the_cleanup_of_a_task() -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            done.append("cleaned up")

    async def scenario() -> None:
        async with BackgroundTasks() as tasks:
            tasks.start(work())
            await asyncio.sleep(0)
            tasks.cancel()
            await asyncio.sleep(0)  # the cleanup has begun

    asyncio.run(scenario())
    assert done == ["cleaned up"]


def test_a_task_whose_timeout_expires_at_the_same_moment_ends() -> None:
    async def work() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()

    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S), BackgroundTasks() as tasks:
            tasks.keep_running(work, "waiting")
            (task,) = asyncio.all_tasks() - {asyncio.current_task()}
            while not task.cancelling():  # by the timeout
                await asyncio.sleep(0)

    asyncio.run(scenario())


def test_the_kernels_refusal_to_list_addresses_is_an_error_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> NoReturn:
        raise NetlinkError(errno.ENOBUFS, "")

    monkeypatch.setattr(Netlink, "dump", refused)
    for read in (HostServices().addresses, devices):
        with pytest.raises(PylvsError, match=r"^asking for all .*: No buffer space available$") as raised:
            read()
        assert raised.value.errno == errno.ENOBUFS
