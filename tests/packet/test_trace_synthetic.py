"""`pylvs trace --synthetic`: the answer is what a real packet then gets, and no question leaves a byte in any map."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import islice, product
from typing import NamedTuple
from unittest import mock

import pytest

from pylvs.bpf import abi
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.dataplane import load
from pylvs.model.addresses import Address
from pylvs.model.client_rules import rule_of
from pylvs.model.errors import InvalidOperation
from pylvs.model.marks import MarkRule
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from pylvs.trace.packet import TracedPacket
from pylvs.trace.synthetic import Questions, first_frame, questions
from tests.packet.host import (
    DROPPED,
    MAC,
    PASSED,
    PREDICTABLE,
    SENT,
    VIP4,
    VIP6,
    Host,
    key,
    new_host,
    server4,
    server6,
    stop_timer,
)
from tests.packet.test_hash_fallback import CAPACITY, fill
from tests.packet.test_recycled import contents

QUESTIONS = 10_000
MARK, MARK_PORT = 7, 700  # of a firewall mark, which packets to this port have
CLIENTS = {4: [f"198.18.{at >> 8}.{at & 255}" for at in range(1, 1500)], 6: [f"fd78::{at:x}" for at in range(1, 1500)]}
VERDICTS = {"forwarded": SENT["tc"], "passed": (PASSED["tc"],), "dropped": (DROPPED["tc"],)}


class Flow(NamedTuple):
    client: Address
    client_port: int
    virtual: Address
    virtual_port: int
    protocol: Protocol


def flow(service: ServiceKey, client: int = 0, sport: int = 4000) -> Flow:
    """Return a flow of a client, by its number, to a service."""
    address = ip_address(CLIENTS[service.address.version][client])
    if service.mark:
        return Flow(address, sport, ip_address(VIP4), MARK_PORT, Protocol.TCP)
    return Flow(address, sport, service.address, service.port or 8080, service.protocol)


def run(host: Host, given: Flow, hook: str = "tc") -> tuple[int, bytes]:
    """Send the packet of a question."""
    frame = first_frame(*given, bytes.fromhex(MAC.replace(":", "")))
    done = host.run(frame, hook)
    return done.verdict, done.data


def add(host: Host, service: VirtualService, method: Method = Method.ROUTE, servers: int = 3) -> ServiceKey:
    host.director.add_service(service)
    for number in range(1, servers + 1):
        address: Address = ip_address(server4(number) if service.key.address.version == 4 else server6(number))
        destination = Destination(DestinationKey(address, service.key.port), method, number)
        host.director.add_destination(service.key, destination)
    return service.key


def all_services(host: Host, schedulers: tuple[str, ...] = SCHEDULERS) -> list[ServiceKey]:
    """Add a service of each scheduler, method, protocol, family and kind."""
    found = []
    for number, (scheduler, vip) in enumerate(product(schedulers, (VIP4, VIP6))):
        service = VirtualService(key(1100 + number, vip=vip), scheduler)
        found.append(add(host, service, (Method.ROUTE, Method.MASQ, Method.TUNNEL)[number % 3]))
    for number, (protocol, method, flags) in enumerate(
        product(
            (Protocol.TCP, Protocol.UDP, Protocol.SCTP),
            (Method.ROUTE, Method.MASQ, Method.TUNNEL),
            (ServiceFlag(0), ServiceFlag.PERSISTENT, ServiceFlag.ONE_PACKET),
        )
    ):
        if flags & ServiceFlag.ONE_PACKET and protocol != Protocol.UDP:
            continue
        timeout = 300 if flags & ServiceFlag.PERSISTENT else 0
        found.append(add(host, VirtualService(key(1300 + number, protocol), "wrr", flags, timeout), method))
    found.append(add(host, VirtualService(key(1400), "rr"), servers=0))
    found.append(add(host, VirtualService(ServiceKey.of_mark(MARK), "wlc")))
    host.director.change_mark_rules(lambda _: [MarkRule(value=MARK, target_ports=((MARK_PORT, MARK_PORT),))])
    return found


@pytest.fixture
def host() -> Iterator[Host]:
    with mock.patch.object(load, "destination_limit", return_value=512), new_host(1 << 14, expires=False) as made:
        for timer in ("estimators", "cache_sweepers"):
            stop_timer(made.director, timer)
        yield made


def packets_by_device(host: Host) -> list[tuple[int, ...]]:
    """Return the counts of `device_packets`, without multicasts that kernels of test hosts send by themselves."""
    form = abi.shipped().struct("device_packets").view("forwarded", "ended")
    return [*host.director.tables.device_packets.rows(form)]


def test_no_question_changes_a_byte_of_any_map(host: Host) -> None:
    services = all_services(host)
    for service in services:  # connections, templates, cursors, caches
        for client in range(5):
            run(host, flow(service, client))
    flows = (flow(service, client) for client in range(len(CLIENTS[4])) for service in (*services, key(9)))
    before, packets = contents(host.director.state), packets_by_device(host)
    verdicts = set()
    with questions() as asked:
        for given in islice(flows, QUESTIONS):
            verdicts.add(asked.ask(*given).verdict)
    after = contents(host.director.state)
    assert {name for name in before if before[name] != after[name]} <= {"device_packets"}
    assert packets_by_device(host) == packets
    assert verdicts == {"forwarded", "passed", "rejected"}


def test_the_comparison_of_maps_sees_one_packet(host: Host) -> None:
    """The test above can fail."""
    service = add(host, VirtualService(key(80), "rr"))
    before = contents(host.director.state)
    run(host, flow(service))
    after = contents(host.director.state)
    changed = {name for name in before if before[name] != after[name]}
    assert {"connections", "conn_counts", "service_states", "percpu_destinat", "half_opens"} <= changed


def agreeing(host: Host, asked: Questions, given: Flow) -> TracedPacket:
    """Ask, then send the packet; return the answer, compared with what happened."""
    packet = asked.ask(*given)
    verdict, data = run(host, given)
    if packet.verdict != "rejected":
        assert verdict in VERDICTS[packet.verdict], packet
    if packet.verdict == "forwarded":
        assert (packet.after[30:], packet.sent_length) == (data[30:128][: len(packet.after) - 30], len(data))
    return packet


def test_the_next_packet_gets_the_answer(host: Host) -> None:
    services = all_services(host, tuple(name for name in PREDICTABLE))
    with questions() as asked:
        for client in range(12):
            for service in services:
                given = flow(service, client % 8, 4000 + client)
                packet = agreeing(host, asked, given)
                assert packet.service == str(service)
    assert host.director.service(services[0]).counters.connections == 12


def test_a_question_about_a_known_flow_names_its_connection(host: Host) -> None:
    service = add(host, VirtualService(key(80), "wlc", ServiceFlag.PERSISTENT, 300))
    with questions() as asked:
        first = agreeing(host, asked, flow(service))
        assert (first.choice, first.created, first.state, first.candidates) == ("scheduler", True, "SYN_RECV", 3)
        again = agreeing(host, asked, flow(service))
        assert (again.choice, again.created, again.state) == ("existing_connection", False, "SYN_RECV")
        other = agreeing(host, asked, flow(service, sport=4001))
        assert (other.choice, other.server) == ("template", first.server)


def test_a_question_without_a_service_passes(host: Host) -> None:
    add(host, VirtualService(key(80), "rr"))
    with questions() as asked:
        packet = asked.ask(ip_address(CLIENTS[4][0]), 4000, ip_address(VIP4), 81)
        assert (packet.verdict, packet.service, packet.device) == ("passed", None, "d0")
        with pytest.raises(InvalidOperation, match="different families"):
            asked.ask(ip_address(CLIENTS[4][0]), 4000, ip_address(VIP6), 81)


def test_a_full_table_answers_with_the_hash_fallback() -> None:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as host:
        service = add(host, VirtualService(key(80), "rr"))
        fill(host)
        with questions() as asked:
            packet = agreeing(host, asked, flow(service))
            assert (packet.choice, packet.reason, packet.created) == ("hash_fallback", "table_full_stateless", False)


def test_a_denied_client_is_dropped_and_no_map_changes(host: Host) -> None:
    service = add(host, VirtualService(key(80), "rr"))
    host.director.change_client_rules(service, lambda _: [rule_of(["deny", "0.0.0.0/0"])])
    run(host, flow(service))  # the general path notes that the address is local
    before = contents(host.director.state)
    with questions() as asked:
        for sport in 5000, 5001:
            packet = asked.ask(*flow(service, sport=sport))
            assert (packet.verdict, packet.service, packet.reason) == ("dropped", str(service), "client_denied")
    after = contents(host.director.state)
    assert {name for name in before if before[name] != after[name]} <= {"device_packets"}
