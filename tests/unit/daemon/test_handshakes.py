"""What the packet path counts becomes the handshakes of configured servers."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner

from pylvs.cli import daemon as views
from pylvs.daemon.handshakes import HandshakeWatch, names_of
from pylvs.daemon.services import Services
from pylvs.health.events import ServerName
from pylvs.health.handshakes import GRACE_S, Shaken
from pylvs.model.errors import Busy
from pylvs.model.rows import Handshakes
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.system.table_thread import TableThread
from tests.unit.daemon import daemons
from tests.unit.daemon.daemons import FakeHost

WEB = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)
TLS = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 443)


def server(number: int, port: int, method: Method = Method.ROUTE) -> WantedServer:
    return WantedServer(Destination(DestinationKey(ip_address(f"10.0.0.{number}"), port), method))


class Judged:
    """An engine and a Director: what the part calls of both."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.counted: dict[tuple[ServiceKey, DestinationKey], Handshakes] = {}
        self.fails = False
        self.begin_anew: tuple[ServerName, ...] = ()
        self.minutes: list[Mapping[ServerName, Handshakes]] = []

    def handshakes(self) -> dict[tuple[ServiceKey, DestinationKey], Handshakes]:
        if self.fails:
            raise Busy("the tables are in use")
        return self.counted

    def judge(self, shaken: Shaken[ServerName]) -> tuple[ServerName, ...]:
        self.minutes.append(shaken.minute)
        return self.begin_anew


def play(judged: Judged, *steps: Any) -> list[Mapping[ServerName, Handshakes]]:
    """Call each step, and let the part read, long enough after it."""
    clock = 0.0
    table = SimpleNamespace(table=SimpleNamespace(director=judged))
    services = cast(Services, SimpleNamespace(engine=judged, reconciler=table))

    async def run() -> None:
        nonlocal clock
        thread = TableThread("test")
        watch = HandshakeWatch(services, thread, lambda: clock)
        try:
            for step in steps:
                step()
                await watch.step()
                clock += GRACE_S
                await watch.step()
        finally:
            thread.close()

    asyncio.run(run())
    return judged.minutes[1::2]


def test_the_handshakes_of_all_keys_of_a_service_are_summed() -> None:
    """Only NAT changes the port, so the table lists the others with that of the service."""
    group = WantedService("web", (WEB, TLS), servers=(server(1, 0), server(2, 8080, Method.MASQ)))
    judged = Judged(Configuration((group,)))
    one, two = (each.destination.key for each in group.servers)

    def count() -> None:
        judged.counted = {
            (WEB, DestinationKey(one.address, 80)): Handshakes(3, 2),
            (TLS, DestinationKey(one.address, 443)): Handshakes(4, 1),
            (WEB, two): Handshakes(5, 5),
            (WEB, DestinationKey(two.address, 80)): Handshakes(9, 9),  # of no configured server
        }

    found = play(judged, lambda: None, count)
    assert found == [{}, {("web", one): Handshakes(7, 3), ("web", two): Handshakes(5, 5)}]


def test_a_reload_names_the_servers_of_the_new_file() -> None:
    judged = Judged(Configuration())
    key = DestinationKey(ip_address("10.0.0.1"), 80)

    def count() -> None:
        judged.counted = {(WEB, key): Handshakes(3, 3)}

    def reload() -> None:
        judged.configuration = Configuration((WantedService("web", (WEB,), servers=(server(1, 80),)),))
        judged.counted = {(WEB, key): Handshakes(5, 4)}

    assert play(judged, count, reload)[-1] == {("web", key): Handshakes(5, 4)}


def test_tables_that_cannot_be_read_change_nothing() -> None:
    judged = Judged(Configuration())
    judged.fails = True
    assert play(judged, lambda: None) == []


def test_a_server_on_trial_begins_anew() -> None:
    judged = Judged(Configuration((WantedService("web", (WEB,), servers=(server(1, 80),)),)))
    key = DestinationKey(ip_address("10.0.0.1"), 80)

    def fail() -> None:
        judged.counted = {(WEB, key): Handshakes(9, 0)}
        judged.begin_anew = (("web", key),)

    def work() -> None:
        judged.begin_anew = ()
        judged.counted = {(WEB, key): Handshakes(11, 2)}

    assert play(judged, lambda: None, fail, work)[-1] == {("web", key): Handshakes(2, 2)}


def test_a_server_that_completes_none_is_in_status_metrics_and_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    """The daemon as a whole, with two servers that are up."""
    monkeypatch.setattr("pylvs.daemon.handshakes.POLL_S", 0.02)
    monkeypatch.setattr("pylvs.health.handshakes.GRACE_S", 0.0)
    host = FakeHost(tmp_path / "state")
    host.write(daemons.service(daemons.server(1), daemons.server(2)))

    def page(command: click.Command, *words: str) -> str:
        return str(CliRunner().invoke(command, ["--state-dir", str(host.state), *words]).output)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            (key,) = daemon.engine.configuration.services[0].keys
            director = host.director()
            await daemons.until(lambda: director.read_handshakes, "the first reading")
            one, two = (each.destination.key for each in daemon.engine.configuration.services[0].servers)
            director.shaken = {(key, one): Handshakes(214, 0), (key, two): Handshakes(200, 200)}
            began = {"event": "handshakes_low", "server": str(one)}.items()
            await daemons.until(lambda: any(began <= each.items() for each in daemon.events.recent()), "the event")
            text = "completes 0 of 214 handshakes, others 100%"
            (line,) = (each for each in (await asyncio.to_thread(page, views.status)).splitlines() if text in each)
            assert line.split()[:2] == [str(one), "up"]
            reply = json.loads(await asyncio.to_thread(page, views.status, "--json"))
            assert [each["handshakes"] for each in reply["services"][0]["servers"]] == [
                {"begun": 214, "completed": 0, "low": text, "out": False},
                {"begun": 200, "completed": 200, "low": "", "out": False},
            ]
            assert [(each["kind"], each["text"]) for each in reply["problems"]] == [("handshakes", text)]
            metrics = await asyncio.to_thread(page, views.metrics)
            for server_key, low, begun, completed in ((one, 1, 214, 0), (two, 0, 200, 200)):
                labels = f'server="{server_key}",service="{reply["services"][0]["name"]}"'
                assert f"pylvs_server_handshakes_low{{{labels}}} {low}.0\n" in metrics
                for result, count in (("begun", begun), ("completed", completed)):
                    by_result = f'result="{result}",{labels}'
                    assert f"pylvs_server_handshakes_total{{{by_result}}} {count}.0\n" in metrics
            assert "handshakes low" in log_output.getvalue()
        host.end_processes()

    daemons.run(scenario())


def test_of_services_with_one_key_the_first_counts() -> None:
    both = [WantedService(name, (WEB,), servers=(server(1, 80),)) for name in ("first", "second")]
    assert set(names_of(Configuration(tuple(both))).values()) == {("first", both[0].servers[0].destination.key)}
