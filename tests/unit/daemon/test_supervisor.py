"""The daemon's edits of the table at its start, at reloads, at its stop, and after a crash."""

from __future__ import annotations

import asyncio
import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pylvs.cli.daemon import lines as status_lines
from pylvs.config.language.tree import Finding, Location, Severity
from pylvs.daemon import Options, supervisor
from pylvs.daemon.api.client import Client
from pylvs.daemon.loading import Loaded, Refused
from pylvs.daemon.state import drains
from pylvs.health.probes import Outcome
from pylvs.model.errors import Busy, PylvsError
from pylvs.model.service import Destination, DestinationKey, Timeouts, VirtualService
from pylvs.model.wanted import Configuration
from pylvs.system.threads import to_thread
from tests.shortages import failing
from tests.unit.daemon.daemons import FOREIGN, OTHER, WEB, FakeHost, address, run, server, service, until

LOCATION = Location("test.conf", 3, 5)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path / "state")


def test_the_table_has_the_services_while_the_daemon_runs_and_keeps_foreign_ones(host: FakeHost) -> None:
    host.tables.add_service(VirtualService(FOREIGN))
    host.write(service(server(1), server(2, weight=3)), service(server(1), key=OTHER), lvs_timeouts=Timeouts(9, 8, 7))

    async def scenario() -> None:
        async with host.daemon():
            assert host.table() == {
                "FWM 7": {},
                "TCP 192.0.2.1:80": {"10.0.0.1": 1, "10.0.0.2": 3},
                "TCP 192.0.2.1:443": {"10.0.0.1": 1},
            }
            assert host.tables.timeouts() == Timeouts(9, 8, 7)
            assert (host.state / "control").is_socket()
        assert host.tables.timeouts() == Timeouts()
        assert host.table() == {"FWM 7": {}}
        assert host.left() <= {"events.jsonl"}

    run(scenario())


@pytest.mark.parametrize(("settings", "left"), [({}, {"FWM 7"}), ({"lvs_flush_on_stop": "all"}, set())])
def test_the_stop_can_remove_all_services(host: FakeHost, settings: dict[str, Any], left: set[str]) -> None:
    host.write(service(server(1)), **settings)

    async def scenario() -> None:
        async with host.daemon():
            host.tables.add_service(VirtualService(FOREIGN))
        assert set(host.table()) == left

    run(scenario())


