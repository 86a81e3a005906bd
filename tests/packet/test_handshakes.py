"""Handshakes that each destination begins and completes: by clients whose network is known, so not by a flood."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from pylvs.dataplane.overview import overview
from pylvs.health.handshakes import verdicts
from pylvs.model.dataclass import replace
from pylvs.model.rows import Handshakes
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, chunk, sctp, tcp, udp
from tests.packet.host import HOOKS, VIP4, VIP6, Host, new_host, on_cpu, server4, server6

VOUCHERS = 4  # MOST_VOUCHERS in bpf/conntrack/handshake.h
RENEWED = 32  # vouchers of one network in eight minutes, which no test takes
METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)


@pytest.fixture
def host() -> Iterator[Host]:
    """Return a host to which no client is known."""
    with new_host(connections=4096, expires=False, recycled=True) as made, on_cpu(min(os.sched_getaffinity(0))):
        yield made


def serve(
    host: Host, servers: int = 3, method: Method = Method.ROUTE, version: int = 4, protocol: Protocol = Protocol.TCP
) -> ServiceKey:
    service = host.new_key(protocol, VIP4 if version == 4 else VIP6)
    host.serve(service, servers, method)
    return service


def found(host: Host, service: ServiceKey) -> dict[int, Handshakes]:
    """Return the handshakes by the number of the server."""
    numbers = {ip_address(name(number)): number for name in (server4, server6) for number in range(1, 9)}
    return {
        numbers[server.address]: each for (key, server), each in host.director.handshakes().items() if key == service
    }


class Clients:
    """Connects to a service. Servers among `dead` do not answer; a client that gets no answer sends no ACK."""

    def __init__(self, host: Host, service: ServiceKey, dead: tuple[int, ...] = (), hook: str = "xdp") -> None:
        self._host, self._service, self._hook = host, service, hook
        version = service.address.version
        name = server4 if version == 4 else server6
        self._dead = {ip_address(name(number)) for number in dead}
        self._source = CLIENT4 if version == 4 else CLIENT6
        self._port = 1024

    def frame(self, flags: str, source: str, sport: int) -> bytes:
        key = self._service
        return tcp(flags, source=source, target=str(key.address), sport=sport, dport=key.port)

    def begin(self, source: str = "", repeats: int = 0) -> int:
        """Send a SYN, perhaps again; return its port."""
        self._port += 1
        for _ in range(1 + repeats):
            self._host.run(self.frame("S", source or self._source, self._port), self._hook)
        return self._port

    def connect(self, count: int = 1, source: str = "", repeats: int = 0) -> None:
        for _ in range(count):
            client = source or self._source
            sport = self.begin(client, repeats)
            (entry,) = (
                each
                for each in self._host.director.connections()
                if (each.client, each.client_port) == (ip_address(client), sport)
            )
            if entry.destination in self._dead:
                continue
            if self._answered_here(entry.destination):
                answer = tcp(
                    "SA", source=str(entry.destination), target=client, sport=entry.destination_port, dport=sport
                )
                self._host.run(answer, "tc")
            self._host.run(self.frame("A", client, sport), self._hook)

    def _answered_here(self, server: object) -> bool:
        row = self._host.director.service(self._service).destinations
        return any(each.destination.key.address == server and each.destination.method is Method.MASQ for each in row)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_server_that_does_not_answer_completes_none(host: Host, method: Method, version: int, hook: str) -> None:
    service = serve(host, 3, method, version)
    Clients(host, service, dead=(2,), hook=hook).connect(24)
    seen = found(host, service)
    assert seen == {1: Handshakes(8, 8), 2: Handshakes(8, 0), 3: Handshakes(8, 8)}


def test_a_syn_that_is_sent_again_counts_once(host: Host) -> None:
    service = serve(host, 1)
    clients = Clients(host, service)
    clients.connect(1)
    clients.begin(repeats=4)
    assert found(host, service) == {1: Handshakes(2, 1)}


def test_with_nat_the_servers_answer_completes_a_handshake_once(host: Host) -> None:
    service = serve(host, 1, Method.MASQ)
    clients = Clients(host, service)
    clients.connect(1)
    sport = clients.begin()
    answer = tcp("SA", source=server4(1), target=CLIENT4, sport=service.port, dport=sport)
    for _ in range(2):
        host.run(answer, "tc")
        assert found(host, service) == {1: Handshakes(2, 2)}
    host.run(clients.frame("A", CLIENT4, sport))
    assert found(host, service) == {1: Handshakes(2, 2)}


def test_a_refusal_completes_no_handshake(host: Host) -> None:
    service = serve(host, 1, Method.MASQ)
    clients = Clients(host, service)
    clients.connect(1)
    sport = clients.begin()
    host.run(tcp("RA", source=server4(1), target=CLIENT4, sport=service.port, dport=sport), "tc")
    assert found(host, service) == {1: Handshakes(2, 1)}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_flood_of_unknown_senders_counts_nothing(host: Host, method: Method) -> None:
    """Also while an honest client works."""
    service = serve(host, 3, method)
    clients = Clients(host, service)
    for number in range(2000):
        clients.begin(f"203.{number >> 8}.{number & 255}.9")
        if number % 100 == 0:
            clients.connect(3)
    assert found(host, service) == {number: Handshakes(20, 20) for number in (1, 2, 3)}


def test_a_flood_of_a_known_network_is_bounded_by_what_the_network_completes(host: Host) -> None:
    service = serve(host, 3)
    clients = Clients(host, service)
    clients.connect(3)
    for number in range(3000):
        clients.begin(f"198.18.0.{number % 256}")
    flooded = sum(found(host, service).values(), Handshakes())
    assert VOUCHERS <= flooded.begun - 3 <= VOUCHERS + RENEWED
    for _ in range(60):
        clients.connect(1)
        for number in range(50):
            clients.begin(f"198.18.0.{number}")
    total = sum(found(host, service).values(), Handshakes())
    assert total.completed == 63
    assert total.begun - total.completed <= total.completed + VOUCHERS + RENEWED


def test_a_persistent_client_of_a_dead_server_counts(host: Host) -> None:
    """It is known from before, or its network from other servers."""
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 360))
    for number in (1, 2):
        address = ip_address(server4(number))
        host.director.add_destination(service, Destination(DestinationKey(address, service.port), Method.ROUTE))
    first, second = "198.18.0.7", "198.18.0.8"
    clients = Clients(host, service)
    clients.connect(1, first)
    clients.connect(1, second)
    before = found(host, service)
    assert before == {1: Handshakes(1, 1), 2: Handshakes(1, 1)}
    for _ in range(200):  # at random, until no vouchers are left
        clients.begin(first)
    after = sorted(found(host, service).values(), key=lambda each: each.begun)
    assert after[0] == Handshakes(1, 1)
    assert VOUCHERS < after[1].begun <= 1 + VOUCHERS + RENEWED
    assert after[1].completed == 1


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ], ids=lambda method: method.name)
def test_sctp_counts_its_handshake(host: Host, method: Method) -> None:
    service = serve(host, 1, method, protocol=Protocol.SCTP)
    init, init_ack, echo, ack = (chunk(kind, bytes(16)) for kind in (1, 2, 10, 11))

    def send(chunks: bytes, sport: int) -> None:
        host.run(sctp(chunks, sport, service.port, CLIENT4, VIP4), "tc")

    def reply(chunks: bytes, sport: int) -> None:
        if method is Method.MASQ:
            host.run(sctp(chunks, service.port, sport, server4(1), CLIENT4), "tc")

    def connect(sport: int) -> None:
        send(init, sport)
        reply(init_ack, sport)
        send(echo, sport)
        reply(ack, sport)

    connect(5000)
    connect(5001)
    send(init, 5002)
    assert found(host, service) == {1: Handshakes(3, 2)}


def test_what_makes_no_handshake_counts_nothing(host: Host) -> None:
    """UDP, and with sloppy_tcp a connection that an ACK makes."""
    service = serve(host, 1)
    Clients(host, service).connect(1)
    datagrams = serve(host, 1, protocol=Protocol.UDP)
    for _ in range(2):
        host.run(udp(sport=7000, dport=datagrams.port))
    host.director.change_setting("sloppy_tcp", 1)
    for _ in range(2):
        host.run(tcp("A", sport=7001, dport=service.port))
    assert found(host, datagrams) == {}
    assert found(host, service) == {1: Handshakes(1, 1)}


def test_a_destination_that_is_added_again_soon_continues(host: Host) -> None:
    """As with its connections. One in a slot that is used again begins anew."""
    service = serve(host, 1)
    Clients(host, service).connect(2)
    key = DestinationKey(ip_address(server4(1)), service.port)
    host.director.delete_destination(service, key)
    assert found(host, service) == {1: Handshakes(2, 2)}
    host.director.add_destination(service, Destination(key, Method.ROUTE))
    Clients(host, service).connect(1, "198.18.0.9")
    assert found(host, service) == {1: Handshakes(3, 3)}
    other = replace(key, address=ip_address(server4(2)))
    host.director.add_destination(service, Destination(other, Method.ROUTE))
    assert found(host, service) == {1: Handshakes(3, 3)}


FORGED: dict[str, Callable[[int], str]] = {
    "random senders": lambda number: f"{20 + number % 150}.{number >> 8 & 255}.{number & 255}.9",
    "senders of a client's network": lambda number: f"198.18.0.{number % 256}",
    "a client's own address": lambda _: "198.18.0.7",
}


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("scheduler", ["rr", "wlc", "sh", "persistent"])
def test_a_flood_names_no_server(host: Host, scheduler: str, forged: str) -> None:
    """Honest clients of three networks work all the time. With sh and persistence one server gets most of the flood."""
    service = host.new_key()
    persistent = scheduler == "persistent"
    flags, netmask = (ServiceFlag.PERSISTENT, 0xFFFFFF00) if persistent else (ServiceFlag(0), -1)
    name = "rr" if persistent else scheduler
    host.director.add_service(VirtualService(service, name, flags, 360 if persistent else 0, netmask))
    for number in (1, 2, 3):
        address = ip_address(server4(number))
        host.director.add_destination(service, Destination(DestinationKey(address, service.port), Method.ROUTE))
    clients = Clients(host, service)
    for number in range(1800):
        clients.begin(FORGED[forged](number))
        if number % 60 == 0:
            for network in range(3):
                clients.connect(1, f"198.18.{network}.7")
    seen = found(host, service)
    assert sum(each.completed for each in seen.values()) == 90
    assert verdicts(seen).low == {}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_dead_server_is_named_amid_a_flood(host: Host, method: Method) -> None:
    service = serve(host, 3, method)
    clients = Clients(host, service, dead=(2,))
    for number in range(630):
        clients.begin(FORGED["random senders"](number))
        if number % 21 == 0:  # with 22 packets each time another server is next
            clients.connect(1)
    assert verdicts(found(host, service)).low.keys() == {2}


def test_show_has_the_handshakes_of_each_destination(host: Host) -> None:
    service = serve(host, 2)
    Clients(host, service, dead=(1,)).connect(8)
    counted = {each["server"]: (each["begun"], each["completed"]) for each in overview()["handshakes"]}
    assert counted == {f"{server4(1)}:{service.port}": (4, 0), f"{server4(2)}:{service.port}": (4, 4)}
