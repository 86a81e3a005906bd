"""Connections that another director announces: stored, listed, counted and forwarded (IPVS-SEMANTICS 10.5)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.dataplane import load
from pylvs.dataplane.sync.feed import SyncFeed
from pylvs.dataplane.sync.store import StoreCounts, SyncStore
from pylvs.model.dataclass import replace
from pylvs.model.director import SCTP_STATES, TCP_STATES, Connection
from pylvs.model.errors import PylvsError
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.model.sync.connection import SyncedConnection, SyncFlag
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp, udp
from tests.packet.host import HOOKS, SENT, TC_DROP, VIP4, VIP6, Host, new_host, server4, server6, server_mac
from tests.packet.test_sip import message
from tests.packet.test_sip import serve as serve_sip
from tests.packet.test_sync_feed import summary

TEMPLATE = SyncFlag.TEMPLATE | SyncFlag.INACTIVE
METHODS = (Method.MASQ, Method.TUNNEL, Method.ROUTE)


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(recycled=True, expires=False) as made:
        yield made


@pytest.fixture
def store(host: Host) -> Iterator[SyncStore]:
    with SyncStore(host.director.tables) as made:
        yield made


def announced(
    service: ServiceKey,
    sport: int = 6000,
    server: int = 1,
    state: int = 1,
    method: Method = Method.ROUTE,
    port: int | None = None,
    timeout_s: int | None = 500,
    flags: int = 0,
    mark: int = 0,
) -> SyncedConnection:
    """Return an announcement of a connection of the test's client to one of the first real servers."""
    version = service.address.version
    return SyncedConnection(
        service.protocol,
        ip_address(CLIENT4 if version == 4 else CLIENT6),
        sport,
        service.address,
        service.port,
        ip_address(server4(server) if version == 4 else server6(server)),
        service.port if port is None else port,
        flags | method | (0 if method == Method.MASQ else SyncFlag.NOOUTPUT),
        state,
        timeout_s,
        mark,
    )


def listed(host: Host) -> dict[int, Connection]:
    """Return the connections by the client's port."""
    return {each.client_port: each for each in host.director.connections()}


def forwarded_to(host: Host, frame: bytes, hook: str = "tc") -> int:
    """Return the number of the real server that receives a frame."""
    macs = {server_mac(number): number for number in range(1, 9)}
    return macs[parsed(host.forwarded(frame, hook)).dst]


def client_frame(service: ServiceKey, flags: str = "A", sport: int = 6000) -> bytes:
    version = service.address.version
    client, vip = (CLIENT4, VIP4) if version == 4 else (CLIENT6, VIP6)
    return tcp(flags, sport, service.port, client, vip)


@pytest.mark.parametrize(
    ("protocol", "names"), [(Protocol.TCP, TCP_STATES), (Protocol.SCTP, SCTP_STATES), (Protocol.UDP, ["UDP"])]
)
def test_connections_in_each_state_are_listed_and_counted(
    host: Host, store: SyncStore, protocol: Protocol, names: list[str]
) -> None:
    service = host.new_key(protocol)
    host.serve(service, 1)
    done = store.store(
        announced(service, 6000 + state, state=state, timeout_s=100 + state) for state in range(len(names))
    )
    assert done == StoreCounts(created=len(names))
    rows = listed(host)
    for state, name in enumerate(names):
        row = rows[6000 + state]
        assert (row.state, row.protocol, str(row.destination)) == (name, protocol, server4(1))
        assert 98 + state <= row.expires_s <= 100 + state
    active = sum(name in ("ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK") for name in names)
    assert host.counts(service) == {server4(1): (active, len(names) - active)}


AFTER_AN_ACK = (  # by state, as in the recording sync_backup
    *("ESTABLISHED", "ESTABLISHED", "SYN_SENT", "ESTABLISHED", "FIN_WAIT", "TIME_WAIT"),
    *("CLOSE", "CLOSE_WAIT", "CLOSE", "LISTEN", "ESTABLISHED"),
)