def test_the_stop_can_leave_all_services(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon(keep_table=True):
            pass
        assert host.servers() == {"10.0.0.1", "10.0.0.2"}

    run(scenario())


def test_lvs_flush_empties_the_table_except_desired_services(host: FakeHost) -> None:
    host.tables.add_service(VirtualService(FOREIGN))
    host.tables.add_service(VirtualService(WEB))
    host.tables.add_destination(WEB, Destination(DestinationKey(address(1), 80)))
    before = host.tables.edition()
    host.write(service(server(1)), lvs_flush=True)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert set(host.table()) == {"TCP 192.0.2.1:80"}
            assert host.tables.edition() == before + 1
            host.tables.add_service(VirtualService(FOREIGN))
            await daemon.reconciler.reconcile()
            assert set(host.table()) == {"TCP 192.0.2.1:80", "FWM 7"}

    run(scenario())


def test_a_dead_server_leaves_and_comes_back(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon():
            host.dead.add(address(1))
            await until(lambda: host.servers() == {"10.0.0.2"})
            host.dead.clear()
            await until(lambda: host.servers() == {"10.0.0.1", "10.0.0.2"})

    run(scenario())


def test_the_host_gets_events_in_order(host: FakeHost) -> None:
    """The events from the start to the stop, with omega."""
    host.write(service(server(1), omega=True))

    async def scenario() -> None:
        async with host.daemon():
            host.dead = {address(1)}
            await until(lambda: not host.servers())
            host.dead = set()
            await until(lambda: bool(host.servers()))

    run(scenario())
    reported = [event.name for event in host.notified if not event.name.startswith("check_")]
    assert reported == [
        "quorum_gained",
        *("server_down", "quorum_lost"),
        *("server_up", "quorum_gained"),
        *("server_down", "quorum_lost"),
    ]
    assert [getattr(event, "ending", False) for event in host.notified[-2:]] == [True, True]


def test_foreign_edits_are_reverted_and_logged(host: FakeHost, log_output: io.StringIO) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.tables.delete_service(WEB)
            await until(lambda: host.servers() == {"10.0.0.1", "10.0.0.2"})
            await until(lambda: daemon.reconciler.edit_counts["restored"] == 3)

    run(scenario())
    lines = [line.partition(" warning: ")[2] for line in log_output.getvalue().splitlines() if "restored" in line]
    assert lines == [
        "restored: TCP 192.0.2.1:80 was removed",
        "restored: TCP 192.0.2.1:80 -> 10.0.0.1:80 was removed",
        "restored: TCP 192.0.2.1:80 -> 10.0.0.2:80 was removed",
    ]


def test_without_checks_every_server_is_up(host: FakeHost) -> None:
    host.dead.add(address(1))
    host.write(service(server(1, alpha=True), server(2)))

    async def scenario() -> None:
        async with host.daemon(checks=False):
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}
        assert host.probes == {}

    run(scenario())


def test_a_killed_daemon_leaves_the_table_and_the_next_one_continues(host: FakeHost) -> None:
    host.tables.add_service(VirtualService(FOREIGN))
    host.write(service(server(1), server(2)), service(server(1), key=OTHER))

    async def scenario() -> None:
        async with host.daemon(kill=True):
            host.dead.add(address(1))
            await until(lambda: host.servers() == {"10.0.0.2"} and not host.servers(OTHER))
        assert host.servers() == {"10.0.0.2"}
        before = host.tables.edition()
        # What was down stays down until it is checked. What is new is up at once. What is no longer desired is deleted.
        host.dead.clear()
        slow = server(1)
        host.write(service(slow, server(2), server(3)))
        async with host.daemon():
            await until(lambda: host.servers() == {"10.0.0.1", "10.0.0.2", "10.0.0.3"})
            assert set(host.table()) == {"TCP 192.0.2.1:80", "FWM 7"}
            assert host.tables.edition() == before + 3, "one service removed, server 3 added, then server 1"

    run(scenario())


def test_a_daemon_that_is_cancelled_leaves_no_probe(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    async def probe() -> Outcome:
        begun.append(1)
        await asyncio.Event().wait()
        return Outcome(True, "never")

    monkeypatch.setattr(host, "probe_of", lambda *_: probe)

    async def scenario() -> None:
        async with host.daemon(kill=True):
            await until(lambda: len(begun) == 2)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


def test_a_server_that_a_reload_adds_is_logged(host: FakeHost, log_output: io.StringIO) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert "server added" not in log_output.getvalue()
            host.write(service(server(1), server(2), server(3, weight=5)))
            await daemon.reload()

    run(scenario())
    (line,) = [line.split(" ", 1)[1] for line in log_output.getvalue().splitlines() if "server added" in line]
    assert line == (
        f"info: server added (service={WEB}, weight=5, up=True, server=10.0.0.3:80, reason=new in the configuration)"
    )


def test_the_garbage_is_settled_at_the_start_and_at_each_reload(host: FakeHost, settled: list[int]) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert len(settled) == 1
            await daemon.reload()
            assert len(settled) == 2

    run(scenario())


def test_a_reload_touches_only_what_changed(host: FakeHost) -> None:
    host.write(service(server(1), server(2)), service(server(1), key=OTHER))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            before = host.tables.edition()
            host.write(service(server(1), server(2, weight=5)), service(server(1), key=OTHER))
            dry = await daemon.reload(dry_run=True)
            assert (dry.table, dry.differences) == (None, ("2 -> 2 services",))
            assert host.tables.edition() == before
            done = await daemon.reload()
            assert done.table is not None
            assert (done.table.edits, host.tables.edition()) == (1, before + 1)
            assert host.table()["TCP 192.0.2.1:80"]["10.0.0.2"] == 5
            again = await daemon.reload()
            assert (again.differences, host.tables.edition()) == ((), before + 1)
            host.write(service(server(1), key=OTHER))
            await daemon.reload()
            assert set(host.table()) == {"TCP 192.0.2.1:443"}
            assert daemon.reloads == {"done": 3}

    run(scenario())


def test_a_broken_or_empty_file_changes_nothing(host: FakeHost) -> None:
    good = service(server(1), server(2))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.write(service(server(1)), findings=[Finding(LOCATION, Severity.ERROR, "a } is missing", fatal=True)])
            with pytest.raises(Refused, match=r"test\.conf:3:5: error: a } is missing") as refused:
                await daemon.reload()
            assert len(refused.value.findings) == 1
            host.write()
            with pytest.raises(Refused, match="is empty"):
                await daemon.reload()
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}
            assert daemon.reloads == {"refused": 2}
            host.write(service(server(1)), findings=[Finding(LOCATION, Severity.ERROR, "an unknown word")])
            for dry_run in True, False:
                with pytest.raises(Refused, match=r"1 new mistake; .* --force: .*an unknown word"):
                    await daemon.reload(dry_run)
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}
            await daemon.reload(force=True)
            assert host.servers() == {"10.0.0.1"}
            host.write(good, findings=[Finding(LOCATION, Severity.WARNING, "unusual")])
            await daemon.reload()
            host.write()
            await daemon.reload(allow_empty=True)
            assert host.table() == {}

    run(scenario())


