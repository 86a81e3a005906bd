"""A flood of SYNs or UDP: half-open and unconfirmed connections give way, and established ones are never ended."""

from __future__ import annotations

import itertools
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from pylvs.bpf import abi, maps
from pylvs.dataplane import load
from pylvs.dataplane.reader import table_use
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.reference.packet import ETHER_BYTES, checksum
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp, udp
from tests.packet.host import HOOKS, VIP4, VIP6, Host, new_host, on_cpu, server4, server6
from tests.packet.table import entries, set_expiry_tick

CAPACITY = 4096
METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)
HOLDING = 200  # established connections
CPUS = sorted(os.sched_getaffinity(0))
FIRST = 1 << 16  # number of the first client in tests that know their clients


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as made, on_cpu(CPUS[0]):
        yield made


@pytest.fixture
def empty() -> Iterator[Host]:
    """Return a host whose table no other test has filled."""
    with new_host(connections=CAPACITY, expires=False, recycled=True) as made, on_cpu(CPUS[0]):
        yield made


_clients = itertools.count(1)  # numbers of client addresses, each used once


def packet(flags: str, service: ServiceKey, sport: int) -> bytes:
    client = CLIENT4 if service.address.version == 4 else CLIENT6
    ends = {"source": client, "target": str(service.address), "sport": sport, "dport": service.port}
    return udp(**ends) if service.protocol == Protocol.UDP else tcp(flags, **ends)


def change_queues(host: Host, **values: int) -> None:
    """Change what each CPU knows of the half-open connections that it ended."""
    codec = abi.struct("half_open_queue")
    with maps.PerCpuArray.open(host.director.tables.path("half_open_queues")) as queues:
        raw = bytearray(queues.get(0) or b"")
        for at in range(0, len(raw), queues.stride):
            codec.pack_into(raw, at, values)
        queues.put(0, bytes(raw))


def flood(host: Host, service: ServiceKey, count: int, hook: str = "xdp", flags: str = "S") -> None:
    """Receive packets, each of another client."""
    frame = packet(flags, service, 1024)
    for number in itertools.islice(_clients, count):
        host.run(from_client(number, frame), hook)


def shake_hands(host: Host, service: ServiceKey, sports: Iterable[int]) -> None:
    """Open connections, one after the other."""
    for sport in sports:
        host.run(packet("S", service, sport))
        host.run(packet("A", service, sport))


def from_client(number: int, frame: bytes) -> bytes:
    """Return the frame from another address. scapy would take ten times as long.

    Its L4 checksum differs from the pseudo header's sum as before. Where both are equal, the checksum looks unfinished,
    so XDP passes the frame to TC. If the checksum stayed, that would be so for one client in 65,535.
    """
    if frame[12:14] == b"\x08\x00":
        return _with_address4(frame, 12, number)
    made = bytearray(frame)
    _replace_address(made, ETHER_BYTES + 20, number, ETHER_BYTES + 40, frame[ETHER_BYTES + 6])
    return bytes(made)


def to_client(number: int, frame: bytes) -> bytes:
    """Return the IPv4 frame with the address of another client as its daddr."""
    return _with_address4(frame, 16, number)


def _with_address4(frame: bytes, offset: int, number: int) -> bytes:
    made = bytearray(frame)
    address = (198 << 24 | 18 << 16) + number
    _replace_address(made, ETHER_BYTES + offset, address, ETHER_BYTES + 20, frame[ETHER_BYTES + 9])
    struct.pack_into("!H", made, ETHER_BYTES + 10, 0)
    struct.pack_into("!H", made, ETHER_BYTES + 10, checksum(made[ETHER_BYTES : ETHER_BYTES + 20]))
    return bytes(made)


