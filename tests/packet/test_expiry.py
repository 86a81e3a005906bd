"""Connections end without a process, and release what they held."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.bpf import abi, maps
from pylvs.dataplane import load
from pylvs.dataplane.tables import Tables
from pylvs.model.service import Method, Protocol, ServiceKey, Timeouts
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.host import SENT, VIP4, VIP6, Host, new_host, server4, server6
from tests.packet.table import Entry, entries_in_use, entry, expiry_tick, set_expiry_tick, shorten
from tests.waiting import until

CAPACITY = 1024
LONG_S = 9000  # no connection ends by itself
PORT = 8080
KINDS = [
    (Protocol.TCP, VIP4, Method.ROUTE),
    (Protocol.TCP, VIP4, Method.MASQ),
    (Protocol.UDP, VIP4, Method.MASQ),
    (Protocol.UDP, VIP6, Method.TUNNEL),
    (Protocol.TCP, VIP6, Method.MASQ),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(connections=CAPACITY, recycled=True) as made:
        made.director.set_timeouts(Timeouts(LONG_S, LONG_S, LONG_S))
        yield made


@pytest.fixture
def services(director_host: Host) -> list[ServiceKey]:
    made = []
    for protocol, vip, method in KINDS:
        made.append(director_host.new_key(protocol, vip))
        director_host.serve(made[-1], 2, method, port=PORT if method == Method.MASQ else None)
    return made


def connect(host: Host, service: ServiceKey, sport: int) -> bool:
    """Return whether a new connection of this client is forwarded; TCP connections become established."""
    vip = str(service.address)
    client = CLIENT4 if service.address.version == 4 else CLIENT6
    ends = {"sport": sport, "dport": service.port, "source": client, "target": vip}
    if service.protocol == Protocol.UDP:
        return host.receive(udp(**ends))[1].verdict in (*SENT["xdp"], *SENT["tc"])
    opened = host.receive(tcp("S", **ends))[1].verdict in (*SENT["xdp"], *SENT["tc"])
    return host.receive(tcp("A", **ends))[1].verdict in (*SENT["xdp"], *SENT["tc"]) and opened


def fill(host: Host, services: list[ServiceKey], count: int, first_port: int = 10000) -> None:
    """Open this many connections to each service."""
    for service in services:
        for sport in range(first_port, first_port + count):
            assert connect(host, service, sport), host.reasons()


def await_empty(host: Host) -> None:
    """Let all connections end in a second; return after the expiry timer ended the last one."""
    shorten(host.director.tables, 1)
    until(lambda: not any(True for _ in host.director.connections()), "the end of all connections")
    pace = host.director.tables.timer_runs
    run = pace.get(0, "count")  # written at its end: the run that ended the last connection may still continue
    until(lambda: pace.get(0, "count") > run, "the expiry timer")


def prolong(host: Host, service: ServiceKey, client_port: int) -> None:
    """Forward a packet of this connection."""
    client, vip = (CLIENT4, VIP4) if service.address.version == 4 else (CLIENT6, VIP6)
    ends = {"sport": client_port, "dport": service.port, "source": client, "target": vip}
    frame = tcp("A", **ends) if service.protocol == Protocol.TCP else udp(**ends)
    assert host.receive(frame)[1].verdict in (*SENT["xdp"], *SENT["tc"])


def is_each_noted(tables: Tables, connections: list[Entry]) -> bool:
    """Return whether the timer has noted when it visits each; neighbours share the earliest tick."""
    earliest: dict[int, int] = {}
    for connection in connections:
        group = connection.slot // abi.constant("TICK_SLOTS")
        earliest[group] = min(connection.expiry, earliest.get(group, connection.expiry))
    return all(expiry_tick(tables, group * abi.constant("TICK_SLOTS")) == tick for group, tick in earliest.items())


def assert_nothing_left(host: Host, services: list[ServiceKey]) -> None:
    for service in services:
        server = server4 if service.address.version == 4 else server6
        assert host.counts(service) == {server(1): (0, 0), server(2): (0, 0)}
    assert entries_in_use(host.director.tables) == 0


def test_connections_release_everything_repeatedly(director_host: Host, services: list[ServiceKey]) -> None:
    """Three times 850 connections in a table of 1024 fit only into used slots."""
    for _ in range(3):
        fill(director_host, services, 170)
        listed = sum(1 for each in director_host.director.connections() if each.virtual_port)
        counted = sum(sum(sum(pair) for pair in director_host.counts(service).values()) for service in services)
        assert listed == counted
        await_empty(director_host)
        assert_nothing_left(director_host, services)
    assert director_host.pool("used") <= CAPACITY


def test_the_runs_of_timers_are_counted_by_length(director_host: Host) -> None:
    def runs() -> dict[str, int]:
        timers = director_host.director.packet_counts().timers
        return {each.timer: sum(count for _, count in each.lengths) for each in timers}

    assert set(runs()) == {"expiry", "estimator", "lblc_cache"}
    before = runs()
    for timer in "expiry", "estimator":
        until(lambda timer=timer: runs()[timer] > before[timer], f"a run of the {timer}")  # type: ignore[misc]
    found = director_host.director.packet_counts().timers[0]
    assert 0 < found.longest_s <= found.spent_s


def test_a_connection_lives_as_long_as_packets_come(director_host: Host, services: list[ServiceKey]) -> None:
    """The expiry timer twice checks connections whose end a packet has moved, beside some without packets."""
    director, tables = director_host.director, director_host.director.tables
    second = load.ticks_per_second()
    idle = range(30100, 30100 + len(services))
    for number, service in enumerate(services):
        connect(director_host, service, 30000 + number)
        connect(director_host, service, idle[number])
    for port in idle:
        ended, now = entry(tables, port), load.clock(tables.state)
        ended.end_at(now)
        set_expiry_tick(tables, ended.slot, now)  # without a second check: a neighbour's tick may have come
    for _ in range(2):
        busy = []
        for number, service in enumerate(services):
            port = 30000 + number
            now = load.clock(tables.state)
            entry(tables, port).end_at(now + round(LONG_S / 2 * second))
            prolong(director_host, service, port)
            busy.append(entry(tables, port))
            assert busy[-1].expiry - now >= LONG_S * second - 1
            set_expiry_tick(tables, busy[-1].slot, now)
        until(lambda busy=busy: is_each_noted(tables, busy), "each connection is checked")  # type: ignore[misc]
    until(lambda: len(list(director.connections())) == len(services), "the end of the connections without packets")
    assert {each.client_port for each in director.connections()} == set(range(30000, 30000 + len(services)))
    await_empty(director_host)
    assert_nothing_left(director_host, services)


def test_a_shorter_timeout_counts_from_the_next_packet_on(director_host: Host, services: list[ServiceKey]) -> None:
    director = director_host.director
    connect(director_host, services[0], 31000)
    connect(director_host, services[0], 31001)
    director.set_timeouts(Timeouts(1, 1, 1))
    try:
        prolong(director_host, services[0], 31000)
        until(lambda: len(list(director.connections())) == 1, "the end of one of two connections")
    finally:
        director.set_timeouts(Timeouts(LONG_S, LONG_S, LONG_S))
    (left,) = list(director.connections())
    assert left.client_port == 31001
    assert left.expires_s > LONG_S / 2
    assert sum(active for active, _ in director_host.counts(services[0]).values()) == 1
    await_empty(director_host)
    assert_nothing_left(director_host, services)


@pytest.mark.parametrize(("flags", "state"), [("R", "CLOSE"), ("F", "FIN_WAIT")])
def test_a_late_store_of_the_fast_path_does_not_keep_a_closed_connection(
    director_host: Host, services: list[ServiceKey], flags: str, state: str
) -> None:
    """On another CPU, a packet of the established connection stores its expiry just behind the FIN or RST."""
    tables, second = director_host.director.tables, load.ticks_per_second()
    director_host.director.set_timeouts(Timeouts(LONG_S, 10, LONG_S))
    assert connect(director_host, services[0], 34000)
    director_host.receive(tcp(flags, sport=34000, dport=services[0].port))
    closed, now = entry(tables, 34000), load.clock(tables.state)
    assert [each.state for each in director_host.director.connections() if each.client_port == 34000] == [state]
    closed.end_at(now + round(LONG_S * second))
    set_expiry_tick(tables, closed.slot, now)
    until(lambda: expiry_tick(tables, closed.slot) not in (0, now), "the connection is checked")  # 0: within the check
    assert entry(tables, 34000).expiry - now < LONG_S / 2 * second
    assert expiry_tick(tables, closed.slot) == entry(tables, 34000).expiry
    director_host.director.set_timeouts(Timeouts(LONG_S, LONG_S, LONG_S))
    await_empty(director_host)
    assert_nothing_left(director_host, services)


def test_without_the_timer_connections_stay_until_it_runs(director_host: Host, services: list[ServiceKey]) -> None:
    """Tests that stop the timer rely on this."""
    director, expiry = director_host.director, director_host.expiry
    fill(director_host, services, 5, 32000)
    expiry.stop(director)
    try:
        shorten(director.tables, 0)
        director_host.wait_ticks(12)  # three rounds of the timer's
        assert len(list(director.connections())) == 5 * len(services)
        expiry.run(director)
        assert_nothing_left(director_host, services)
        assert not list(director.connections())
    finally:
        expiry.start()


def test_connections_of_a_deleted_service_expire_as_well(director_host: Host, services: list[ServiceKey]) -> None:
    fill(director_host, services, 20, 33000)
    director_host.director.flush()
    assert len(list(director_host.director.connections())) == 20 * len(services)
    await_empty(director_host)
    for service, (_, _, method) in zip(services, KINDS, strict=True):
        director_host.serve(service, 2, method, port=PORT if method == Method.MASQ else None)
    assert_nothing_left(director_host, services)


def test_with_expire_nodest_conn_any_deletion_ends_connections_of_earlier_ones(director_host: Host) -> None:
    first, second = director_host.new_key(), director_host.new_key()
    doomed, other = director_host.serve(first)[0], director_host.serve(second)[0]
    assert connect(director_host, first, 20000)
    director_host.director.delete_destination(first, doomed)
    assert list(director_host.director.connections())
    director_host.director.change_setting("expire_nodest_conn", 1)
    try:
        assert list(director_host.director.connections()), "the setting alone ends nothing"
        director_host.director.delete_destination(second, other)
        assert not list(director_host.director.connections())
    finally:
        director_host.director.change_setting("expire_nodest_conn", 0)


def test_connections_of_a_deleted_server_end_also_while_the_timer_visits_them() -> None:
    """While it visits a group of slots, that group has no tick for the next visit."""
    with new_host(connections=CAPACITY, expires=False, recycled=True) as host:
        service = host.new_key()
        (server,) = host.serve(service)
        assert connect(host, service, 20000)
        host.director.change_setting("expire_nodest_conn", 1)
        with maps.MmapArray.open(host.director.tables.path("expiry_ticks")) as found:
            found.memory[:] = bytes(len(found.memory))
        host.director.delete_destination(service, server)
        assert not list(host.director.connections())
