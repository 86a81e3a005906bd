"""What the daemon does to the table at its start, at reloads, at its stop, and after a crash."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from pylvs.cli.status import lines as status_lines
from pylvs.config.findings import Finding, Location, Severity
from pylvs.daemon.api.client import Client
from pylvs.daemon.loading import Loaded, Refused
from pylvs.daemon.options import Options
from pylvs.health.outcome import Outcome
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.errors import Busy
from pylvs.model.service import Timeouts, VirtualService
from tests.unit.daemon.daemons import FOREIGN, OTHER, WEB, World, address, run, server, service, until

PLACE = Location("test.conf", 3, 5)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state")


def test_the_table_has_the_services_while_the_daemon_runs_and_keeps_foreign_ones(world: World) -> None:
    world.tables.add_service(VirtualService(FOREIGN))
    world.write(service(server(1), server(2, weight=3)), service(server(1), key=OTHER), lvs_timeouts=Timeouts(9, 8, 7))

    async def scenario() -> None:
        async with world.daemon():
            assert world.table() == {
                "FWM 7": {},
                "TCP 192.0.2.1:80": {"10.0.0.1": 1, "10.0.0.2": 3},
                "TCP 192.0.2.1:443": {"10.0.0.1": 1},
            }
            assert world.tables.timeouts() == Timeouts(9, 8, 7)
            assert (world.state / "control").is_socket()
        assert world.table() == {"FWM 7": {}}
        assert not world.state.exists()

    run(scenario())


@pytest.mark.parametrize(("settings", "left"), [({}, {"FWM 7"}), ({"lvs_flush_on_stop": "all"}, set())])
def test_the_end_can_take_everything(world: World, settings: dict[str, Any], left: set[str]) -> None:
    world.write(service(server(1)), **settings)

    async def scenario() -> None:
        async with world.daemon():
            world.tables.add_service(VirtualService(FOREIGN))
        assert set(world.table()) == left

    run(scenario())


def test_the_end_can_leave_everything(world: World) -> None:
    async def scenario() -> None:
        async with world.daemon(keep_table=True):
            pass
        assert world.servers() == {"10.0.0.1", "10.0.0.2"}

    run(scenario())


def test_lvs_flush_empties_the_table_but_not_what_is_wanted(world: World) -> None:
    world.tables.add_service(VirtualService(FOREIGN))
    world.tables.add_service(VirtualService(WEB))
    world.tables.add_destination(WEB, Destination(DestinationKey(address(1), 80)))
    before = world.tables.edition()
    world.write(service(server(1)), lvs_flush=True)

    async def scenario() -> None:
        async with world.daemon() as daemon:
            assert set(world.table()) == {"TCP 192.0.2.1:80"}
            assert world.tables.edition() == before + 1
            world.tables.add_service(VirtualService(FOREIGN))
            await daemon.reconciler.reconcile()
            assert set(world.table()) == {"TCP 192.0.2.1:80", "FWM 7"}

    run(scenario())


def test_a_dead_server_leaves_and_comes_back(world: World) -> None:
    async def scenario() -> None:
        async with world.daemon():
            world.dead.add(address(1))
            await until(lambda: world.servers() == {"10.0.0.2"})
            world.dead.clear()
            await until(lambda: world.servers() == {"10.0.0.1", "10.0.0.2"})

    run(scenario())


def test_the_host_gets_events_in_order(world: World) -> None:
    """The events from the start to the stop, with omega."""
    world.write(service(server(1), omega=True))

    async def scenario() -> None:
        async with world.daemon():
            world.dead = {address(1)}
            await until(lambda: not world.servers())
            world.dead = set()
            await until(lambda: bool(world.servers()))

    run(scenario())
    reported = [event.name for event in world.notified if not event.name.startswith("check_")]
    assert reported == [
        "quorum_gained",
        *("server_down", "quorum_lost"),
        *("server_up", "quorum_gained"),
        *("server_down", "quorum_lost"),
    ]
    assert [getattr(event, "ending", False) for event in world.notified[-2:]] == [True, True]


def test_foreign_edits_are_reverted_and_logged(world: World, log_output: io.StringIO) -> None:
    async def scenario() -> None:
        async with world.daemon() as daemon:
            world.tables.delete_service(WEB)
            await until(lambda: world.servers() == {"10.0.0.1", "10.0.0.2"})
            await until(lambda: daemon.reconciler.edit_counts["restored"] == 3)

    run(scenario())
    lines = [line.partition(" warning: ")[2] for line in log_output.getvalue().splitlines() if "restored" in line]
    assert lines == [
        "restored: TCP 192.0.2.1:80 was removed",
        "restored: TCP 192.0.2.1:80 -> 10.0.0.1:80 was removed",
        "restored: TCP 192.0.2.1:80 -> 10.0.0.2:80 was removed",
    ]


def test_without_checks_every_server_is_up(world: World) -> None:
    world.dead.add(address(1))
    world.write(service(server(1, alpha=True), server(2)))

    async def scenario() -> None:
        async with world.daemon(checks=False):
            assert world.servers() == {"10.0.0.1", "10.0.0.2"}
        assert world.probes == {}

    run(scenario())


def test_a_killed_daemon_leaves_the_table_and_the_next_one_continues(world: World) -> None:
    world.tables.add_service(VirtualService(FOREIGN))
    world.write(service(server(1), server(2)), service(server(1), key=OTHER))

    async def scenario() -> None:
        async with world.daemon(kill=True):
            world.dead.add(address(1))
            await until(lambda: world.servers() == {"10.0.0.2"} and not world.servers(OTHER))
        assert world.servers() == {"10.0.0.2"}
        before = world.tables.edition()
        # What was down stays down until it is checked. What is new is up at once. What is no longer desired is deleted.
        world.dead.clear()
        slow = server(1)
        world.write(service(slow, server(2), server(3)))
        async with world.daemon():
            await until(lambda: world.servers() == {"10.0.0.1", "10.0.0.2", "10.0.0.3"})
            assert set(world.table()) == {"TCP 192.0.2.1:80", "FWM 7"}
            assert world.tables.edition() == before + 3, "one service removed, server 3 added, then server 1"

    run(scenario())


def test_a_daemon_that_is_cancelled_leaves_no_probe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    async def probe() -> Outcome:
        begun.append(1)
        await asyncio.Event().wait()
        return Outcome(True, "never")

    monkeypatch.setattr(world, "probe_of", lambda *_: probe)

    async def scenario() -> None:
        async with world.daemon(kill=True):
            await until(lambda: len(begun) == 2)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


def test_a_server_that_a_reload_brings_in_has_a_line_in_the_log(world: World, log_output: io.StringIO) -> None:
    async def scenario() -> None:
        async with world.daemon() as daemon:
            assert "server added" not in log_output.getvalue()
            world.write(service(server(1), server(2), server(3, weight=5)))
            await daemon.reload()

    run(scenario())
    (line,) = [line.split(" ", 1)[1] for line in log_output.getvalue().splitlines() if "server added" in line]
    assert line == (
        f"info: server added (service={WEB}, weight=5, up=True, server=10.0.0.3:80, reason=new in the configuration)"
    )


def test_the_garbage_is_settled_at_the_start_and_at_each_reload(world: World, settled: list[int]) -> None:
    async def scenario() -> None:
        async with world.daemon() as daemon:
            assert len(settled) == 1
            await daemon.reload()
            assert len(settled) == 2

    run(scenario())


def test_a_reload_touches_only_what_changed(world: World) -> None:
    world.write(service(server(1), server(2)), service(server(1), key=OTHER))

    async def scenario() -> None:
        async with world.daemon() as daemon:
            before = world.tables.edition()
            world.write(service(server(1), server(2, weight=5)), service(server(1), key=OTHER))
            dry = await daemon.reload(dry_run=True)
            assert (dry.table, dry.differences) == (None, ("2 -> 2 services",))
            assert world.tables.edition() == before
            done = await daemon.reload()
            assert done.table is not None
            assert (done.table.edits, world.tables.edition()) == (1, before + 1)
            assert world.table()["TCP 192.0.2.1:80"]["10.0.0.2"] == 5
            again = await daemon.reload()
            assert (again.differences, world.tables.edition()) == ((), before + 1)
            world.write(service(server(1), key=OTHER))
            await daemon.reload()
            assert set(world.table()) == {"TCP 192.0.2.1:443"}
            assert daemon.reloads == {"done": 3}

    run(scenario())


def test_a_broken_or_empty_file_changes_nothing(world: World) -> None:
    good = service(server(1), server(2))

    async def scenario() -> None:
        async with world.daemon() as daemon:
            world.write(service(server(1)), findings=[Finding(PLACE, Severity.ERROR, "a } is missing", fatal=True)])
            with pytest.raises(Refused, match=r"test\.conf:3:5: error: a } is missing") as refused:
                await daemon.reload()
            assert len(refused.value.findings) == 1
            world.write()
            with pytest.raises(Refused, match="says nothing"):
                await daemon.reload()
            assert world.servers() == {"10.0.0.1", "10.0.0.2"}
            assert daemon.reloads == {"refused": 2}
            world.write(service(server(1)), findings=[Finding(PLACE, Severity.ERROR, "an unknown word")])
            for dry_run in True, False:
                with pytest.raises(Refused, match=r"1 error; .* --force: .*an unknown word"):
                    await daemon.reload(dry_run)
            assert world.servers() == {"10.0.0.1", "10.0.0.2"}
            await daemon.reload(force=True)
            assert world.servers() == {"10.0.0.1"}
            world.write(good, findings=[Finding(PLACE, Severity.WARNING, "odd")])
            await daemon.reload()
            world.write()
            await daemon.reload(allow_empty=True)
            assert world.table() == {}

    run(scenario())


def test_a_start_with_errors_is_a_start_and_they_stay_visible(world: World) -> None:
    world.write(service(server(1)), findings=[Finding(PLACE, Severity.ERROR, "an unknown word", "write another")])

    async def scenario() -> None:
        async with world.daemon():
            assert world.servers() == {"10.0.0.1"}
            client = Client(world.state)
            _, reported = await asyncio.to_thread(client.ask, "GET", "/v1/status")
            assert reported["errors"] == ["test.conf:3:5: error: an unknown word; write another"]
            assert "left out of the file:" in list(status_lines(reported))

    run(scenario())


def test_strict_runs_nothing_that_has_a_finding(world: World) -> None:
    finding = Finding(PLACE, Severity.WARNING, "odd", "think again")

    async def scenario() -> None:
        async with world.daemon(strict=True) as daemon:
            world.write(service(server(1)), findings=[finding])
            with pytest.raises(Refused, match=r"1 finding, and --strict runs none: test\.conf:3:5: warning: odd"):
                await daemon.reload()
        with pytest.raises(Refused):
            async with world.daemon(strict=True):
                pass
        assert not world.state.exists()

    run(scenario())


def test_reloads_at_once_are_done_one_after_the_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with world.daemon() as daemon:
            weights = iter(range(2, 9))
            load = world.load
            under_way: list[Options] = []

            def one_at_a_time(options: Options) -> Loaded:
                assert not under_way
                under_way.append(options)
                world.write(service(server(1, weight=next(weights))))
                found = load(options)
                under_way.clear()
                return found

            monkeypatch.setattr(world, "load", one_at_a_time)
            done = await asyncio.gather(*(daemon.reload() for _ in range(5)))
            assert [each.table.edits for each in done if each.table] == [2, 1, 1, 1, 1]
            assert world.table() == {"TCP 192.0.2.1:80": {"10.0.0.1": 6}}

    run(scenario())


def test_a_second_daemon_is_refused_and_the_first_continues(world: World) -> None:
    async def scenario() -> None:
        async with world.daemon():
            with pytest.raises(Busy, match="pylvs run is there already"):
                async with world.daemon():
                    pass
            assert world.servers() == {"10.0.0.1", "10.0.0.2"}
            assert (world.state / "control").is_socket()

    run(scenario())


def test_overrides_survive_reload_crash_and_restart(world: World) -> None:
    wanted = (service(server(1), server(2)),)

    async def scenario() -> None:
        async with world.daemon(kill=True) as daemon:
            daemon.engine.drain(address(1))
            await until(lambda: world.table()["TCP 192.0.2.1:80"]["10.0.0.1"] == 0)
            world.write(service(server(1, weight=9), server(2)))
            await daemon.reload()
            assert world.table()["TCP 192.0.2.1:80"]["10.0.0.1"] == 0
        world.write(*wanted)
        async with world.daemon():
            assert world.table()["TCP 192.0.2.1:80"] == {"10.0.0.1": 0, "10.0.0.2": 1}
        assert world.table() == {}
        async with world.daemon() as daemon:
            assert world.table()["TCP 192.0.2.1:80"] == {"10.0.0.1": 0, "10.0.0.2": 1}
            daemon.engine.enable(address(1))
            await until(lambda: world.table()["TCP 192.0.2.1:80"]["10.0.0.1"] == 1)
        assert not world.state.exists()

    run(scenario())