def _replace_address(made: bytearray, offset: int, word: int, l4: int, protocol: int) -> None:
    """Write the last word of an address, and add the change to the L4 checksum, unless UDP has none."""
    at = l4 + (16 if protocol == Protocol.TCP else 6)
    high, low, check = *struct.unpack_from("!HH", made, offset), *struct.unpack_from("!H", made, at)
    struct.pack_into("!I", made, offset, word)
    if check:
        struct.pack_into("!H", made, at, (check + (word >> 16) + (word & 0xFFFF) - high - low) % 0xFFFF or 0xFFFF)


def serve(
    host: Host,
    family: int,
    method: Method,
    flags: ServiceFlag = ServiceFlag(0),
    protocol: Protocol = Protocol.TCP,
) -> ServiceKey:
    service = host.new_key(protocol, VIP4 if family == 4 else VIP6)
    host.director.add_service(VirtualService(service, "rr", flags, timeout_s=300))
    for number in 1, 2, 3:
        address = ip_address(server4(number) if family == 4 else server6(number))
        host.director.add_destination(service, Destination(DestinationKey(address, service.port), method))
    return service


def states(host: Host, service: ServiceKey) -> Counter[str]:
    found = [each for each in host.director.connections() if each.virtual_port == service.port]
    return Counter(each.state if each.client_port else "template" for each in found)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_flood_of_ten_times_the_table_leaves_established_connections_and_space(
    host: Host, method: Method, family: int, hook: str
) -> None:
    service, full = serve(host, family, method), host.reason("TABLE_FULL_STATELESS")
    for sport in range(2000, 2000 + HOLDING):
        host.run(packet("S", service, sport), hook)
        host.run(packet("A", service, sport), hook)
    flood(host, service, 10 * CAPACITY, hook)
    assert states(host, service)["ESTABLISHED"] == HOLDING
    assert host.pool("used") <= CAPACITY * 7 // 8  # with the half-open ones of several cases
    assert host.reason("TABLE_FULL_STATELESS") == full
    assert host.reason("TABLE_FULL_DROPPED") == 0


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_forged_rst_lets_no_connection_give_way(empty: Host, method: Method, family: int) -> None:
    service, idle, used = serve(empty, family, method), range(2000, 2010), range(2010, 2010 + HOLDING)
    shake_hands(empty, service, used)
    for sport in used if method == Method.MASQ else ():
        server, client = (server4, CLIENT4) if family == 4 else (server6, CLIENT6)
        for number in 1, 2, 3:
            empty.run(tcp("A", service.port, sport, server(number), client))
    for sport in used:
        empty.run(packet("R", service, sport))
    assert states(empty, service) == {"CLOSE": HOLDING}
    for sport in idle:
        empty.run(packet("S", service, sport))
        empty.run(packet("R", service, sport))
    flood(empty, service, 4 * CAPACITY)
    found = [each for each in empty.director.connections() if each.client_port in (*idle, *used)]
    assert Counter(each.state for each in found) == {"CLOSE": HOLDING}


@pytest.mark.parametrize("flags", [ServiceFlag(0), ServiceFlag.PERSISTENT], ids=["plain", "persistent"])
def test_confirmed_udp_of_a_service_leaves_entries_to_other_services_by_nat(empty: Host, flags: ServiceFlag) -> None:
    """Two forged datagrams of a client make a connection that does not give way, and NAT needs a connection."""
    flooded = serve(empty, 4, Method.MASQ, protocol=Protocol.UDP)
    others = serve(empty, 4, Method.MASQ, flags), serve(empty, 4, Method.MASQ, flags, Protocol.UDP)
    frame = packet("", flooded, 1024)
    for number in range(FIRST, FIRST + 2 * CAPACITY):
        for _ in range(2):
            empty.run(from_client(number, frame))
    assert empty.pool("used") > CAPACITY * 7 // 8
    for sport in range(3000, 3050):
        for service in others:
            empty.forwarded(packet("S", service, sport))


