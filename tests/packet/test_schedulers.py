"""Schedulers and their cursors across edits, compared with models of IPVS-SEMANTICS 3.2 to 3.5."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from pylvs.dataplane import destinations
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.model.service import Destination, DestinationKey, ServiceKey, VirtualService
from tests.packet.frames import parsed, tcp
from tests.packet.host import PASSED, SERVERS, Host, new_host, server4, server_mac

BY_MAC = {server_mac(number): number for number in range(1, SERVERS + 1)}


@dataclass
class Model:
    """A service's list, newest first, with its scheduler's state."""

    scheduler: str
    servers: list[int] = field(default_factory=list)
    weights: dict[int, int] = field(default_factory=dict)
    overloaded: set[int] = field(default_factory=set)
    mark: int | None = None  # the last chosen of rr, the position of wrr; None: the head of the list
    current: int = 0  # weight of wrr
    divisor: int = 1
    most: int = 0

    def _measure(self) -> None:
        weights = [weight for weight in self.weights.values() if weight > 0]
        self.divisor = math.gcd(*weights) or 1
        self.most = max(weights) - (self.divisor - 1) if weights else 0

    def changed(self) -> None:
        """Handle that any destination was added, deleted or edited (3.3)."""
        if self.scheduler != "wrr":
            return
        self._measure()
        self.mark = None
        if self.current > self.most or not self.current:
            self.current = self.most
        elif self.divisor > 1:
            self.current = self.current // self.divisor * self.divisor + 1

    def initialised(self, scheduler: str) -> None:
        """Handle a new scheduler."""
        self.scheduler, self.mark = scheduler, None
        self._measure()
        self.current = self.most

    def add(self, server: int, weight: int) -> None:
        self.servers.insert(0, server)
        self.weights[server] = weight
        self.changed()

    def delete(self, server: int) -> None:
        position = self.servers.index(server)
        if self.scheduler == "rr" and self.mark == server:
            self.mark = self.servers[position - 1] if position else None
        self.servers.remove(server)
        del self.weights[server]
        self.overloaded.discard(server)
        self.changed()

    def edit(self, server: int, weight: int) -> None:
        self.weights[server] = weight
        self.overloaded.discard(server)  # thresholds are not set here (6.2)
        self.changed()

    def pick(self) -> int | None:
        return self._rr() if self.scheduler == "rr" else self._wrr()

    def _after(self, server: int | None) -> list[int]:
        return self.servers[self.servers.index(server) + 1 :] if server is not None else list(self.servers)

    def _rr(self) -> int | None:
        later = self._after(self.mark)
        for server in later + self.servers[: len(self.servers) - len(later)]:
            if self.weights[server] > 0 and server not in self.overloaded:
                self.mark = server
                return server
        return None

    def _wrr(self) -> int | None:
        if not self.most:
            return None
        last, stop, restarted, last_pass = self.mark, None, False, False
        position = self.mark
        while True:
            for server in self._after(position):
                position = server
                if server not in self.overloaded and self.weights[server] >= self.current:
                    self.mark = server
                    return server
                if server == stop:
                    self.mark = server
                    return None
            self.current -= self.divisor
            if self.current <= 0:
                self.current = self.most
                if last_pass or last is None:
                    self.mark = None
                    return None
                restarted = True
            last_pass = self.current <= self.divisor
            if last_pass and restarted and last is not None:
                stop = last
            position = None


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(connections=65536) as made:
        yield made


class Driven:
    """A service whose list the test edits in the table and in the model, and to which it sends SYNs."""

    def __init__(self, host: Host, scheduler: str) -> None:
        self.host = host
        self.key: ServiceKey = host.new_key()
        self.model = Model(scheduler)
        self.scheduler = scheduler
        host.director.add_service(VirtualService(self.key, scheduler))
        self._clients = itertools.count(2000)

    def destination(self, server: int, weight: int = 1) -> Destination:
        return Destination(DestinationKey(ip_address(server4(server)), self.key.port), weight=weight)

    def add(self, server: int, weight: int) -> None:
        self.host.director.add_destination(self.key, self.destination(server, weight))
        self.model.add(server, weight)
        self._overload(server, False)

    def delete(self, server: int) -> None:
        self.host.director.delete_destination(self.key, self.destination(server).key)
        self.model.delete(server)

    def edit(self, server: int, weight: int) -> None:
        self.host.director.edit_destination(self.key, self.destination(server, weight))
        self.model.edit(server, weight)

    def switch(self) -> None:
        """Change to another scheduler and back."""
        for scheduler in "lc", self.scheduler:
            self.host.director.edit_service(VirtualService(self.key, scheduler))
        self.model.initialised(self.scheduler)

    def toggle(self, server: int) -> None:
        """Make a server overloaded, or available again."""
        self.model.overloaded ^= {server}
        self._overload(server, server in self.model.overloaded)

    def _overload(self, server: int, yes: bool) -> None:
        slot = DestinationSlots(self.host.director.tables).find(self.key, self.destination(server).key)
        assert slot is not None
        self.host.director.tables.conn_counts.set(slot, "overloaded", int(yes))

    def pick(self) -> int | None:
        """Return the server of a new connection."""
        frame = tcp(sport=next(self._clients), dport=self.key.port)
        _, done = self.host.receive(frame)
        assert done.verdict != PASSED["tc"]
        if len(done.data) > len(frame) and done.data[34:36] == b"\x03\x03":
            return None
        connections = self.host.director.connections()
        port = int.from_bytes(frame[34:36], "big")
        if parsed(done.data).dst in BY_MAC:
            return BY_MAC[parsed(done.data).dst]
        (made,) = [each for each in connections if (each.virtual_port, each.client_port) == (self.key.port, port)]
        return int(made.destination) - int(ip_address(server4(0)))


@pytest.mark.parametrize("scheduler", ["rr", "wrr"])
@pytest.mark.parametrize("seed", range(6))
def test_cursors_follow_edits_as_those_of_ipvs(director_host: Host, scheduler: str, seed: int) -> None:
    """The Director follows several edits between two packets, the packet path single ones."""
    chance = random.Random(f"{scheduler} {seed}")
    driven = Driven(director_host, scheduler)
    history: list[str] = []
    with director_host.director.batch():
        for _ in range(120):
            there = driven.model.servers
            missing = [server for server in BY_MAC.values() if server not in there]
            kind = chance.choice(["add", "add", "delete", "edit", "toggle", "storm", "switch", *["pick"] * 12])
            if kind == "add" and missing:
                server, weight = chance.choice(missing), chance.choice([0, 1, 2, 3, 4, 6, 12])
                driven.add(server, weight)
                history.append(f"add {server} {weight}")
            elif kind == "delete" and there:
                server = chance.choice(there)
                history.append(f"delete {server}")
                driven.delete(server)
            elif kind == "edit" and there:
                server, weight = chance.choice(there), chance.choice([0, 1, 2, 3, 4, 6, 12])
                history.append(f"edit {server} {weight}")
                driven.edit(server, weight)
            elif kind == "toggle" and there:
                server = chance.choice(there)
                history.append(f"toggle {server}")
                driven.toggle(server)
            elif kind == "storm" and there:
                for server in set(there) - driven.model.overloaded:
                    driven.toggle(server)
                assert driven.model.pick() is driven.pick() is None
                for server in list(there):
                    driven.toggle(server)
                history.append("all overloaded, a packet, all free")
            elif kind == "switch" and chance.random() < 0.3:
                history.append("switch")
                driven.switch()
            elif kind == "pick":
                wanted = driven.model.pick()
                history.append(f"pick {wanted}")
                assert driven.pick() == wanted, (driven.model, history)


@pytest.mark.parametrize("scheduler", ["rr", "wrr"])
def test_the_director_moves_a_cursor_where_the_packet_path_would(director_host: Host, scheduler: str) -> None:
    """After each kind of edit, `followed` and then a packet choose what a packet alone chooses."""
    chance = random.Random(scheduler)
    states = director_host.director.tables.service_states
    for _ in range(12):
        pair = [Driven(director_host, scheduler) for _ in range(2)]
        slots = [director_host.director.slot(driven.key) or 0 for driven in pair]
        with director_host.director.batch():
            for server in range(1, 6):
                weight = chance.choice([1, 2, 4])
                for driven in pair:
                    driven.add(server, weight)
            for _ in range(chance.randrange(7)):
                assert pair[0].pick() == pair[1].pick()
            kind, server, weight = chance.choice(["add", "delete", "edit", "switch"]), chance.randint(1, 5), 3
            for driven in pair:
                if kind == "add":
                    driven.add(6, weight)
                elif kind == "delete":
                    driven.delete(server)
                elif kind == "edit":
                    driven.edit(server, weight)
                else:
                    driven.switch()
            version = director_host.director.reader.versions.version(slots[0])
            states.set(slots[0], "cursor", destinations.followed(states.get(slots[0], "cursor"), version))
            assert [pair[0].pick() for _ in range(9)] == [pair[1].pick() for _ in range(9)]
            assert states.get(slots[0], "cursor") == states.get(slots[1], "cursor")


def overhead(counts: tuple[int, int]) -> int:
    """Return IPVS's measure of load (3.1)."""
    return 256 * counts[0] + counts[1]