@pytest.mark.parametrize(("state", "after"), [*enumerate(AFTER_AN_ACK)])
def test_a_packet_continues_a_connection_as_in_ipvs(host: Host, store: SyncStore, state: int, after: str) -> None:
    service = host.new_key()
    host.serve(service, 1)
    store.store([announced(service, state=state)])
    assert forwarded_to(host, client_frame(service)) == 1
    assert listed(host)[6000].state == after


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("method", METHODS)
def test_packets_of_stored_connections_are_forwarded(
    host: Host, store: SyncStore, method: Method, version: int, hook: str
) -> None:
    service = host.new_key(vip=VIP4 if version == 4 else VIP6)
    host.serve(service, 2, method, port=8080 if method == Method.MASQ else None)
    port = 8080 if method == Method.MASQ else service.port
    store.store([announced(service, 6000 + number, number, method=method, port=port) for number in (1, 2)])
    for number in 1, 2, 1:
        frame = client_frame(service, sport=6000 + number)
        assert forwarded_to(host, frame, hook) == number
        if method == Method.MASQ:
            source, client = (server4(number), CLIENT4) if version == 4 else (server6(number), CLIENT6)
            reply = parsed(host.forwarded(tcp("A", 8080, 6000 + number, source, client), hook))
            assert (reply.payload.src, reply.sport) == ((VIP4 if version == 4 else VIP6), service.port)


def test_missing_timeouts_are_those_of_the_state(host: Host, store: SyncStore) -> None:
    """Version 0 has none; a template's is 180 s."""
    service = host.new_key()
    host.serve(service, 1)
    store.store(
        [
            *(announced(service, 6000 + number, state=state, timeout_s=None) for number, state in enumerate((1, 4))),
            announced(service, 0, state=0, timeout_s=0, flags=TEMPLATE),
        ]
    )
    rows = listed(host)
    assert [rows[port].expires_s + 1 for port in (6000, 6001, 0)] == pytest.approx([900, 120, 180], abs=1)


def test_another_announcement_updates_state_timeout_and_counts(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 2)
    store.store([announced(service)])
    assert host.counts(service)[server4(1)] == (1, 0)
    done = store.store([announced(service, state=4, timeout_s=77, flags=SyncFlag.INACTIVE)])
    assert done == StoreCounts(updated=1)
    assert (listed(host)[6000].state, host.counts(service)[server4(1)]) == ("FIN_WAIT", (0, 1))
    assert 75 <= listed(host)[6000].expires_s <= 77
    assert store.store([announced(service, timeout_s=50), announced(service, timeout_s=70)]) == StoreCounts(updated=2)
    assert 68 <= listed(host)[6000].expires_s <= 70
    assert host.counts(service)[server4(1)] == (1, 0)


def test_another_server_replaces_a_connection_unless_it_is_inactive(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 2)
    store.store([announced(service)])
    assert store.store([announced(service, server=2)]) == StoreCounts(replaced=1)
    assert host.counts(service) == {server4(1): (0, 0), server4(2): (1, 0)}
    assert forwarded_to(host, client_frame(service)) == 2
    assert store.store([announced(service, state=5, flags=SyncFlag.INACTIVE)]) == StoreCounts(ignored=1)
    assert host.counts(service) == {server4(1): (0, 0), server4(2): (1, 0)}
    assert forwarded_to(host, client_frame(service)) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_server_that_no_service_lists_gets_its_connections(host: Host, store: SyncStore, method: Method) -> None:
    """As in IPVS. Once its service lists it, it counts them."""
    service, other = host.new_key(), host.new_key()
    host.serve(service, 1, method)
    done = store.store(
        [
            announced(service, 6000, 3, method=method),
            announced(service, 6001, 1, method=method, port=service.port + 1),
            announced(other, 6002, 3, method=method),
            announced(service, 6003, 1, method=method),
        ]
    )
    assert done == StoreCounts(created=4, unlisted=3)
    assert host.counts(service) == {server4(1): (1, 0)}
    rows = listed(host)
    assert (str(rows[6000].destination), rows[6001].destination_port) == (server4(3), service.port + 1)
    assert forwarded_to(host, client_frame(service)) == 3
    assert forwarded_to(host, client_frame(service, sport=6001)) == 1
    assert forwarded_to(host, client_frame(other, sport=6002)) == 3
    host.director.add_destination(service, Destination(DestinationKey(ip_address(server4(3)), service.port), method))
    assert host.counts(service) == {server4(3): (1, 0), server4(1): (1, 0)}
    assert forwarded_to(host, client_frame(service)) == 3
    assert store.store([announced(service, 6000, 3, method=method)]) == StoreCounts(updated=1)
    assert host.counts(service) == {server4(3): (1, 0), server4(1): (1, 0)}


