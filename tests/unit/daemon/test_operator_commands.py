"""Operator commands over the API: drain, enable, disable, weight, check-now, history, status, events."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pylvs.cli import daemon as views
from pylvs.cli import group as cli
from pylvs.cli import servers as verbs
from pylvs.daemon import supervisor
from pylvs.daemon.api.client import Client
from pylvs.daemon.state import drains, overrides
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.errors import PylvsError
from pylvs.model.service import SERVER_PATTERN, DestinationKey
from tests.unit.daemon.commands import ask, during, invoked
from tests.unit.daemon.daemons import OTHER, WEB, FakeHost, address, run, server, service, until
from tests.waiting import PATIENCE_S
from tests.waiting import until as until_sync

FIRST, SECOND = str(DestinationKey(address(1), 80)), str(DestinationKey(address(2), 80))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path / "state")
    made.write(service(server(1, weight=4), server(2, weight=4)))
    return made


def weight_of(host: FakeHost, number: int) -> int | None:
    """Return the weight in the table, None if the server is not there."""
    return host.table().get(str(WEB), {}).get(str(address(number)))


def test_a_drained_server_leaves_the_table_without_connections(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon():
            key = DestinationKey(address(1), 80)
            host.tables.count(WEB, key, active=2, inactive=1)
            begun = await asyncio.to_thread(ask, host, "POST", "/v1/drain", {"server": FIRST})
            assert begun["stage"] == "waiting"
            assert begun["servers"] == [{"service": str(WEB), "server": FIRST}]
            assert (weight_of(host, 1), weight_of(host, 2)) == (0, 4)
            (seen,) = (await asyncio.to_thread(ask, host, "GET", "/v1/drains"))["drains"]
            async with asyncio.timeout(PATIENCE_S):
                while seen["active"] != 2:
                    await asyncio.sleep(0.05)
                    (seen,) = (await asyncio.to_thread(ask, host, "GET", "/v1/drains"))["drains"]
            assert (seen["stage"], seen["inactive"], seen["most"]) == ("waiting", 1, 3)
            host.tables.count(WEB, key, active=0, inactive=0)
            await until(lambda: host.servers() == {str(address(2))})
            (seen,) = (await asyncio.to_thread(ask, host, "GET", "/v1/drains"))["drains"]
            assert seen["stage"] == "removed"

    run(scenario())


def test_at_its_deadline_a_drain_is_reported_or_forced(host: FakeHost) -> None:
    key = DestinationKey(address(1), 80)

    def connected() -> None:
        host.tables.count(WEB, key, active=1)

    late, table, forced, after = during(
        host,
        connected,
        lambda: invoked(host, verbs.drain, FIRST, "--deadline", "0.2"),
        lambda: weight_of(host, 1),
        lambda: invoked(host, verbs.drain, FIRST, "--deadline", "0.2s", "--force"),
        host.servers,
    )[1:]
    assert late.exit_code == 1
    assert "1 active and 0 inactive connections are left at the deadline" in str(late.exception)
    assert table == 0
    assert forced.exit_code == 0
    assert "out of the table with 1 active and 0 inactive connections" in forced.output
    assert after == {str(address(2))}


def test_a_drain_can_leave_out_inactive_connections(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection in its handshake is inactive; it has until the next poll to become active."""
    monkeypatch.setattr(drains, "POLL_S", 3600.0)  # the test polls

    async def scenario() -> None:
        async with host.daemon() as daemon:

            async def stage(active: int, inactive: int) -> str:
                host.tables.count(WEB, DestinationKey(address(1), 80), active=active, inactive=inactive)
                await daemon.drains.poll()
                return daemon.drains.all()[0].stage.value

            words = (verbs.drain, FIRST, "--active-only")
            drain = asyncio.create_task(asyncio.to_thread(invoked, host, *words))
            await until(lambda: daemon.drains.all() and weight_of(host, 1) == 0)
            assert await stage(active=0, inactive=1) == "waiting"
            assert await stage(active=1, inactive=7) == "waiting"
            assert await stage(active=0, inactive=8) == "waiting"
            assert await stage(active=0, inactive=8) == "removed"
            done = await drain
            assert (done.exit_code, weight_of(host, 1)) == (0, None)
            assert done.output.endswith("drained: out of the table with 8 inactive connections\n")

    run(scenario())