@pytest.mark.parametrize("scheduler", ["lc", "wlc"])
def test_least_connections_takes_the_least_loaded_and_of_equals_the_newest(director_host: Host, scheduler: str) -> None:
    chance = random.Random(scheduler)
    driven = Driven(director_host, scheduler)
    with director_host.director.batch():
        for server in range(1, 7):
            driven.add(server, chance.choice([0, 1, 2, 3]))
        clients = []
        for sport in range(30000, 30150):
            counts = director_host.counts(driven.key)
            usable = [server for server in driven.model.servers if driven.model.weights[server]]
            best = usable[0]
            for server in usable[1:]:
                load, best_load = overhead(counts[server4(server)]), overhead(counts[server4(best)])
                weights = driven.model.weights
                beats = load < best_load if scheduler == "lc" else best_load * weights[server] > load * weights[best]
                best = server if beats else best
            frame = tcp(sport=sport, dport=driven.key.port)
            director_host.receive(frame)
            after = director_host.counts(driven.key)
            assert after[server4(best)] == (counts[server4(best)][0] + 1, counts[server4(best)][1])
            clients.append(sport)
            if chance.random() < 0.5:  # one of them becomes inactive
                frame = tcp("FA", sport=chance.choice(clients), dport=driven.key.port)
                director_host.receive(frame)