def test_a_connection_changes_to_the_service_that_lists_its_server(host: Host, store: SyncStore) -> None:
    """It was announced before there was a service: one of all ports lists the server now."""
    service = host.new_key()
    store.store([announced(service)])
    everything = replace(service, port=0)
    host.director.add_service(VirtualService(everything, "rr", ServiceFlag.PERSISTENT, 60))
    host.director.add_destination(everything, Destination(DestinationKey(ip_address(server4(1)), 0), Method.ROUTE))
    assert host.counts(everything) == {server4(1): (0, 0)}
    assert store.store([announced(service)]) == StoreCounts(updated=1)
    assert host.counts(everything) == {server4(1): (1, 0)}
    assert forwarded_to(host, client_frame(service)) == 1


def test_unlisted_servers_are_few(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    store._most_unlisted = 2
    done = store.store([announced(service, 6000 + number, number) for number in range(1, 5)])
    assert done == StoreCounts(created=2, full=2, unlisted=2)
    top = host.director.tables.book.get(0, "destination_top")
    store.store([announced(service, 6000 + number, number) for number in range(1, 5)])
    assert host.director.tables.book.get(0, "destination_top") == top


def test_the_method_is_that_of_the_destination_here(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 1, Method.TUNNEL)
    store.store([announced(service, method=Method.ROUTE)])
    assert parsed(host.forwarded(client_frame(service), "tc")).payload.payload.name == "IP", "IP in IP"


def test_a_deleted_server_is_found_again(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    keys = host.serve(service, 2)
    host.director.delete_destination(service, keys[1])
    assert store.store([announced(service, server=2)]) == StoreCounts(created=1, unlisted=1)
    assert host.run(client_frame(service), "tc").verdict == TC_DROP, "as all of this server"
    host.director.add_destination(service, Destination(keys[1], Method.ROUTE, 0))
    assert host.counts(service)[server4(2)] == (1, 0)
    assert forwarded_to(host, client_frame(service)) == 2


def test_templates_choose_the_server_of_new_connections(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 60))
    for number in 1, 2:
        key = DestinationKey(ip_address(server4(number)), service.port)
        host.director.add_destination(service, Destination(key, Method.ROUTE))
    clients = [ip_address(f"198.18.1.{number}") for number in range(4)]
    templates = [
        replace(announced(service, 0, server, state, timeout_s=300, flags=TEMPLATE), client=client)
        for client, server, state in zip(clients, (1, 2, 2, 4), (0, 0, 1, 0), strict=True)
    ]
    assert store.store(templates) == StoreCounts(created=4, unlisted=1)
    rows = {str(each.client): each for each in host.director.connections()}
    assert [rows[str(client)].state for client in clients] == ["NONE", "NONE", "ASSURED", "NONE"]
    assert all(298 <= row.expires_s <= 300 for row in rows.values())
    (row,) = (each for each in host.director.services() if each.service.key == service)
    assert {str(each.destination.key.address): each.persistent for each in row.destinations} == {
        server4(1): 1,
        server4(2): 2,
    }
    for client, server in zip(clients, (1, 2, 2), strict=False):
        assert forwarded_to(host, tcp("S", 6000, service.port, str(client), VIP4)) == server
    assert forwarded_to(host, tcp("S", 6000, service.port, str(clients[3]), VIP4)) in (1, 2)
    retired = [each for each in host.director.connections() if each.virtual_port == 65535]
    assert [str(each.destination) for each in retired] == [server4(4)]
    assert store.store(templates[:1]) == StoreCounts(updated=1)
    other = replace(templates[0], server=ip_address(server4(2)))
    assert store.store([other]) == StoreCounts(updated=1), "it keeps its server"
    assert forwarded_to(host, tcp("S", 6001, service.port, str(clients[0]), VIP4)) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_mark_finds_its_service_first(host: Host, store: SyncStore, version: int) -> None:
    """There port 0 comes first, without NAT. Without a service of the mark, the address decides."""
    vip = VIP4 if version == 4 else VIP6
    marked, service = ServiceKey.of_mark(9, 2 if version == 4 else 10), host.new_key(vip=vip)
    host.serve(service, 1)
    server = ip_address(server4(6) if version == 4 else server6(6))
    host.director.add_service(VirtualService(marked, "rr"))
    host.director.add_destination(marked, Destination(DestinationKey(server, 0), Method.ROUTE))
    done = store.store(
        [announced(service, 6000, 6, mark=9), announced(service, 6001, 6, mark=10), announced(service, 6002, mark=10)]
    )
    assert done == StoreCounts(created=3, unlisted=1)
    assert host.counts(marked) == {str(server): (1, 0)}
    assert sum(map(sum, host.counts(service).values())) == 1
    for sport, number in (6000, 6), (6001, 6), (6002, 1):
        assert forwarded_to(host, client_frame(service, sport=sport)) == number


def test_what_ipvs_refuses_is_invalid(host: Host, store: SyncStore) -> None:
    service, datagrams = host.new_key(), host.new_key(Protocol.UDP)
    host.serve(service, 1)
    good = announced(service)
    bad = (
        replace(good, state=11),
        replace(good, state=65535),
        replace(good, protocol=99),
        replace(good, protocol=0),
        replace(good, flags=good.flags | SyncFlag.ONE_PACKET),
        replace(announced(datagrams), state=1),
        replace(good, state=0, flags=good.flags | TEMPLATE | SyncFlag.NO_CPORT),
        replace(good, state=0, flags=good.flags | TEMPLATE | SyncFlag.ONE_PACKET),
    )
    top = host.director.tables.book.get(0, "destination_top")
    assert store.store([good, *bad]) == StoreCounts(created=1, invalid=len(bad))
    assert len(listed(host)) == 1
    assert host.director.tables.book.get(0, "destination_top") == top


@pytest.mark.parametrize(("state", "listed_as"), [(0, "NONE"), (1, "ASSURED"), (2, "NONE"), (3, "ASSURED")])
def test_a_template_has_one_bit_of_state(state: int, listed_as: str, host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 1)
    template = replace(announced(service, 0), state=state, flags=announced(service).flags | TEMPLATE)
    assert store.store([template]) == StoreCounts(created=1)
    assert listed(host)[0].state == listed_as


def test_unknown_flags_and_methods_are_ignored(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 1)
    flags = [0x20, 0x40, 0x4000, 0x10000, 0x80000000, *range(8)]
    connections = [replace(announced(service, 6000 + number), flags=value) for number, value in enumerate(flags)]
    assert store.store(connections) == StoreCounts(created=len(flags))
    for number in range(len(flags)):
        assert forwarded_to(host, client_frame(service, sport=6000 + number)) == 1


def test_data_of_an_engine_belong_to_templates_alone(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 1)
    assert store.store([replace(announced(service), engine="sip", data=b"one@here")]) == StoreCounts(created=1)
    assert listed(host)[6000].engine_data == ""
    assert forwarded_to(host, client_frame(service)) == 1


def test_sequence_data_are_announced_again(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 1, Method.MASQ)
    first, second = bytes(range(24)), bytes(range(24, 48))
    both = SyncFlag.OUT_SEQ | SyncFlag.IN_SEQ
    plain = announced(service, method=Method.MASQ)
    with SyncFeed(host.director.tables) as feed:
        for sequence in first, second:
            store.store([replace(plain, flags=plain.flags | both, sequence=sequence)])
            (again,) = feed.announce_all()
            assert (again.sequence, again.flags) == (sequence, both | SyncFlag.SYNC)
        store.store([plain])
        assert [each.sequence for each in feed.announce_all()] == [second]
    store.store([replace(plain, server=ip_address(server4(2)))])
    assert not len(host.director.tables.synced_sequences), "those of a connection that ended are gone"


@pytest.mark.parametrize("version", [4, 6])
def test_the_template_of_a_call_is_found_by_its_call_id(host: Host, store: SyncStore, version: int) -> None:
    service = serve_sip(host, version=version)
    template = announced(service, 0, 2, state=0, flags=TEMPLATE, timeout_s=300)
    calls = [replace(template, engine="sip", data=f"{number}@here".encode()) for number in range(40)]
    assert store.store(calls) == StoreCounts(created=40)
    assert store.store(calls[:3]) == StoreCounts(updated=3)
    assert {each.engine_data for each in host.director.connections()} == {f"{number}@here" for number in range(40)}
    client, vip = (CLIENT4, VIP4) if version == 4 else (CLIENT6, VIP6)
    for number in range(5):
        frame = udp(6000 + number, service.port, client, vip, message(f"{number}@here"))
        assert forwarded_to(host, frame) == 2


def test_packets_count_from_the_threshold_on(host: Host, store: SyncStore) -> None:
    """So a stored connection is announced after a whole period."""
    service = host.new_key()
    host.serve(service, 1)
    host.director.change_setting("sync_threshold", 3)
    host.director.change_setting("sync_period", 5)
    with SyncFeed(host.director.tables) as feed:
        store.store([announced(service)])
        for _ in range(4):
            host.run(client_frame(service))
        assert feed.read() == []
        host.run(client_frame(service))
        assert summary(feed.read()) == "1/a3"


def test_the_expiry_timer_keeps_an_announced_timeout() -> None:
    """It shortens others that are longer than the state's."""
    with new_host(expires=False) as host, SyncStore(host.director.tables) as store:
        service = host.new_key()
        host.serve(service, 1)
        store.store([announced(service, state=4, timeout_s=5000, flags=SyncFlag.INACTIVE)])
        ticks = host.director.tables.open_array("expiry_ticks")
        due = (load.clock(host.director.state) - 1 & 0xFFFFFFFF).to_bytes(4, "little")
        ticks.memory[:] = due * (len(ticks.memory) // 4)
        host.expiry.run(host.director)
        assert listed(host)[6000].expires_s > 4000


def test_a_full_table_refuses_and_counts() -> None:
    with new_host(connections=1024, expires=False) as host, SyncStore(host.director.tables) as store:
        service = host.new_key()
        host.serve(service, 1)
        done = store.store(announced(service, 1 + number) for number in range(1500))
        assert (done.created + done.full, done.created) == (1500, len(listed(host)))
        assert 1000 < done.created <= 1024


def test_what_one_director_announces_another_one_has() -> None:
    with new_host() as host, SyncFeed(host.director.tables) as feed:
        service, persistent, calls = key_of_each(host)
        for sport in range(6000, 6040):
            for flags in "SAFA"[: 1 + sport % 4]:
                host.run(tcp(flags.replace("F", "FA"), sport, service.port), "tc")
                host.run(tcp(flags.replace("F", "FA"), sport, persistent.port), "tc")
        host.run(udp(6000, calls.port, payload=message("one@here")), "tc")
        announcements = list(feed.announce_all())
    with new_host() as other, SyncStore(other.director.tables) as store, SyncFeed(other.director.tables) as feed:
        key_of_each(other)
        assert store.store(announcements) == StoreCounts(created=len(announcements))
        copies = {replace(each, age_ms=None) for each in feed.announce_all()}  # a tick may pass between the two
    assert copies == {replace(each, flags=each.flags | SyncFlag.SYNC, age_ms=None) for each in announcements}


def key_of_each(host: Host) -> tuple[ServiceKey, ServiceKey, ServiceKey]:
    """Add a service, a persistent one, and one of SIP, with fixed ports."""
    plain, persistent, calls = (
        ServiceKey(protocol, ip_address(VIP4), port)
        for protocol, port in ((Protocol.TCP, 80), (Protocol.TCP, 81), (Protocol.UDP, 5060))
    )
    host.serve(plain, 2, Method.MASQ)
    for service, engine in (persistent, ""), (calls, "sip"):
        host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 300, engine=engine))
        for number in 1, 2:
            key = DestinationKey(ip_address(server4(number)), service.port)
            host.director.add_destination(service, Destination(key, Method.ROUTE))
    return plain, persistent, calls