@pytest.mark.parametrize("boot", ["", "another one"])
def test_a_jump_of_the_wall_clock_ends_no_drain(host: FakeHost, monkeypatch: pytest.MonkeyPatch, boot: str) -> None:
    """Also beside a restart. After a reboot only the wall clock has the deadline."""
    monkeypatch.setattr(drains, "POLL_S", 3600.0)  # the test polls

    async def scenario() -> None:
        async with host.daemon(kill=True):
            host.tables.count(WEB, DestinationKey(address(1), 80), active=1)
            words = {"server": FIRST, "deadline_s": 3600.0, "force": True}
            await asyncio.to_thread(ask, host, "POST", "/v1/drain", words)
        unix_time = time.time
        monkeypatch.setattr(time, "time", lambda: unix_time() + 86400)
        if boot:
            monkeypatch.setattr(drains, "_boot", lambda: boot)
        async with host.daemon() as daemon:
            (resumed,) = daemon.drains.all()
            assert resumed.deadline_at is not None
            await until(lambda: weight_of(host, 1) in (0, None))
            await daemon.drains.poll()
            assert resumed.stage.value == ("forced" if boot else "waiting")

    run(scenario())


def test_enable_cancels_a_drain(host: FakeHost) -> None:
    key = DestinationKey(address(1), 80)
    answers = during(
        host,
        lambda: host.tables.count(WEB, key, active=1),
        lambda: invoked(host, verbs.drain, FIRST, "--no-wait"),
        lambda: invoked(host, verbs.enable, FIRST),
        lambda: weight_of(host, 1),
    )
    assert answers[1].exit_code == 0
    assert "weight 0, draining" in answers[1].output
    assert answers[2].output == f"{FIRST} of {WEB}: enabled\n"
    assert answers[3] == 4


def test_a_drain_survives_a_daemon_that_is_killed(host: FakeHost) -> None:
    key = DestinationKey(address(1), 80)
    during(
        host,
        lambda: host.tables.count(WEB, key, active=1),
        lambda: ask(host, "POST", "/v1/drain", {"server": FIRST}),
        kill=True,
    )

    async def later() -> None:
        async with host.daemon():
            assert weight_of(host, 1) == 0
            host.tables.count(WEB, key, active=0)
            await until(lambda: host.servers() == {str(address(2))})

    run(later())


def test_a_drain_follows_a_server_whose_port_a_reload_changes(host: FakeHost) -> None:
    host.write(service(server(1, port=0), server(2, weight=4)))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.tables.count(WEB, DestinationKey(address(1), 80), active=1)
            daemon.drains.begin(address(1), None, None, force=False)
            host.write(service(server(1), server(2, weight=4)))
            await daemon.reload()
            await daemon.drains.poll()
            assert daemon.drains.all()[0].active == 1  # the table has had the service's port all along
            host.tables.count(WEB, DestinationKey(address(1), 80), active=0)
            await until(lambda: [each.stage for each in daemon.drains.all()] == [drains.Stage.REMOVED])
            assert daemon.drains.all()[0].servers == ((str(WEB), DestinationKey(address(1), 80)),)

    run(scenario())