def test_a_list_of_hundreds_of_servers_is_searched_to_its_end(director_host: Host) -> None:
    count = 320
    addresses = [ip_address(0x0A4D0100 + number) for number in range(count)]
    for scheduler in "rr", "wrr", "lc", "wlc":
        service = director_host.new_key()
        with director_host.director.batch():
            director_host.director.add_service(VirtualService(service, scheduler))
            for address in addresses:
                director_host.director.add_destination(service, Destination(DestinationKey(address, service.port)))
        for sport in range(2000, 2000 + count):
            director_host.receive(tcp(sport=sport, dport=service.port))
        assert director_host.counts(service) == {str(address): (1, 0) for address in addresses}, scheduler
        made = {
            each.client_port: each.destination
            for each in director_host.director.connections()
            if each.virtual_port == service.port
        }
        assert [made[2000 + position] for position in range(count)] == addresses[::-1], scheduler


def test_services_by_the_hundred_each_get_their_own_packets(director_host: Host) -> None:
    services = [director_host.new_key() for _ in range(300)]
    with director_host.director.batch():
        for number, service in enumerate(services):
            director_host.director.add_service(VirtualService(service, "rr"))
            key = DestinationKey(ip_address(server4(1 + number % SERVERS)), service.port)
            director_host.director.add_destination(service, Destination(key))
    for number, service in enumerate(services):
        frame = tcp(sport=2000 + number // 100, dport=service.port)
        assert parsed(director_host.forwarded(frame)).dst == server_mac(1 + number % SERVERS)
    rows = {row.service.key: row for row in director_host.director.services()}
    assert set(rows) == set(services)
    assert all(row.destinations[0].active == 1 for row in rows.values())