def test_another_table_has_the_stored_connections() -> None:
    """A store follows to it."""
    with new_host(expires=False) as host, SyncStore(host.director.tables) as store:
        service = host.new_key()
        host.serve(service, 1)
        sequence = replace(announced(service, 6001), flags=0x683, sequence=bytes(range(24)))
        store.store([announced(service, 6000, 3), sequence])
        host.director.change_setting("conn_max", 8192)
        host.close_programs()
        assert {port: str(row.destination) for port, row in listed(host).items()} == {
            6000: server4(3),
            6001: server4(1),
        }
        assert store.store([announced(service, 6002), sequence]) == StoreCounts(created=1, updated=1)
        with SyncFeed(host.director.tables) as feed:
            assert {each.client_port: each.sequence for each in feed.announce_all()}[6001] == bytes(range(24))
        for sport, number in (6000, 3), (6001, 1), (6002, 1):
            assert forwarded_to(host, client_frame(service, sport=sport)) == number


def test_a_store_needs_tables() -> None:
    with new_host() as host:
        store = SyncStore(host.director.tables)
        host.close_programs()
        load.take_down(host.director.state)
        with pytest.raises(PylvsError, match="no tables in this network namespace"):
            store.store([announced(ServiceKey(Protocol.TCP, ip_address(VIP4), 80))])
        store.close()