@pytest.mark.parametrize("end", ["kill", "keep", "stop"])
@pytest.mark.parametrize("name", [str(WEB), "renamed"])
@pytest.mark.parametrize("reloaded", [True, False])
def test_a_drain_survives_another_port_and_name_of_its_server(
    host: FakeHost, end: str, name: str, reloaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains.Drain, "count", lambda self, found: None)  # no connection ends
    continues = [(drains.Stage.WAITING, ((name, DestinationKey(address(1), 80)),))]
    host.write(service(server(1, port=0), server(2)))

    def drains_of(daemon: supervisor.Supervisor) -> list[Any]:
        return [(each.stage, each.servers) for each in daemon.drains.all()]

    async def scenario() -> None:
        async with host.daemon(kill=end == "kill") as daemon:
            daemon.drains.begin(address(1), None, None, force=False)
            host.write(replace(service(server(1), server(2)), name=name))
            if reloaded:
                await daemon.reload()
                await daemon.drains.poll()
                assert drains_of(daemon) == continues
            await daemon.services.saved()
            if end == "keep":
                daemon.stop(keep=True)
        for _ in range(2):  # the start saves the new name
            async with host.daemon(kill=True) as daemon:
                await daemon.drains.poll()
                assert drains_of(daemon) == continues
                assert weight_of(host, 1) == 0
                await daemon.services.saved()

    run(scenario())


@pytest.mark.parametrize("name", [str(WEB), "renamed"])
def test_a_disabled_server_gets_no_traffic_after_a_stop_and_another_port(host: FakeHost, name: str) -> None:
    host.write(service(server(1, port=0), server(2)))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            daemon.engine.disable(address(1))
            await daemon.services.saved()
        host.write(replace(service(server(1), server(2)), name=name))
        async with host.daemon():
            assert host.servers() == {str(address(2))}
        host.write(replace(service(server(1), server(2), server(1, port=8080)), name=name))
        async with host.daemon() as daemon:
            assert list(daemon.engine.overrides()) == [(name, DestinationKey(address(1), 80))]

    run(scenario())


def test_overrides_survive_a_reload_and_status_lists_them(host: FakeHost) -> None:
    def change() -> None:
        host.write(service(server(1, weight=7), server(2, weight=4)), service(server(1), key=OTHER))

    answers = during(
        host,
        lambda: invoked(host, verbs.weight, FIRST, "9"),
        lambda: invoked(host, verbs.disable, str(address(2))),
        change,
        lambda: ask(host, "POST", "/v1/reload"),
        lambda: (weight_of(host, 1), weight_of(host, 2)),
        lambda: ask(host, "GET", "/v1/status")["differs"],
        lambda: invoked(host, views.status).output,
        lambda: invoked(host, verbs.weight, FIRST, "auto"),
        lambda: invoked(host, verbs.enable, str(address(2))),
        lambda: (weight_of(host, 1), weight_of(host, 2)),
        lambda: ask(host, "GET", "/v1/status")["differs"],
    )
    assert answers[4] == (9, None)
    words = [f"{FIRST} of {WEB}: weight 9 instead of 7 by the operator", f"{SECOND} of {WEB}: disabled by the operator"]
    assert answers[5] == words
    assert all(line in answers[6] for line in [*words, "differs from the file:", "weight 9 (configured 7)"])
    assert answers[9] == (7, 4)
    assert answers[10] == []


def test_services_and_a_weight_that_does_not_wait_are_answered_while_the_table_is_locked(host: FakeHost) -> None:
    locked, free = threading.Event(), threading.Event()

    def lock() -> None:
        locked.set()
        assert free.wait(PATIENCE_S)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            holder = asyncio.ensure_future(daemon.table_thread.run(lock))
            try:
                assert await asyncio.to_thread(locked.wait, PATIENCE_S)
                given = {"server": FIRST, "weight": 9, "wait": False}
                reply = await asyncio.to_thread(ask, host, "POST", "/v1/weight", given)
                assert reply["servers"] == [{"service": str(WEB), "server": FIRST}]
                (web,) = (await asyncio.to_thread(ask, host, "GET", "/v1/services"))["services"]
                assert [each["operator_weight"] for each in web["servers"]] == [9, None]
                assert weight_of(host, 1) == 4
            finally:
                free.set()
                await holder
            await until(lambda: weight_of(host, 1) == 9)

    run(scenario())


