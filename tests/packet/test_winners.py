"""Lists longer than sixteen: schedulers choose by a winner tree, as the reference does by a walk."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.bpf import abi, maps
from pylvs.bpf.schedulers import NUMBERS
from pylvs.dataplane import load
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.state import INDEX, LOADED, State
from pylvs.dataplane.tables import Tree, tree_of
from pylvs.dataplane.transaction import Transaction, list_of, recover
from pylvs.model.dataclass import replace
from pylvs.model.service import (
    Destination,
    DestinationKey,
    ServiceChange,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    VirtualService,
)
from pylvs.reference import schedulers as reference
from pylvs.reference.schedulers.weighted import delay, overhead
from pylvs.reference.server import Server
from tests.packet.frames import tcp
from tests.packet.host import VIP4, Host, new_host, on_cpu
from tests.waiting import until

INDEXED = [name for name, number in NUMBERS.items() if abi.constant("INDEXED_SCHEDULERS") >> number & 1]
HEAVIEST = "rr", "wrr", "fo"
ARITY = 4
FIRST = 0x0A4D0100  # 10.77.1.0: servers behind the router
NOTHING = abi.constant("NOTHING")


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(connections=1 << 15, expires=False, recycled=True) as made:
        yield made


def better(scheduler: str, servers: list[Server], positions: list[int]) -> int:
    """Return the best of these list indexes."""

    def load(server: Server) -> float:
        if scheduler == "lc":
            return overhead(server) & 0xFFFFFFFF
        if scheduler in HEAVIEST:
            return 1 / server.weight
        if scheduler == "nq" and not server.active:
            return 0
        return (delay if scheduler in ("sed", "nq") else overhead)(server) / server.weight

    usable = [each for each in positions if each != NOTHING and servers[each].usable]
    return min(usable, key=lambda each: (load(servers[each]), each), default=NOTHING)


@dataclass
class Service:
    """A service with many servers in the tables, and its scheduler in the reference; each change is made in both."""

    host: Host
    scheduler: str
    flags: ServiceFlag = ServiceFlag(0)
    key: ServiceKey = field(init=False)
    servers: list[Server] = field(default_factory=list)
    known: dict[int, Server] = field(default_factory=dict)
    open: list[tuple[int, Server]] = field(default_factory=list)  # established connections: sport and server
    closed: list[tuple[int, Server]] = field(default_factory=list)  # in CLOSE: a SYN replaces one
    sport: int = 2000
    model: reference.Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.host.new_key()
        self.host.director.add_service(VirtualService(self.key, self.scheduler, flags=self.flags))
        self.model = reference.SCHEDULERS[self.scheduler](self.servers, self.flags)

    def _name(self, number: int) -> DestinationKey:
        return DestinationKey(ip_address(FIRST + number), self.key.port)

    def _read(self, server: Server) -> None:
        slot = DestinationSlots(self.host.director.tables).find(self.key, server.key)
        assert slot is not None
        row = self.host.director.tables.conn_counts.read(slot)
        server.active, server.inactive = row["active"], row["inactive"]
        assert server.overloaded == bool(row["overloaded"])

    def read_flags(self) -> int:
        """Take the overload flags from the tables, and return how many are set."""
        slots = DestinationSlots(self.host.director.tables)
        for server in self.servers:
            slot = slots.find(self.key, server.key)
            assert slot is not None
            server.overloaded = bool(self.host.director.tables.conn_counts.get(slot, "overloaded"))
        return sum(server.overloaded for server in self.servers)

    def add(self, numbers: range | list[int], weight: int = 1, upper: int = 0) -> None:
        with self.host.director.batch():
            for number in numbers:
                given = Destination(self._name(number), weight=weight, upper=upper)
                self.host.director.add_destination(self.key, given)
                server = self.known.setdefault(number, Server(given))
                server.edit(given)
                self.servers.insert(0, server)
                self.model.changed()

    def delete(self, server: Server) -> None:
        """Delete a server. Its connections stay, but packets do not change them."""
        self.host.director.delete_destination(self.key, server.key)
        position = self.servers.index(server)
        self.servers.remove(server)
        server.available = False
        self.model.deleted(server, position)
        self.open = [each for each in self.open if each[1] is not server]

    def edit(self, server: Server, weight: int, upper: int, lower: int) -> None:
        given = Destination(server.key, weight=weight, upper=upper, lower=lower)
        self.host.director.edit_destination(self.key, given)
        server.edit(given)
        self.model.changed()

    def switch(self, scheduler: str) -> None:
        self.host.director.edit_service(VirtualService(self.key, scheduler))
        self.model.close()
        self.scheduler = scheduler
        self.model = reference.SCHEDULERS[scheduler](self.servers, 0)

    def frame(self, flags: str, sport: int) -> bytes:
        return tcp(flags, sport=sport, dport=self.key.port, source="198.18.0.1")

    def connect(self, replaced: tuple[int, Server] | None = None) -> None:
        """Open a connection, in place of a closed one, and check that the server of the reference gets it."""
        if replaced is None:
            self.sport += 1
        sport = replaced[0] if replaced else self.sport
        flow = reference.Flow(ip_address("198.18.0.1").packed, sport, ip_address(VIP4).packed)
        wanted = self.model.choose(flow, 0.0)
        self.host.receive(self.frame("S", sport))
        if self.scheduler == "twos":
            expected, wanted = wanted, self._drawn()
            assert (wanted is None) == (expected is None)
        if wanted is not None:
            wanted.active += 1
            wanted.bind()
            self.open.append((sport, wanted))
        if replaced:  # it counts until then
            replaced[1].inactive -= 1
            replaced[1].release()
            self._read(replaced[1])
        if wanted is not None:
            before = wanted.active, wanted.inactive
            self._read(wanted)
            assert (wanted.active, wanted.inactive) == before

    def _drawn(self) -> Server | None:
        """Return the server that has one connection more than before."""
        counts = self.host.counts(self.key)
        more = [each for each in self.servers if counts[str(each.key.address)][0] > each.active]
        assert len(more) <= 1
        assert all(server.usable for server in more)
        return more[0] if more else None

    def close(self, which: int, by: str = "R") -> None:
        """Establish and close a connection, by a reset unless another flag is given: it becomes inactive."""
        sport, server = self.open.pop(which)
        for flags in "A", by:
            self.host.run(self.frame(flags, sport), "tc")
        server.active -= 1
        server.inactive += 1
        self.closed.append((sport, server))
        self._read(server)

    def tree(self) -> tuple[Tree, list[int]]:
        """Return the tree of the list in force, and its inner nodes' list indexes."""
        _, version = self.host.director.known(self.key)
        tree = tree_of(version)
        assert tree
        with maps.ArrayMap.open(self.host.director.tables.path("winners")) as winners:
            nodes = [winners.get(tree.first // 2 + node) or b"" for node in range((tree.length + 1) // 3)]
        return tree, [int.from_bytes(node[:4], "little") for node in nodes]

    def check_tree(self) -> None:
        """Check each node against its children, and that every destination has its leaf alone."""
        for server in self.servers:
            self._read(server)
        tree, nodes = self.tree()
        is_sum = self.scheduler == "twos"
        below = nodes + ([each.weight * each.usable for each in self.servers] if is_sum else list(range(tree.length)))
        for node, found in enumerate(nodes):
            children = below[ARITY * node + 1 : ARITY * node + 1 + ARITY]
            wanted = sum(children) if is_sum else better(self.scheduler, self.servers, children)
            assert found == wanted, (node, children)
        if self.scheduler.startswith("lblc"):
            self._check_idle(tree)
        for position, slot in enumerate(list_of(self.host.director.tables, self.host.director.known(self.key)[1])):
            now, following = self.host.director.tables.conn_counts.get(slot, "leaves")
            assert not following
            assert now & 0x3FFFF == tree.first
            assert now >> abi.constant("LEAF_POS") & 0x3FFFF == position

    def _check_idle(self, tree: Tree) -> None:
        """Check the bits of destinations with fewer active connections than half of their weights, and their number."""
        idle = [2 * server.active < server.weight for server in self.servers]
        first, words = tree.first // 2 + (tree.length + 1) // 3, (tree.length + 63) // 64
        with maps.ArrayMap.open(self.host.director.tables.path("winners")) as winners:
            number, *bits = [int.from_bytes(winners.get(first + word) or b"", "little") for word in range(1 + words)]
        found = "".join(f"{word:064b}"[::-1] for word in bits)
        assert found == "".join(str(int(each)) for each in idle).ljust(64 * words, "0")
        assert number == sum(idle)

    def leaves(self, server: Server) -> tuple[int, int]:
        slot = DestinationSlots(self.host.director.tables).find(self.key, server.key)
        assert slot is not None
        found: tuple[int, int] = self.host.director.tables.conn_counts.get(slot, "leaves")
        return found

    def remove(self) -> None:
        self.host.director.delete_service(self.key)
        assert {self.leaves(server) for server in self.known.values()} <= {(0, 0)}


@pytest.mark.parametrize("count", [17, 70])
@pytest.mark.parametrize("scheduler", INDEXED)
def test_choices_are_those_of_the_reference_after_any_history(director_host: Host, scheduler: str, count: int) -> None:
    """Connections, resets, replaced connections, thresholds, weights of 0, and edits that replace the list."""
    chance = random.Random(count)
    service = Service(director_host, scheduler)
    for number in range(count):
        service.add([number], chance.choice((0, 1, 1, 2, 3, 100)), chance.choice((0, 0, 0, 3, 9)))
    free = list(range(count, 2 * count))
    for _ in range(350):
        step = chance.choices(("connect", "close", "replace", "edit", "add", "delete"), (50, 30, 12, 4, 2, 2))[0]
        if step == "connect":
            service.connect()
        elif step == "close" and service.open:
            service.close(chance.randrange(len(service.open)))
        elif step == "replace" and service.closed:
            service.connect(service.closed.pop(chance.randrange(len(service.closed))))
        elif step == "edit":
            upper = chance.choice((0, 0, 2, 6, 12))
            lower = chance.choice((0, upper // 2))
            service.edit(chance.choice(service.servers), chance.choice((0, 1, 2, 3)), upper, lower)
        elif step == "add":
            service.add([free.pop()], chance.choice((0, 1, 2)))
        elif step == "delete" and len(service.servers) > 17:
            service.delete(chance.choice(service.servers))
    service.check_tree()
    service.remove()


@pytest.mark.parametrize("count", [21, 64, 85, 86, 700])
@pytest.mark.parametrize("scheduler", ["rr", "wrr", "fo", "twos"])
def test_few_usable_servers_of_many_are_found(director_host: Host, scheduler: str, count: int) -> None:
    """They are at any place: the leaves of a tree have one level, or two."""
    chance = random.Random(count)
    service = Service(director_host, scheduler)
    service.add(range(count), weight=0)
    for _ in range(6):
        with director_host.director.batch():
            some = sorted({0, count - 1, *chance.choices(range(count), k=3)})
            for position in some if chance.random() < 0.5 else [count // 2]:
                service.edit(service.servers[position], chance.choice((1, 3, 50)), chance.choice((0, 0, 2)), 0)
        for _ in range(12):
            service.connect()
        service.check_tree()
        with director_host.director.batch():
            for server in service.servers:
                if server.weight and chance.random() < 0.7:
                    service.edit(server, 0, 0, 0)
    service.connect()
    service.remove()


def test_a_light_server_waits_for_heavy_ones_however_long_the_list_is(director_host: Host) -> None:
    """wrr looks for weights of 100 to 2 in vain among all others."""
    service = Service(director_host, "wrr")
    service.add(range(300))
    service.edit(service.servers[150], 100, 0, 0)
    for _ in range(430):
        service.connect()
    service.remove()


def test_a_list_has_a_tree_from_the_seventeenth_server_on(director_host: Host) -> None:
    service = Service(director_host, "wlc")
    service.add(range(16))
    service.connect()
    assert {service.leaves(server) for server in service.servers} == {(0, 0)}
    service.add([16])
    service.check_tree()
    for _ in range(40):
        service.connect()
    service.check_tree()
    service.delete(service.servers[3])
    service.connect()
    assert {service.leaves(server) for server in service.known.values()} == {(0, 0)}
    service.remove()


def test_without_a_usable_server_there_is_no_choice_until_one_is(director_host: Host) -> None:
    service = Service(director_host, "wlc")
    service.add(range(40), weight=0)
    service.connect()
    assert service.open == []
    service.edit(service.servers[27], 1, 2, 0)
    for _ in range(4):
        service.connect()
    assert [server for _, server in service.open] == [service.servers[27]] * 2
    service.close(0)
    service.connect(service.closed.pop())  # the replaced connection counts until the choice is made
    service.check_tree()
    service.remove()


def test_another_scheduler_makes_another_tree(director_host: Host) -> None:
    service = Service(director_host, "wlc")
    service.add(range(30), weight=2)
    first = service.tree()[0]
    for scheduler in "sed", "lc", "nq", "wlc":
        former = service.tree()[0]
        service.switch(scheduler)
        assert service.tree()[0].first != former.first
        for _ in range(20):
            service.connect()
        service.close(3)
        service.check_tree()
    service.switch("sh")
    assert {service.leaves(server) for server in service.servers} == {(0, 0)}
    service.connect()
    service.switch("lc")
    service.connect()
    service.check_tree()
    assert first.scheduler == NUMBERS["wlc"]
    service.remove()


def test_the_tree_of_an_earlier_list_is_not_searched(director_host: Host) -> None:
    """With mh-fallback, mh looks for any usable server of the list, as rr does. But its list has no tree."""
    director = director_host.director
    earlier = Service(director_host, "rr")
    earlier.add(range(300))
    earlier.connect()
    left = director.known(earlier.key)[1]["list"]
    earlier.remove()
    later = Service(director_host, "mh", ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2)
    later.add(range(300), upper=1)
    unlimited = later.servers[150]  # no node of a tree of equals names its index
    later.edit(unlimited, 1, 0, 0)
    while director.known(later.key)[1]["list"] != left:
        later.edit(unlimited, 3 - unlimited.weight, 0, 0)
    for _ in range(600):
        later.connect()
    assert sum(server.overloaded for server in later.servers) > 250
    later.remove()


def test_many_changes_as_one_edit_keep_the_trees(director_host: Host) -> None:
    """A service is new, one changes its list and its scheduler, one its scheduler alone, one loses its list."""
    director = director_host.director
    services = [Service(director_host, "wlc") for _ in range(3)]
    for service in services:
        service.add(range(20))
        service.connect()
    new = director_host.new_key()
    servers = [Destination(DestinationKey(ip_address(FIRST + number), new.port)) for number in range(50)]
    first, second, third = services
    added = Destination(DestinationKey(ip_address(FIRST + 20), first.key.port), weight=3)
    deleted = first.servers[4]
    director.apply(
        [
            ServiceChange(new, VirtualService(new, "sed"), added=tuple(servers), is_new=True),
            ServiceChange(first.key, VirtualService(first.key, "nq"), added=(added,), deleted=(deleted.key,)),
            ServiceChange(second.key, VirtualService(second.key, "lc")),
            ServiceChange(third.key, None),
        ]
    )
    first.servers.remove(deleted)
    first.servers.insert(0, Server(added))
    for service, scheduler in (first, "nq"), (second, "lc"):
        service.scheduler = scheduler
        service.model = reference.SCHEDULERS[scheduler](service.servers, 0)
        service.check_tree()
        for _ in range(30):
            service.connect()
        service.check_tree()
    assert {third.leaves(server) for server in third.servers} == {first.leaves(deleted)} == {(0, 0)}
    tree = tree_of(director.known(new)[1])
    assert tree
    assert (tree.length, tree.scheduler) == (50, NUMBERS["sed"])
    for key in new, first.key, second.key:
        director.delete_service(key)


def test_the_tree_follows_connections_that_the_timer_ends() -> None:
    with new_host(connections=4096, expires=False, recycled=True) as host:
        service = Service(host, "wlc")
        service.add(range(40))
        host.director.set_timeouts(Timeouts(900, 1, 300))
        for _ in range(60):
            service.connect()
        for sport, _ in service.open[:25]:
            for flags in "A", "FA":
                host.run(service.frame(flags, sport), "tc")
        before = sum(map(sum, host.counts(service.key).values()))

        def have_ended() -> bool:
            host.expiry.run(host.director)
            return sum(map(sum, host.counts(service.key).values())) == before - 25

        until(have_ended, "the end of closed connections")
        service.check_tree()
        for _ in range(60):
            service.connect()


def test_the_tree_follows_into_a_table_of_another_size() -> None:
    with new_host(connections=4096, expires=False) as host:
        service, short = Service(host, "wlc"), Service(host, "wlc")
        service.add(range(45))
        short.add(range(3))
        for _ in range(100):
            service.connect()
        for number in range(0, 60, 2):
            service.close(number, "FA")  # for minutes, so that the other table has them, too
        host.director.change_setting("conn_max", 8192)
        host.close_programs()
        service.check_tree()
        for _ in range(100):
            service.connect()
        service.delete(service.servers[7])
        service.connect()
        short.connect()
        service.check_tree()


def test_a_process_with_less_memory_gives_another_table_as_many_nodes() -> None:
    """The lists stay as long as they are: without its last nodes a tree would name members of other lists."""
    with new_host(connections=4096, expires=False) as host:
        director = host.director
        with mock.patch.object(load, "destination_limit", return_value=director.tables.destinations.count // 2):
            director.change_setting("conn_max", 8192)
        with maps.ArrayMap.open(director.tables.path("winners")) as winners:
            assert winners.max_entries == director.tables.destinations.count


def test_recovery_makes_the_trees_in_force_again(director_host: Host) -> None:
    """The writer died between the commit and the rest of its edit, and before the commit of another one."""
    director, service = director_host.director, Service(director_host, "wlc")
    service.add(range(30))
    for _ in range(50):
        service.connect()
    tables = director.tables
    slots = list_of(tables, director.known(service.key)[1])
    now = tables.conn_counts.get(slots[0], "leaves")[0]
    for slot in slots[:20]:
        tables.conn_counts.set(slot, "leaves", 0, now + 7)
    gone = DestinationSlots(tables).find(service.key, service.servers[0].key)
    assert gone is not None
    with director.batch():
        tables.book.set(0, "pending", 1)
        recover(tables)
    service.check_tree()
    for _ in range(50):
        service.connect()
    service.remove()


def test_a_failed_edit_leaves_the_tree_in_force(director_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(director_host, "wlc")
    service.add(range(30))
    service.connect()

    def fails(_: Transaction) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "commit", fails)
        with pytest.raises(KeyboardInterrupt):
            director_host.director.delete_destination(service.key, service.servers[3].key)
    service.check_tree()
    for _ in range(40):
        service.connect()
    service.check_tree()
    service.remove()


class Killed(BaseException):
    """The process dies: nothing is tidied."""


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_writer_killed_at_any_step_leaves_a_tree(
    director_host: Host, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Its steps: make the new tree; after the commit, keep that one alone; forget the leaves in the former one."""
    service, runs = Service(director_host, "wlc"), list[str]()
    service.add(range(30))
    for _ in range(40):
        service.connect()
    run = State.run_program

    def dies(state: State, name: str, directory: str = LOADED, data: bytes = bytes(64)) -> int:
        runs.append(name)
        if runs.count(INDEX) == step:
            raise Killed
        return run(state, name, directory, data)

    gone = service.servers[11]
    with monkeypatch.context() as patched:
        patched.setattr(State, "run_program", dies)
        patched.setattr(Transaction, "__exit__", lambda *_: None)
        with pytest.raises(Killed):
            director_host.director.delete_destination(service.key, gone.key)
    if step > 1:
        service.servers.remove(gone)
        service.open = [each for each in service.open if each[1] is not gone]
    for _ in range(20):
        service.connect()
    with director_host.director.batch():
        pass
    service.check_tree()
    assert step == 1 or service.leaves(gone) == (0, 0)
    service.remove()


@pytest.mark.parametrize(("scheduler", "upper"), [("wlc", 0), ("nq", 0), ("rr", 4), ("twos", 4), ("lblcr", 0)])
def test_two_cpus_leave_each_node_right(director_host: Host, scheduler: str, upper: int) -> None:
    """A node with a lost change stays wrong until the next climb over it, so each burst is checked at rest."""
    service = Service(director_host, scheduler)
    service.add(range(70), upper=upper)
    director_host.program("tc")
    full = 0

    def sends(cpu: int, frames: list[bytes]) -> None:
        with on_cpu(cpu):
            for frame in frames:
                director_host.run(frame, "tc")

    for burst in range(12):
        halves = []
        for cpu in 0, 1:
            base = 10000 + 2 * 60 * burst + 60 * cpu
            ports = range(base, base + 60)
            closed = range(base - 240, base - 180) if burst > 1 else range(0)
            halves.append([service.frame("S", port) for port in ports] + [service.frame("FA", port) for port in closed])
        threads = [threading.Thread(target=sends, args=each) for each in enumerate(halves)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        full += service.read_flags()
        service.check_tree()
    assert bool(full) == bool(upper)
    service.remove()


def test_a_tree_that_was_never_made_is_not_used(director_host: Host) -> None:
    """The scheduler walks the list then."""
    service = Service(director_host, "wlc")
    service.add(range(20))
    tree, _ = service.tree()
    with maps.ArrayMap.open(director_host.director.tables.path("winners")) as winners:
        winners.put(tree.first // 2, bytes(8))
        for slot in list_of(director_host.director.tables, director_host.director.known(service.key)[1]):
            director_host.director.tables.conn_counts.set(slot, "leaves", 0, 0)
        for _ in range(40):
            service.connect()
        assert winners.get(tree.first // 2) == bytes(8)
    service.remove()


def test_a_renamed_server_keeps_its_leaf(director_host: Host) -> None:
    service = Service(director_host, "lc")
    service.add(range(20))
    server = service.servers[5]
    name = replace(server.key, port=1234)
    director_host.director.rename_destination(service.key, server.key, name)
    server.key = name
    service.check_tree()
    service.connect()
    service.remove()