@pytest.mark.parametrize("hook", HOOKS)
def test_with_backup_only_packets_of_services_pass(host: Host, store: SyncStore, hook: str) -> None:
    """While a backup sync daemon runs (IPVS-SEMANTICS 2.2)."""
    service = host.new_key()
    host.serve(service, 1)
    store.store([announced(service)])
    known, unknown = client_frame(service), client_frame(service, "S", 6001)
    assert forwarded_to(host, known, hook) == 1
    until = load.clock(host.director.state) + 1000 & 0xFFFFFFFF
    host.director.tables.root.publish(0, "backup", until)
    assert host.run(known, hook).verdict in SENT[hook]
    host.director.change_setting("backup_only", 1)
    for frame in known, unknown:
        assert host.receive(frame)[1].data == frame
        assert host.receive(frame)[1].verdict not in SENT["tc"]
    host.director.tables.root.publish(0, "backup", 0)
    assert host.run(known, hook).verdict in SENT[hook]


# --- the whole table of another director ---

ESTABLISHED, FIN_WAIT = 1, 4


def whole(service: ServiceKey, state: int, age_s: float, timeout_s: int, server: int = 1) -> SyncedConnection:
    """Return a connection of a whole table, which was refreshed so long ago."""
    made = announced(service, state=state, timeout_s=timeout_s, server=server)
    return replace(made, age_ms=round(age_s * 1000))