def test_check_now_probes_immediately_and_history_has_the_reasons(host: FakeHost) -> None:
    def die() -> None:
        host.dead.add(address(1))

    async def scenario() -> None:
        async with host.daemon():
            await asyncio.to_thread(invoked, host, verbs.check_now)
            die()
            await until(lambda: host.servers() == {str(address(2))})
            checked = await asyncio.to_thread(invoked, host, verbs.check_now, FIRST)
            assert checked.output == f"{FIRST} of {WEB}: down (TCP_CHECK: refused)\n"
            reply = await asyncio.to_thread(ask, host, "GET", f"/v1/history?server={FIRST}")
            assert "server_down" in [event["event"] for event in reply["events"]]
            text = (await asyncio.to_thread(invoked, host, verbs.history, FIRST)).output
            assert "server down" in text
            assert "refused" in text

    run(scenario())


def test_a_change_by_another_program_is_in_events_and_history(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon():
            key = host.tables.services()[0].service.key
            change = f"{key} -> {FIRST} was removed"
            await asyncio.to_thread(host.tables.delete_service, key)
            await until(lambda: host.servers() == {str(address(1)), str(address(2))})
            events = (await asyncio.to_thread(invoked, host, views.events)).output
            assert f"restored {FIRST} of {WEB}: {change}\n" in events
            assert f"restored of {WEB}: {key} was removed\n" in events
            history = (await asyncio.to_thread(invoked, host, verbs.history, FIRST)).output
            assert history.count("restored") == 1
            assert f"restored {FIRST} of {WEB}: {change}\n" in history

    run(scenario())


def test_events_are_streamed_and_remembered(host: FakeHost) -> None:
    def followed() -> dict[str, Any]:
        with Client(host.state).stream("GET", "/v1/events?follow=true") as response:
            assert response.status == 200
            ask(host, "POST", "/v1/weight", {"server": FIRST, "weight": 2})
            for line in response:
                event: dict[str, Any] = json.loads(line)
                if event["event"] == "weight_changed":
                    return event
        raise AssertionError("the stream ended")

    event, listed = during(host, followed, lambda: invoked(host, views.events))
    assert (event["server"], event["before"], event["weight"]) == (FIRST, 4, 2)
    assert "weight changed" in listed.output


def test_the_page_of_metrics_is_served(host: FakeHost) -> None:
    (page,) = during(host, lambda: invoked(host, views.metrics).output)
    assert 'pylvs_server_configured_weight{server="10.0.0.1:80"' in page
    assert "node_ipvs_backend_weight{" in page


def test_metrics_are_served_over_tcp_where_that_is_configured(host: FakeHost) -> None:
    listen_host, port = f"127.{'.'.join(map(str, os.urandom(3)))}", 9100  # other tests will not choose the same
    endpoint = (ip_address(listen_host), port)

    def fetched(path: str = "/metrics") -> str:
        with urllib.request.urlopen(f"http://{listen_host}:{port}{path}", timeout=PATIENCE_S) as response:
            return str(response.read().decode())

    def refused(path: str = "/metrics") -> str:
        with pytest.raises(urllib.error.URLError) as error:
            fetched(path)
        if isinstance(error.value, urllib.error.HTTPError):
            error.value.close()
        return str(error.value)

    answers = during(
        host,
        refused,
        lambda: host.write(service(server(1)), metrics_address=endpoint),
        lambda: ask(host, "POST", "/v1/reload"),
        fetched,
        lambda: refused("/v1/status"),
        lambda: host.write(service(server(1))),
        lambda: ask(host, "POST", "/v1/reload"),
        refused,
    )
    assert "refused" in answers[0]
    assert "pylvs_info" in answers[3]
    assert "404" in answers[4]
    assert "refused" in answers[7]


def test_the_api_is_described(host: FakeHost) -> None:
    document, known = during(
        host,
        lambda: ask(host, "GET", "/v1/openapi.json"),
        lambda: Client(host.state).ask("POST", "/v1/weight", {"server": FIRST}),
    )
    assert document["openapi"].startswith("3.")
    body = document["paths"]["/v1/weight"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["server", "weight"]
    assert body["properties"]["server"]["pattern"] == SERVER_PATTERN
    (one, *_) = document["paths"]["/v1/history"]["get"]["parameters"]
    assert one["schema"] == {"type": "string", "pattern": SERVER_PATTERN}
    assert known == (400, {"error": "weight: is missing: 0 to 2147483647; null clears the override"})


@pytest.mark.parametrize(
    ("path", "content", "status", "words"),
    [
        ("/v1/drain", {"server": "10.0.0.9"}, 404, "10.0.0.9: no such real server"),
        ("/v1/drain", {"server": "web"}, 400, "web: must be ADDRESS or ADDRESS:PORT"),
        ("/v1/drain", {"server": "10.0.0.1:99999"}, 400, "must be ADDRESS"),
        ("/v1/drain", {"server": FIRST, "deadline_s": -1}, 400, "deadline_s: must be from 0"),
        ("/v1/drain", {"server": FIRST, "service": "mail"}, 404, "mail: no such service"),
        ("/v1/weight", {"server": FIRST, "weight": -1}, 400, "weight: must be from 0"),
        ("/v1/weight", {"server": FIRST, "weight": 1 << 31}, 400, "weight: must be from 0 to 2147483647"),
        ("/v1/drain", {"server": FIRST, "deadline_s": 1e300}, 400, "deadline_s: must be from 0 to 31622400"),
        ("/v1/vrrp/yield", {"seconds": 1e300}, 400, "seconds: must be from 0 to 31622400"),
        ("/v1/vrrp/yield", {"seconds": -1}, 400, "seconds: must be from 0 to 31622400"),
        ("/v1/weight", {"server": FIRST, "weight": "2"}, 400, "weight: must be a whole number or null"),
        ("/v1/enable", {}, 400, "server: is missing"),
        ("/v1/enable", {"server": 3}, 400, "server: must be a string"),
    ],
)
def test_a_wrong_command_changes_nothing(
    host: FakeHost, path: str, content: dict[str, Any], status: int, words: str
) -> None:
    before, (got, reply), after = during(
        host,
        host.tables.edition,
        lambda: Client(host.state).ask("POST", path, content),
        host.tables.edition,
    )
    assert got == status
    assert words in reply["error"]
    assert after == before


def test_an_override_that_cannot_be_saved_is_reported_by_the_command(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full: the server is drained, but a restart would forget it."""
    monkeypatch.setattr(overrides, "RETRY_S", 0.05)
    write, full = StateDirectory.write, [True]

    def written(self: StateDirectory, name: str, content: Any) -> None:
        if full and name in ("overrides", "drains") and content:
            raise PylvsError(f"{self.file(name)}: No space left on device: this state would be lost in a crash")
        write(self, name, content)

    monkeypatch.setattr(StateDirectory, "write", written)

    def main(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(cli.pylvs, [*words, "--state-dir", str(host.state)], standalone_mode=False)
        return done.return_value or 0, done.stdout, done.stderr

    drained, disabled, weight, found, *_, repaired = during(
        host,
        lambda: main("drain", FIRST, "--no-wait"),
        lambda: main("disable", SECOND),
        lambda: main("weight", FIRST, "3"),
        lambda: [each["kind"] for each in ask(host, "GET", "/v1/status")["problems"]],
        full.clear,
        lambda: until_sync((host.state / "overrides.json").exists),
        lambda: main("drain", FIRST, "--no-wait"),
    )
    error = "pylvs: in force, but a restart of the daemon ends it: "
    for status, output, text in (drained, disabled, weight):
        assert (status, "it holds" in output) == (1, False)
        assert text.startswith(f"{error}{host.state}/overrides.json: No space left on device")
        assert text.count("\n") == 1
    assert "state" in found
    assert repaired[0] == 0
    assert "it holds through reloads" in repaired[1]