@pytest.mark.parametrize("closing", ["the server's RST", "the server's RST behind an ACK", "a single FIN"])
def test_a_flood_of_closed_connections_leaves_space(empty: Host, closing: str) -> None:
    empty.director.change_setting("sloppy_tcp", 1)
    by_server, acked = closing != "a single FIN", closing.endswith("ACK")
    service = empty.new_key()
    empty.serve(service, 1, Method.MASQ)
    shake_hands(empty, service, range(2000, 2000 + HOLDING))
    frame = packet("S" if by_server else "F", service, 1024)
    answer = tcp("RA", service.port, 1024, server4(1), CLIENT4)
    for number in range(FIRST, FIRST + 4 * CAPACITY):
        empty.run(from_client(number, frame))
        if acked:
            empty.run(from_client(number, packet("A", service, 1024)))
        if by_server:
            empty.run(to_client(number, answer))
    found = states(empty, service)
    assert (found["ESTABLISHED"], set(found)) == (HOLDING, {"ESTABLISHED", "CLOSE"})
    assert empty.pool("used") <= CAPACITY * 5 // 8
    assert empty.reason("TABLE_FULL_DROPPED") == 0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_handshakes_complete_during_a_flood(host: Host, method: Method) -> None:
    service = serve(host, 4, method)
    flood(host, service, CAPACITY)
    for sport in range(3000, 3050):
        change_queues(host, ended_in_tick=0, flooded_until=0)  # else the SYN may get no connection (test_flood.py)
        first = host.forwarded(packet("S", service, sport))
        flood(host, service, CAPACITY // 16)
        second = host.forwarded(packet("A", service, sport))
        assert parsed(first).dst == parsed(second).dst
    assert states(host, service)["ESTABLISHED"] == 50


@pytest.mark.parametrize("family", [4, 6])
def test_another_service_keeps_its_half_open_connections(host: Host, family: int) -> None:
    attacked, quiet = serve(host, family, Method.ROUTE), serve(host, family, Method.ROUTE)
    flood(host, attacked, CAPACITY)
    for sport in range(3000, 3020):
        host.run(packet("S", quiet, sport))
    flood(host, attacked, 2 * CAPACITY)
    assert states(host, quiet) == {"SYN_RECV": 20}


@pytest.mark.parametrize(("count", "few"), [(20, 20), (300, 2)])
def test_a_flood_to_many_services_leaves_space(empty: Host, count: int, few: int) -> None:
    """A service with fewer handshakes than each of the others keeps its own."""
    quiet = serve(empty, 4, Method.MASQ)
    shake_hands(empty, quiet, range(2000, 2000 + HOLDING))
    attacked = [serve(empty, 4, Method.MASQ) for _ in range(count)]
    frames = [packet("S", service, 1024) for service in attacked]
    for number in range(FIRST, FIRST + 2 * CAPACITY):
        empty.run(from_client(number, frames[number % count]))
    for sport in range(5000, 5000 + few):
        empty.run(packet("S", quiet, sport))
    for number in range(FIRST + 2 * CAPACITY, FIRST + 6 * CAPACITY):
        empty.run(from_client(number, frames[number % count]))
    assert states(empty, quiet) == {"ESTABLISHED": HOLDING, "SYN_RECV": few}
    assert empty.pool("used") <= CAPACITY * 5 // 8
    assert empty.reason("TABLE_FULL_DROPPED") == 0


def test_a_flood_to_a_persistent_service_leaves_space_before_the_timer_runs(empty: Host) -> None:
    service = serve(empty, 4, Method.MASQ, ServiceFlag.PERSISTENT)
    flood(empty, service, 4 * CAPACITY)
    assert empty.pool("used") <= CAPACITY * 5 // 8
    assert empty.reason("TABLE_FULL_DROPPED") == 0


def test_a_flood_of_one_packet_scheduling_leaves_space_and_templates_of_other_clients(empty: Host) -> None:
    service = serve(empty, 4, Method.ROUTE, ServiceFlag.PERSISTENT | ServiceFlag.ONE_PACKET, Protocol.UDP)
    for sport in 2000, 2001:
        empty.run(packet("", service, sport), "tc")
    flood(empty, service, 4 * CAPACITY, "tc")
    assert empty.pool("used") <= CAPACITY * 5 // 8
    assert {"table_full_stateless", "table_full_dropped"}.isdisjoint(empty.reasons())
    found = list(empty.director.connections())
    assert {each.client_port for each in found} == {0}
    assert ip_address(CLIENT4) in {each.client for each in found}


@pytest.mark.parametrize("flags", ["S", "F"])  # with sloppy_tcp a FIN makes a closed connection
@pytest.mark.parametrize("other", [0, CAPACITY // 2])
def test_a_handshake_that_expires_takes_its_template_along_in_a_half_full_table(
    empty: Host, other: int, flags: str
) -> None:
    empty.director.change_setting("sloppy_tcp", 1)
    filled, service = serve(empty, 4, Method.ROUTE), serve(empty, 4, Method.ROUTE, ServiceFlag.PERSISTENT)
    shake_hands(empty, filled, range(2000, 2000 + other))
    flood(empty, service, 50, flags=flags)
    tables = empty.director.tables
    past = load.clock(tables.state) - 1
    for entry in entries(tables):
        if entry.client_port == 1024:
            entry.end_at(past)
            set_expiry_tick(tables, entry.slot, past)
    for _ in range(2):
        empty.expiry.run(empty.director)
    assert states(empty, service) == ({} if other else {"template": 50})


def test_templates_of_unfinished_handshakes_end_with_them(host: Host) -> None:
    service = serve(host, 4, Method.ROUTE, ServiceFlag.PERSISTENT)
    host.run(packet("S", service, 3000))
    host.run(packet("A", service, 3000))
    for _ in range(16):
        flood(host, service, CAPACITY // 8)
        host.expiry.run(host.director)
    found = states(host, service)
    assert found["ESTABLISHED"] == 1
    assert found["SYN_RECV"] > 0
    assert found["template"] == found["SYN_RECV"] + 1


def test_no_handshake_is_ended_in_a_table_less_than_half_full() -> None:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as host, on_cpu(CPUS[0]):
        service = serve(host, 4, Method.ROUTE)
        flood(host, service, CAPACITY // 2 - 64)
        assert states(host, service) == {"SYN_RECV": CAPACITY // 2 - 64}
        assert host.reason("HALF_OPEN_ENDED") == 0
        flood(host, service, CAPACITY)
        assert host.reason("HALF_OPEN_ENDED") > 0


def test_half_open_connections_give_way_in_a_nearly_full_table() -> None:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as host, on_cpu(CPUS[0]):
        service, other = serve(host, 4, Method.MASQ), serve(host, 4, Method.MASQ)
        flood(host, service, CAPACITY)
        sport = 2000
        while host.pool("used") < CAPACITY * 15 // 16:
            shake_hands(host, other, range(sport, sport + 1))
            sport += 1
        shake_hands(host, service, range(5000, 5050))
        assert states(host, service)["ESTABLISHED"] == 50
        assert host.reason("TABLE_FULL_DROPPED") == 0


def test_handshakes_complete_side_by_side_in_a_nearly_full_table(empty: Host) -> None:
    service = serve(empty, 4, Method.MASQ)
    shake_hands(empty, service, range(2000, 2000 + CAPACITY * 15 // 16))
    for first in range(10_000, 10_080, 8):
        for sport in range(first, first + 8):
            empty.run(packet("S", service, sport))
        for sport in range(first, first + 8):
            empty.run(packet("A", service, sport))
    assert states(empty, service) == {"ESTABLISHED": CAPACITY * 15 // 16 + 80}


def test_half_open_connections_of_one_cpu_may_have_the_whole_share(empty: Host) -> None:
    service = serve(empty, 4, Method.MASQ)
    shake_hands(empty, service, range(2000, 2000 + CAPACITY // 2))
    flood(empty, service, 2 * CAPACITY)
    found = states(empty, service)
    assert found["ESTABLISHED"] == CAPACITY // 2
    assert CAPACITY // 4 - 16 <= found["SYN_RECV"] <= CAPACITY // 4 + 16


def test_a_cpu_with_few_handshakes_leaves_none_behind() -> None:
    """Its batch of positions leaves the ring before it is full: the next handshake gets another one."""
    connections = 4 * CAPACITY
    assert load.half_opens_batch(connections) > 1
    busy, quiet = CPUS[0], CPUS[-1]
    with new_host(connections=connections, expires=False, recycled=True) as host:
        service = serve(host, 4, Method.ROUTE)
        with on_cpu(busy):
            flood(host, service, connections)
        for sport in range(2000, 2006):
            with on_cpu(quiet):
                host.run(packet("S", service, sport))
            assert sport in clients(host, service)
            with on_cpu(busy):  # the ring has a quarter of the table, and what the CPU has taken out
                flood(host, service, connections // 4 + 1024)
        assert not clients(host, service)


def test_cpus_share_the_ring(empty: Host) -> None:
    service = serve(empty, 4, Method.ROUTE)
    shake_hands(empty, service, range(2000, 2000 + HOLDING))
    host, cpus = empty, {CPUS[0], CPUS[-1]}

    def flood_on(cpu: int) -> None:
        with on_cpu(cpu):
            flood(host, service, 4 * CAPACITY)

    with ThreadPoolExecutor(len(cpus)) as threads:
        list(threads.map(flood_on, cpus))
    found, use = states(host, service), table_use(host.director.tables)
    assert found["ESTABLISHED"] == HOLDING
    assert use.half_open == found["SYN_RECV"]
    assert CAPACITY // 4 <= found["SYN_RECV"] <= CAPACITY * 5 // 8
    assert host.reason("TABLE_FULL_STATELESS") == 0


def test_half_open_connections_of_a_smaller_table_give_way_in_the_new_one() -> None:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as host, on_cpu(CPUS[0]):
        service = serve(host, 4, Method.MASQ)
        for sport in range(2000, 2000 + HOLDING):
            host.run(packet("S", service, sport))
        host.director.change_setting("conn_max", 2 * CAPACITY)
        host.close_programs()
        assert clients(host, service) == set(range(2000, 2000 + HOLDING))
        flood(host, service, 4 * CAPACITY)
        assert not clients(host, service)


def test_the_numbers_of_a_large_ring_wrap() -> None:
    """After 2^32 half-open connections the oldest ones still give way."""
    connections, free, wrap = 1 << 17, 8192, 1 << 32
    with new_host(connections=connections, expires=False, recycled=True) as host, on_cpu(CPUS[0]):
        service, tables = serve(host, 4, Method.MASQ), host.director.tables
        positions, end = load.half_opens(connections), wrap - free // 2
        assert positions > 1 << 16  # laps have less than 16 bits
        lap, filled = wrap // positions - 1, end % positions  # of this lap; the others are of the one before
        closed = [struct.pack("<IHH", 0, 0, each) for each in (lap, lap - 1)]
        laps = closed[0] * filled + closed[1] * (positions - filled)
        with maps.ArrayMap.open(tables.path("half_opens")) as ring:
            ring.put_many(struct.pack(f"<{positions}I", *range(positions)), laps, positions)
        tables.half_open_ring.write(0, {"first": end - free, "end": end, "made": end})
        tables.pool.set(0, "used", connections - free)
        flood(host, service, 4 * free)
        assert tables.half_open_ring.get(0, "end") < end  # it has wrapped
        assert free // 2 <= len(list(host.director.connections())) <= free
        assert {"to_tc", "table_full_stateless", "table_full_dropped"}.isdisjoint(host.reasons())


# --- UDP, and connections without a handshake ---


def confirm(host: Host, service: ServiceKey, hook: str) -> None:
    """Make connections, and confirm each by a second packet."""
    for _ in range(2):
        for sport in range(2000, 2000 + HOLDING):
            host.run(packet("A", service, sport), hook)
        if hook == "tc":  # XDP may have made the connection for the same packet
            host.wait_ticks(1)


def clients(host: Host, service: ServiceKey) -> set[int]:
    """Return the client ports of a service's connections, without those of the flood."""
    return {each.client_port for each in host.director.connections() if each.virtual_port == service.port} - {1024}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_flood_of_udp_leaves_confirmed_flows_and_space(empty: Host, method: Method, family: int, hook: str) -> None:
    service = serve(empty, family, method, protocol=Protocol.UDP)
    confirm(empty, service, hook)
    flood(empty, service, 10 * CAPACITY, hook)
    assert clients(empty, service) == set(range(2000, 2000 + HOLDING))
    assert empty.pool("used") <= CAPACITY * 5 // 8
    assert {"table_full_stateless", "table_full_dropped"}.isdisjoint(empty.reasons())


def test_replies_to_a_flood_of_udp_confirm_nothing(empty: Host) -> None:
    service = empty.new_key(Protocol.UDP)
    empty.serve(service, 1, Method.MASQ, port=8080)
    confirm(empty, service, "xdp")
    request = udp(sport=1024, dport=service.port)
    reply = udp(source=server4(1), target=CLIENT4, sport=8080, dport=1024)
    for number in range(FIRST, FIRST + 4 * CAPACITY):
        empty.run(from_client(number, request))
        for _ in range(3):
            empty.run(to_client(number, reply))
    assert clients(empty, service) == set(range(2000, 2000 + HOLDING))
    assert empty.reason("TABLE_FULL_DROPPED") == 0
    empty.run(from_client(number, request))  # the client's second packet does
    flood(empty, service, 2 * CAPACITY)
    assert ip_address("198.18.0.0") + number in {each.client for each in empty.director.connections()}


@pytest.mark.parametrize("family", [4, 6])
def test_a_flood_of_acks_leaves_established_connections(empty: Host, family: int) -> None:
    empty.director.change_setting("sloppy_tcp", 1)
    service = serve(empty, family, Method.ROUTE)
    confirm(empty, service, "xdp")
    flood(empty, service, 4 * CAPACITY, flags="A")
    assert clients(empty, service) == set(range(2000, 2000 + HOLDING))
    assert empty.reason("TABLE_FULL_STATELESS") == 0
    assert set(states(empty, service)) == {"ESTABLISHED"}


def test_tc_confirms_no_flow_by_the_packet_for_which_xdp_made_it(empty: Host) -> None:
    service = serve(empty, 4, Method.ROUTE, protocol=Protocol.UDP)
    before = empty.reason("HALF_OPEN_ENDED")
    for number in range(FIRST, FIRST + 2 * CAPACITY):
        frame = from_client(number, udp(dport=service.port))
        empty.run(frame, "xdp")
        empty.run(frame, "tc")
    assert empty.reason("HALF_OPEN_ENDED") > before
    assert empty.reason("TABLE_FULL_STATELESS") == 0


def test_unconfirmed_flows_have_the_timeouts_of_their_protocol() -> None:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as host:
        service = serve(host, 4, Method.MASQ, protocol=Protocol.UDP)
        for _ in range(3):
            host.run(packet("", service, 2000))
            (made,) = host.director.connections()
            assert (made.state, made.expires_s > 200) == ("UDP", True)
        assert sum(inactive for _, inactive in host.counts(service).values()) == 1


def test_a_persistent_client_of_udp_keeps_its_template_in_a_flood(host: Host) -> None:
    service = serve(host, 4, Method.ROUTE, ServiceFlag.PERSISTENT, Protocol.UDP)
    for _ in range(2):
        host.run(packet("", service, 2000))
    host.run(packet("", service, 2001))  # unconfirmed: the flood ends it
    for _ in range(16):
        flood(host, service, CAPACITY // 8)
        host.expiry.run(host.director)
    found = [each for each in host.director.connections() if each.virtual_port == service.port]
    assert clients(host, service) - {0} == {2000}
    assert CLIENT4 in {str(each.client) for each in found if not each.client_port}
    assert sum(not each.client_port for each in found) < CAPACITY // 2
