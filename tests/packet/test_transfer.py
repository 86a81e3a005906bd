"""Connections of one director are copied into the tables of another one, which has other slots and another clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from pylvs.bpf import abi
from pylvs.bpf.maps import MmapArray
from pylvs.dataplane import load
from pylvs.dataplane.connections import ConnectionReader
from pylvs.model.director import Connection
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.peer.records import (
    BadRecords,
    Clock,
    ConnectionTransfer,
    Part,
    Taken,
    limits,
    pack_names,
    unpack_names,
)
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.host import VIP4, VIP6, Host, new_host, server4, server6
from tests.packet.table import entries, set_expiry_tick

METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)
KEYS = [
    *(ServiceKey(Protocol.TCP, ip_address(vip), 1000 + number) for vip in (VIP4, VIP6) for number in range(6)),
    ServiceKey(Protocol.UDP, ip_address(VIP4), 53),
]
FIRST = KEYS[0]


def serve(host: Host, keys: list[ServiceKey] = KEYS, servers: tuple[int, ...] = (1, 2, 3)) -> None:
    """Serve each method, with persistence and without, in the order of the keys, which decides the slots."""
    for service in keys:
        number = KEYS.index(service)
        flags = ServiceFlag.PERSISTENT if number % 2 else ServiceFlag(0)
        host.director.add_service(VirtualService(service, "rr", flags, timeout_s=300))
        address = server4 if service.address.version == 4 else server6
        for server in servers:
            key = DestinationKey(ip_address(address(server)), service.port)
            host.director.add_destination(service, Destination(key, METHODS[number % len(METHODS)]))


def fill(host: Host, keys: list[ServiceKey] = KEYS, first: int = 20000, count: int = 12) -> None:
    """Make connections in several states."""
    for service in keys:
        client = CLIENT4 if service.address.version == 4 else CLIENT6
        where = {"source": client, "target": str(service.address), "dport": service.port}
        for sport in range(first, first + count):
            if service.protocol == Protocol.UDP:
                host.run(udp(sport=sport, **where), "tc")
                continue
            host.run(tcp(sport=sport, **where), "tc")
            if sport % 3:
                host.run(tcp("A", sport=sport, **where), "tc")
            if sport % 5 == 0:
                host.run(tcp("FA", sport=sport, **where), "tc")


def acknowledge(host: Host, sport: int, service: ServiceKey = FIRST, flags: str = "A") -> None:
    """Send a packet of a connection."""
    host.run(tcp(flags, source=CLIENT4, target=str(service.address), sport=sport, dport=service.port), "tc")


def listed(host: Host) -> Counter[Connection]:
    """Return the connections without their timeouts, which go on."""
    return Counter(each._replace(expires_s=0) for each in ConnectionReader(host.director.tables).connections())


def lifetimes(host: Host) -> list[int]:
    """Return the seconds that connections have left, in the order of their tuples."""
    return [each.expires_s for each in sorted(ConnectionReader(host.director.tables).connections(), key=str)]


def templates_of(host: Host) -> int:
    """Return how many connections refer to templates."""
    controls = host.director.tables.controls
    return sum(controls.get(slot, "controls") for slot in range(controls.count))


def templates_in(host: Host) -> int:
    """Return how many templates a table has."""
    return sum(each.is_template for each in entries(host.director.tables))


class Sender:
    """What a director sends of its table."""

    def __init__(self, host: Host) -> None:
        with ConnectionTransfer(host.director.state) as transfer:
            self.clock = transfer.clock()
            self.names = unpack_names(pack_names(transfer.names()))
            self.calls = b"".join(transfer.dump(Part.CALLS))
            self.templates = b"".join(transfer.dump(Part.TEMPLATES))
            self.connections = b"".join(transfer.dump(Part.CONNECTIONS))

    def batches(self) -> Iterator[tuple[Part, bytes]]:
        """Yield what is sent, by batches."""
        for part, records, size in (
            (Part.CALLS, self.calls, limits().call),
            (Part.TEMPLATES, self.templates, limits().record),
            (Part.CONNECTIONS, self.connections, limits().record),
        ):
            most = size * limits().batch
            for at in range(0, len(records), most):
                yield part, records[at : at + most]


def take(host: Host, sent: Sender, clock: Clock | None = None) -> Taken:
    """Let a host take what another one sends."""
    taken, templates = Taken(), dict[int, int]()
    with ConnectionTransfer(host.director.state) as transfer, host.director.state.lock():
        slots = transfer.slots(sent.names)
        for part, records in sent.batches():
            taken.add(transfer.take(part, records, slots, templates, sent.clock, clock or transfer.clock()))
    return taken


@contextmanager
def hosts(connections: int = 4096, calls: tuple[ServiceKey, ...] = ()) -> Iterator[tuple[Host, Host]]:
    """Two directors with the same services, of which the second has other slots, and other seeds."""
    with new_host(expires=False) as there:
        serve(there)
        serve_calls(there, calls, (1, 2, 3))
        with new_host(connections=connections, expires=False) as here:
            here.serve(ServiceKey(Protocol.TCP, ip_address(VIP4), 9), 2)
            serve(here, KEYS[::-1], (3, 1, 2))
            serve_calls(here, calls, (3, 1, 2))
            yield there, here


def serve_calls(host: Host, keys: tuple[ServiceKey, ...], servers: tuple[int, ...]) -> None:
    """Serve SIP."""
    for service in keys:
        host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 300, engine="sip"))
        address = server4 if service.address.version == 4 else server6
        for server in servers:
            host.director.add_destination(service, Destination(DestinationKey(ip_address(address(server)), 5060)))


def test_a_copy_has_the_same_connections_templates_and_counts() -> None:
    with hosts() as (there, here):
        fill(there)
        before = listed(there)
        taken = take(here, Sender(there))
        assert (taken.records, taken.refused, taken.newer) == (before.total(), 0, 0)
        assert listed(here) == before
        assert all(abs(one - other) <= 1 for one, other in zip(lifetimes(there), lifetimes(here), strict=True))
        assert templates_of(here) == templates_of(there) > 0
        for service in KEYS:
            assert here.counts(service) == there.counts(service)


@pytest.mark.parametrize("version", [4, 6])
def test_a_copied_call_keeps_its_server_and_its_listing(version: int) -> None:
    client, vip = (CLIENT4, VIP4) if version == 4 else (CLIENT6, VIP6)
    service = ServiceKey(Protocol.UDP, ip_address(vip), 5060)

    def call(number: int, sport: int) -> bytes:
        text = b"INVITE sip:x SIP/2.0\r\nCall-ID: call%d@client\r\n\r\n" % number
        return udp(source=client, target=vip, sport=sport, dport=service.port, payload=text)

    with hosts(calls=(service,)) as (there, here):
        for number in range(7):
            there.run(call(number, 30000 + number), "tc")
        sent, before = Sender(there), listed(there)
        assert len(sent.calls) == 7 * limits().call
        assert take(here, sent).refused == 0
        assert listed(here) == before
        assert templates_of(here) == templates_of(there) == 7
        for number in range(7):
            for host in there, here:
                host.run(call(number, 31000 + number), "tc")
        assert listed(here) == listed(there), "a new connection of a call has the server of its template"
        assert take(here, Sender(there)).refused == 0
        assert listed(here) == listed(there)


def test_calls_that_no_director_sends_change_nothing() -> None:
    form, start = abi.struct("call"), limits().record
    service = ServiceKey(Protocol.UDP, ip_address(VIP4), 5060)
    with hosts(calls=(service,)) as (there, here):
        text = b"INVITE sip:x SIP/2.0\r\nCall-ID: call@client\r\n\r\n"
        there.run(udp(source=CLIENT4, target=VIP4, sport=30000, dport=service.port, payload=text), "tc")
        sent = Sender(there)
        right = sent.calls
        for field, value in ("family", 5), ("length", 0), ("length", 4096), ("length", 3):
            at = start + form.offset(field)
            sent.calls = right[:at] + value.to_bytes(4, "little") + right[at + 4 :]
            with pytest.raises(BadRecords, match="call"):
                take(here, sent)
        sent.calls = right[:-1]
        with pytest.raises(BadRecords, match="no batch"):
            take(here, sent)
        sent.calls, sent.templates = b"", right[:start]
        with pytest.raises(BadRecords, match="flag"):
            take(here, sent)
        assert not listed(here)


def test_a_copied_nat_connection_carries_packets_both_ways() -> None:
    service = next(each for each in KEYS if METHODS[KEYS.index(each) % 3] is Method.MASQ)
    with hosts() as (there, here):
        fill(there, [service])
        (server,) = {each.destination for each in listed(there) if each.client_port == 20001}
        take(here, Sender(there))
        reply = tcp("A", source=str(server), target=CLIENT4, sport=service.port, dport=20001)
        before = listed(here).total()
        assert here.run(reply, "tc").data[26:30] == service.address.packed
        acknowledge(here, 20001, service)
        assert listed(here).total() == before, "no new connection"


def test_what_this_director_has_refreshed_later_stays() -> None:
    with hosts() as (there, here):
        fill(there, [FIRST])
        take(here, Sender(there))
        sent = Sender(there)
        here.wait_ticks()
        for sport in range(20000, 20012):
            acknowledge(here, sport, flags="FA")
        mine = listed(here)
        taken = take(here, sent)
        assert (taken.newer, taken.held) == (12, 12)
        assert listed(here) == mine


def test_what_the_other_director_has_refreshed_later_is_taken() -> None:
    with hosts() as (there, here):
        fill(there, [FIRST])
        take(here, Sender(there))
        there.wait_ticks()
        for sport in range(20000, 20012):
            acknowledge(there, sport, flags="FA")
        assert listed(here) != listed(there)
        taken = take(here, Sender(there))
        assert taken.newer == 0
        assert listed(here) == listed(there)
        assert here.counts(FIRST) == there.counts(FIRST)


def test_a_later_dump_has_only_what_packets_have_changed() -> None:
    with new_host(expires=False) as host, ConnectionTransfer(host.director.state) as transfer:
        serve(host)
        fill(host)

        def changed() -> int:
            return len(b"".join(transfer.dump(Part.CONNECTIONS, changes=True))) // limits().record

        assert changed() == listed(host).total() - templates_in(host)
        assert changed() == 0
        host.wait_ticks()
        acknowledge(host, 20002)
        assert changed() == 0, "it was only refreshed"
        acknowledge(host, 20002, flags="FA")
        assert changed() == 1
        fill(host, [FIRST], first=30000, count=3)
        assert changed() == 3


def test_a_busy_connection_is_dumped_again_after_a_part_of_its_timeout() -> None:
    with new_host(expires=False) as host, ConnectionTransfer(host.director.state) as transfer:
        serve(host, [FIRST])
        fill(host, [FIRST], first=20002, count=1)
        assert b"".join(transfer.dump(Part.CONNECTIONS))
        (connection,) = entries(host.director.tables)
        timeout = host.director.versions.facts().get("timeouts")[abi.constant("STATE_ESTABLISHED")]
        for later, dumped in (timeout // 8, False), (timeout // 8 + 1, True):
            connection.end_at(connection.expiry + later)
            assert bool(b"".join(transfer.dump(Part.CONNECTIONS, changes=True))) is dumped


def test_what_the_expiry_timer_visits_at_this_moment_is_found_by_a_later_dump() -> None:
    with new_host(expires=False) as host, ConnectionTransfer(host.director.state) as transfer:
        serve(host, [FIRST])
        fill(host, [FIRST], first=20002, count=1)
        (connection,) = entries(host.director.tables)
        with MmapArray.open(host.director.tables.path("expiry_ticks")) as ticks:
            ticks.memory[:] = bytes(len(ticks.memory))
        assert not b"".join(transfer.dump(Part.CONNECTIONS, changes=True))
        assert b"".join(transfer.dump(Part.CONNECTIONS)), "all of them"
        connection.end_at(connection.expiry + 1_000_000)
        set_expiry_tick(host.director.tables, connection.slot, connection.expiry)
        assert b"".join(transfer.dump(Part.CONNECTIONS, changes=True))


def test_connections_of_servers_that_are_not_here_are_counted_by_server() -> None:
    with new_host(expires=False) as there:
        serve(there)
        fill(there)
        sent, expected = Sender(there), listed(there)
        with new_host(expires=False) as here:
            serve(here, KEYS[1:], (1, 2))
            taken = take(here, sent)
    lost = {slot for slot in sent.names if slot in taken.unknown}
    assert taken.held == taken.records - sum(taken.unknown.values())
    assert sum(taken.unknown.values()) == sum(
        count
        for each, count in expected.items()
        if (each.virtual, each.virtual_port) == (FIRST.address, FIRST.port)
        or str(each.destination) in (server4(3), server6(3))
    )
    assert len(lost) == len(KEYS) + 2, "all of the first service, and the third server of others"


def test_a_full_table_refuses_and_counts() -> None:
    with hosts(connections=64) as (there, here):
        fill(there)
        taken = take(here, Sender(there))
        assert taken.full > 0
        assert taken.held + taken.full == taken.records
        assert listed(here).total() == taken.held


def test_a_clock_of_another_speed_gives_the_same_lifetimes() -> None:
    with hosts() as (there, here):
        fill(there)
        sent = Sender(there)
        slow = Clock(sent.clock.ticks + 12345, sent.clock.per_second)
        fast = Clock(77, 2 * sent.clock.per_second)
        for wanted in ([10, 20, 4000000000], []):
            there_and_back = fast.converted(slow, slow.converted(fast, wanted))
            assert list(there_and_back) == wanted
        assert take(here, sent).refused == 0


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("family", 5, "family"),
        ("state", 255, "state"),
        ("method", 99, "method"),
        ("has_ended", 1, "flag"),
        ("is_call", 1, "flag"),
        ("synced", 1, "flag"),
        ("tuple", b"\xff" * 40, "tuple"),
    ],
)
def test_records_that_no_director_sends_change_nothing(field: str, value: int | bytes, reason: str) -> None:
    with hosts() as (there, here):
        fill(there, [FIRST])
        sent = Sender(there)
        at = abi.struct("conn_record").offset(field)
        content = bytes([value]) if isinstance(value, int) else value
        sent.connections = sent.connections[:at] + content + sent.connections[at + len(content) :]
        with pytest.raises(BadRecords, match=reason):
            take(here, sent)
        sent.connections = sent.connections[:-1]
        with pytest.raises(BadRecords, match="no batch"):
            take(here, sent)
        assert not listed(here)


def test_the_programs_need_no_map_of_other_processes() -> None:
    assert set(abi.TRANSFERRED) <= set(abi.UNPINNED)
    assert not set(abi.TRANSFERRED) & set(load.CONNECTION_MAPS)
