"""What the packet path counts becomes the handshakes of configured servers."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

from pylvs.daemon.handshakes import HandshakeWatch, names_of
from pylvs.daemon.services import Services
from pylvs.health.events import ServerName
from pylvs.health.handshakes import GRACE_S
from pylvs.model.errors import Busy
from pylvs.model.rows import Handshakes
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.system.table_thread import TableThread

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
        self.minutes: list[dict[ServerName, Handshakes]] = []

    def handshakes(self) -> dict[tuple[ServiceKey, DestinationKey], Handshakes]:
        if self.fails:
            raise Busy("the tables are in use")
        return self.counted

    def judge(self, minute: dict[ServerName, Handshakes], _: object) -> tuple[ServerName, ...]:
        self.minutes.append(minute)
        return self.begin_anew


def play(judged: Judged, *steps: Any) -> list[dict[ServerName, Handshakes]]:
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


def test_of_services_with_one_key_the_first_counts() -> None:
    both = [WantedService(name, (WEB,), servers=(server(1, 80),)) for name in ("first", "second")]
    assert set(names_of(Configuration(tuple(both))).values()) == {("first", both[0].servers[0].destination.key)}