def not_permitted(*_: object) -> NoReturn:
    raise PylvsError("not permitted")


def without_memory(*_: object) -> NoReturn:
    raise MemoryError


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (failing(errno.EMFILE), "this process has too many open files"),
        (failing(errno.EIO), "[Errno 5] Input/output error"),
        (without_memory, "no memory on this machine"),
        (not_permitted, "not permitted"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported(
    host: FakeHost,
    load: Callable[..., NoReturn],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    log_output: io.StringIO,
) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            monkeypatch.setattr(host, "load", load)
            await daemon._reload_by_signal()
            assert log_output.getvalue().count(f"error: not reloaded: {reason}") == 1
            (event,) = [each for each in daemon.events.recent() if each["event"] == "reload_refused"]
            assert event["reason"] == reason
            assert daemon.reloads == {"refused": 1}
            with pytest.raises((PylvsError, OSError, MemoryError)):
                await daemon.reload(dry_run=True)
            assert daemon.reloads == {"refused": 1}

    run(scenario())


@pytest.mark.parametrize("missing", ["load", "differences"])
def test_without_a_free_thread_a_reload_is_refused(
    missing: str, host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    """The API, which starts threads at any time, has one."""

    async def short(call: Callable[..., Any], *arguments: Any) -> Any:
        if call == getattr(host, missing):
            raise BlockingIOError(errno.EAGAIN, "can't start new thread")
        return await to_thread(call, *arguments)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.write(service(server(1), server(3)))
            before = host.table()
            with monkeypatch.context() as limit:
                limit.setattr(supervisor, "to_thread", short)
                with pytest.raises((OSError, Refused), match="can't start new thread"):
                    await daemon.reload()
            assert (host.table(), daemon.reloads) == (before, {"refused": 1})
            (event,) = [each for each in daemon.events.recent() if each["event"] == "reload_refused"]
            assert f"error: not reloaded: {event['reason']}\n" in log_output.getvalue()
            await daemon.reload()
            assert host.table() != before

    run(scenario())
    assert "Traceback" not in log_output.getvalue()


def test_a_shortage_is_no_bug_for_the_api(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            monkeypatch.setattr(daemon, "reload", failing(errno.EMFILE))
            status, reply = await asyncio.to_thread(Client(host.state).ask, "POST", "/v1/reload")
            assert (status, reply) == (503, {"error": "this process has too many open files"})

    run(scenario())


def test_settings_that_cannot_be_applied_leave_the_former_ones(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Configuration] = []

    def configure(configuration: Configuration) -> None:
        given.append(configuration)
        if len(given) == 1:
            raise OSError(errno.EMFILE, "no descriptor")

    async def scenario() -> None:
        async with host.daemon() as daemon:
            monkeypatch.setattr(host, "configure", configure)
            host.write(service(server(1)))
            with pytest.raises(OSError, match="no descriptor"):
                await daemon.reload()
            assert daemon.reloads == {"refused": 1}
            assert given[1:] == [daemon.engine.configuration]

    run(scenario())


@pytest.mark.parametrize("fail", [failing(errno.EMFILE), not_permitted])
def test_a_reload_is_in_force_although_addresses_cannot_be_read(
    host: FakeHost, fail: Callable[..., NoReturn], monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[str] = []

    async def scenario() -> None:
        async with host.daemon() as daemon:
            monkeypatch.setattr(host, "addresses", fail)
            for part in ("_snmp", "_dbus", "_reload_timer"):

                async def apply(_configuration: object, part: str = part) -> None:
                    followed.append(part)

                monkeypatch.setattr(getattr(daemon, part), "apply", apply)
            host.write(service(server(1)))
            await daemon.reload()
            assert daemon.reloads == {"done": 1}
            assert "reloaded" in [each["event"] for each in daemon.events.recent()]

    run(scenario())
    assert followed == ["_snmp", "_dbus", "_reload_timer"]


def test_a_start_with_errors_runs_and_status_lists_them(host: FakeHost) -> None:
    host.write(service(server(1)), findings=[Finding(LOCATION, Severity.ERROR, "an unknown word", "write another")])

    async def scenario() -> None:
        async with host.daemon():
            assert host.servers() == {"10.0.0.1"}
            client = Client(host.state)
            _, reported = await asyncio.to_thread(client.ask, "GET", "/v1/status")
            assert reported["errors"] == ["test.conf:3:5: error: an unknown word; write another"]
            assert "left out of the file:" in list(status_lines(reported))

    run(scenario())


def test_strict_refuses_a_file_with_a_finding(host: FakeHost) -> None:
    finding = Finding(LOCATION, Severity.WARNING, "unusual", "think again")

    async def scenario() -> None:
        async with host.daemon(strict=True) as daemon:
            host.write(service(server(1)), findings=[finding])
            with pytest.raises(Refused, match=r"1 finding, and --strict runs none: test\.conf:3:5: warning: unusual"):
                await daemon.reload()
        with pytest.raises(Refused):
            async with host.daemon(strict=True):
                pass
        assert host.left() <= {"events.jsonl"}

    run(scenario())


def test_reloads_at_once_are_done_one_after_the_other(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            weights = iter(range(2, 9))
            load = host.load
            under_way: list[Options] = []

            def one_at_a_time(options: Options) -> Loaded:
                assert not under_way
                under_way.append(options)
                host.write(service(server(1, weight=next(weights))))
                found = load(options)
                under_way.clear()
                return found

            monkeypatch.setattr(host, "load", one_at_a_time)
            done = await asyncio.gather(*(daemon.reload() for _ in range(5)))
            assert [each.table.edits for each in done if each.table] == [2, 1, 1, 1, 1]
            assert host.table() == {"TCP 192.0.2.1:80": {"10.0.0.1": 6}}

    run(scenario())


def test_a_second_daemon_is_refused_and_the_first_continues(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon():
            with pytest.raises(Busy, match="pylvs run is there already"):
                async with host.daemon():
                    pass
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}
            assert (host.state / "control").is_socket()

    run(scenario())


def test_overrides_survive_reload_crash_and_restart(host: FakeHost) -> None:
    wanted = (service(server(1), server(2)),)

    async def scenario() -> None:
        async with host.daemon(kill=True) as daemon:
            daemon.engine.drain(address(1))
            await until(lambda: host.table()["TCP 192.0.2.1:80"]["10.0.0.1"] == 0)
            host.write(service(server(1, weight=9), server(2)))
            await daemon.reload()
            assert host.table()["TCP 192.0.2.1:80"]["10.0.0.1"] == 0
        host.write(*wanted)
        async with host.daemon():
            assert host.table()["TCP 192.0.2.1:80"] == {"10.0.0.1": 0, "10.0.0.2": 1}
        assert host.table() == {}
        async with host.daemon() as daemon:
            assert host.table()["TCP 192.0.2.1:80"] == {"10.0.0.1": 0, "10.0.0.2": 1}
            daemon.engine.enable(address(1))
            await until(lambda: host.table()["TCP 192.0.2.1:80"]["10.0.0.1"] == 1)
        assert host.left() <= {"events.jsonl"}

    run(scenario())


@pytest.mark.parametrize("keep", [True, False])
def test_overrides_and_drains_follow_a_unit_whose_instance_changes(
    host: FakeHost, tmp_path: Path, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYLVS_UNIT", "pylvs.service")
    monkeypatch.setattr("pylvs.daemon.units.UNITS", tmp_path / "units")
    monkeypatch.setattr(drains.Drain, "count", lambda self, found: None)  # no connection ends
    host.write(service(server(1), server(2), server(3)))

    async def scenario() -> None:
        for at, instance in enumerate(("blue", "red", "blue")):
            host.state = tmp_path / instance
            async with host.daemon() as daemon:
                if at == 0:
                    daemon.engine.disable(address(1))
                    daemon.drains.begin(address(2), None, None, force=False)
                    await daemon.reconciler.reconcile()
                await daemon.drains.poll()
                assert host.table()["TCP 192.0.2.1:80"] == {"10.0.0.2": 0, "10.0.0.3": 1}
                assert [each.stage for each in daemon.drains.all()] == [drains.Stage.WAITING]
                await daemon.services.saved()
                if keep:
                    daemon.stop(keep=True)

    run(scenario())