@pytest.mark.parametrize(
    ("here", "there", "age_s", "result"),
    [
        # a copy that missed the end of the connection does not bring it back
        (FIN_WAIT, ESTABLISHED, 10.0, "FIN_WAIT"),
        (FIN_WAIT, ESTABLISHED, 0.0, "FIN_WAIT"),
        # the end counts, though the copy may be refreshed a little later
        (ESTABLISHED, FIN_WAIT, 0.0, "FIN_WAIT"),
        (ESTABLISHED, FIN_WAIT, 2.0, "FIN_WAIT"),
        # a connection of before
        (ESTABLISHED, FIN_WAIT, 60.0, "ESTABLISHED"),
    ],
)
def test_of_a_whole_table_only_what_is_newer_counts(
    host: Host, store: SyncStore, here: int, there: int, age_s: float, result: str
) -> None:
    service = host.new_key()
    host.serve(service, 1)
    store.store([announced(service, state=here, timeout_s=900 if here == ESTABLISHED else 120)])
    done = store.store([whole(service, there, age_s, 100)])
    assert listed(host)[6000].state == result
    assert (done.newer, done.updated) == ((1, 0) if TCP_STATES[here] == result else (0, 1))


def test_of_a_whole_table_a_newer_copy_refreshes_and_an_older_one_does_not(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 1)
    store.store([announced(service, timeout_s=800)])  # refreshed 100 s ago
    assert store.store([whole(service, ESTABLISHED, 200.0, 700)]).newer == 1
    assert 795 <= listed(host)[6000].expires_s <= 800
    assert store.store([whole(service, ESTABLISHED, 50.0, 850)]).updated == 1
    assert 845 <= listed(host)[6000].expires_s <= 850


def test_of_a_whole_table_a_missing_connection_is_made_for_the_rest_of_its_time(host: Host, store: SyncStore) -> None:
    service = host.new_key()
    host.serve(service, 1)
    assert store.store([whole(service, ESTABLISHED, 800.0, 100)]).created == 1
    assert 95 <= listed(host)[6000].expires_s <= 100


def test_of_a_whole_table_an_older_copy_does_not_move_a_connection_to_another_server(
    host: Host, store: SyncStore
) -> None:
    service = host.new_key()
    host.serve(service, 2)
    store.store([announced(service, server=1, timeout_s=900)])
    assert store.store([whole(service, ESTABLISHED, 30.0, 870, server=2)]).newer == 1
    assert str(listed(host)[6000].destination) == server4(1)
    assert store.store([announced(service, server=2, timeout_s=900)]).replaced == 1
