"""Every scheduler and its reference, with any sequence of edits, connections, overloads and time."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.bpf import abi
from pylvs.dataplane import load
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.model.service import Destination, DestinationKey, ServiceFlag, ServiceKey, VirtualService
from pylvs.reference import schedulers as reference
from pylvs.reference.schedulers.locality import LocalityLeastConnections, ReplicatedLocality
from pylvs.reference.server import Server
from tests.packet.frames import tcp
from tests.packet.host import (
    PASSED,
    PREDICTABLE,
    SERVERS,
    VIP4,
    VIP6,
    Host,
    new_host,
    server4,
    server6,
    server_mac,
    stop_timer,
)

BY_MAC = {server_mac(number): number for number in range(1, SERVERS + 1)}
STEP_S = 200  # the step of time, far longer than REAL_S
REAL_S = 10  # how long the real clock may run before its time is taken back
LONG_S = 86500  # about a day, but no multiple of STEP_S: no entry expires at the very moment of a step
_clients = itertools.count(1)


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    # No clock: neither connections nor entries of caches end between the reference's choice and that of the program.
    with new_host(connections=1 << 17, expires=False) as made:
        stop_timer(made.director, "cache_sweepers")
        yield made


@dataclass
class Twin:
    """A service in the tables, and its scheduler in the reference; each change is made in both."""

    host: Host
    key: ServiceKey
    scheduler: str
    flags: ServiceFlag
    servers: list[Server] = field(default_factory=list)
    known: dict[int, Server] = field(default_factory=dict)  # deleted ones among them: adding one revives it
    now: float = 0
    expiration_s: int = LONG_S
    model: reference.Scheduler = field(init=False)
    tick: int = field(init=False)  # of the real clock, at `now`
    clients: list[bytes] = field(default_factory=list)  # frames that end a connection

    def __post_init__(self) -> None:
        self.host.director.add_service(VirtualService(self.key, self.scheduler, self.flags))
        self._begin()

    @property
    def slot(self) -> int:
        found = self.host.director.slot(self.key)
        assert found is not None
        return found

    def _begin(self) -> None:
        self.model = reference.SCHEDULERS[self.scheduler](self.servers, self.flags)
        self.model.address_bytes = self.key.address.max_prefixlen // 8
        self._set_expiration()
        self.model.advance(self.now)
        self.tick = load.clock(self.host.director.state)

    def _set_expiration(self) -> None:
        if isinstance(self.model, LocalityLeastConnections | ReplicatedLocality):
            self.model.cache.expiration_s = self.expiration_s

    def _destination(self, number: int, weight: int = 1) -> Destination:
        name = server4 if self.key.address.version == 4 else server6
        return Destination(DestinationKey(ip_address(name(number)), self.key.port), weight=weight)

    def _position(self, number: int) -> int:
        position = DestinationSlots(self.host.director.tables).find(self.key, self._destination(number).key)
        assert position is not None
        return position

    def _overload(self, number: int, yes: bool) -> None:
        self.known[number].overloaded = yes
        self.host.director.tables.conn_counts.set(self._position(number), "overloaded", int(yes))

    # --- what may happen ---

    def add(self, number: int, weight: int) -> None:
        given = self._destination(number, weight)
        server = self.known.get(number)
        if server is not None and server.available:
            self.edit(number, weight)
            return
        self.host.director.add_destination(self.key, given)
        server = self.known.setdefault(number, Server(given))
        server.available, server.weight, server.last_weight = True, weight, weight
        self.servers.insert(0, server)
        self.model.changed()
        self._overload(number, False)

    def delete(self, number: int) -> None:
        server = self.known.get(number)
        if server is None or not server.available:
            return
        self.host.director.delete_destination(self.key, server.key)
        position = self.servers.index(server)
        self.servers.remove(server)
        server.available = False
        self.model.deleted(server, position)

    def edit(self, number: int, weight: int) -> None:
        server = self.known.get(number)
        if server is None or not server.available:
            return
        given = self._destination(number, weight)
        self.host.director.edit_destination(self.key, given)
        server.edit(given)
        self.model.changed()
        self._overload(number, False)

    def overload(self, number: int) -> None:
        server = self.known.get(number)
        if server is not None:
            self._overload(number, not server.overloaded)

    def switch(self, scheduler: str) -> None:
        for name in scheduler, self.scheduler:
            self.host.director.edit_service(VirtualService(self.key, name, self.flags))
        if scheduler != self.scheduler:  # otherwise the cache stays (ip_vs_edit_service)
            self.model.close()
            self._begin()

    def expire_after(self, seconds: int) -> None:
        for name in "lblc", "lblcr":
            self.host.director.change_setting(f"{name}_expiration", seconds)
        self.expiration_s = seconds
        self._set_expiration()

    def wait(self, steps: int) -> None:
        """Let time pass for what caches remember."""
        self._stop_clock()
        self._age(-(-steps * STEP_S * round(60 * load.ticks_per_second()) // 60))
        self.now += steps * STEP_S
        self.model.advance(self.now)

    def _stop_clock(self) -> None:
        """Take the real time back that has passed: on a busy machine it may be longer than a cache remembers."""
        passed = load.clock(self.host.director.state) - self.tick & 0xFFFFFFFF
        if passed > REAL_S * load.ticks_per_second():
            self._age(-passed)
            self.tick += passed

    def _age(self, ticks: int) -> None:
        """Move what caches remember into the past by so many ticks, or towards the present, but not beyond it."""
        tables, versions = self.host.director.tables, self.host.director.reader.versions
        present = load.clock(self.host.director.state)

        def moved(tick: int) -> int:
            age = (present - tick & 0xFFFFFFFF) + ticks
            return present - max(age, 0) & 0xFFFFFFFF

        version = versions.version(self.slot)
        codec = abi.struct("cached")
        for key, value in list(tables.cache.items()):
            if struct.unpack_from("<I", key)[0] == version["epoch"]:
                raw = bytearray(value)
                fields = codec.unpack_from(raw, 0)
                for name in "used", "changed":
                    fields[name] = moved(fields[name])
                codec.pack_into(raw, 0, fields)
                tables.cache.put(key, bytes(raw))
        for half in 0, 1:
            offset = versions._half_offset(self.slot, half) + abi.struct("service_version").offset("epoch_tick")
            struct.pack_into("<I", tables.services.array.memory, offset, moved(version["epoch_tick"]))

    def finish(self, which: int) -> None:
        """End a connection, which becomes inactive."""
        if self.clients:
            self.host.run(self.clients.pop(which % len(self.clients)), "tc")

    def connect(self, client: int, expected: Callable[[int | None, int | None], None]) -> None:
        """Open a connection, and compare its server with that of the reference."""
        self._stop_clock()
        for number, server in self.known.items():
            row = self.host.director.tables.conn_counts.read(self._position(number))
            server.active, server.inactive = row["active"], row["inactive"]
        source = ip_address(client << 96 | next(_clients) if self.key.address.version == 6 else client)
        target = VIP4 if self.key.address.version == 4 else VIP6
        port = 1024 + next(_clients) % 60000
        frame = tcp(sport=port, dport=self.key.port, source=str(source), target=target)
        asking = reference.Flow(source.packed, port, ip_address(target).packed)
        wanted = self.model.choose(asking, self.now)
        numbers = {id(server): number for number, server in self.known.items()}
        expected(self._receiver(frame), numbers[id(wanted)] if wanted else None)
        self.clients.append(tcp("FA", sport=port, dport=self.key.port, source=str(source), target=target))

    def _receiver(self, frame: bytes) -> int | None:
        _, done = self.host.receive(frame)
        assert done.verdict != PASSED["tc"]
        number = BY_MAC.get(done.data[:6].hex(":"))
        if number is not None:
            return number
        if len(done.data) > len(frame):
            return None  # port unreachable
        return BY_MAC[self.host.forwarded(frame)[:6].hex(":")]


WEIGHTS = st.sampled_from([0, 1, 1, 2, 3, 4, 6, 12, 100])
NUMBERS = st.integers(1, SERVERS)
CLIENTS = st.integers(0xC6120000, 0xC6130000)  # 198.18.0.0/16, and IPv6 prefixes


def _of(name: str, *arguments: Any) -> Callable[[Twin, Any], None]:
    def happens(twin: Twin, expected: Any) -> None:
        more = (expected,) if name == "connect" else ()
        getattr(twin, name)(*arguments, *more)

    happens.__qualname__ = f"{name}{arguments}"  # what a failing example shows
    return happens


CONNECTIONS = st.builds(_of, st.just("connect"), CLIENTS)
EVENTS = st.one_of(
    CONNECTIONS,
    CONNECTIONS,
    CONNECTIONS,
    st.builds(_of, st.just("add"), NUMBERS, WEIGHTS),
    st.builds(_of, st.just("edit"), NUMBERS, WEIGHTS),
    st.builds(_of, st.just("delete"), NUMBERS),
    st.builds(_of, st.just("overload"), NUMBERS),
    st.builds(_of, st.just("finish"), st.integers(0, 99)),
    st.builds(_of, st.just("switch"), st.sampled_from(["lc", "mh", "lblc"])),
)
AGEING = st.one_of(
    EVENTS,
    EVENTS,
    st.builds(_of, st.just("wait"), st.integers(1, 20)),
    st.builds(_of, st.just("expire_after"), st.sampled_from([100, 500, LONG_S])),
)
FLAGS = [ServiceFlag(0), ServiceFlag.SCHED_1, ServiceFlag.SCHED_2, ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("scheduler", PREDICTABLE)
def test_choices_are_those_of_the_reference_after_any_history(director_host: Host, scheduler: str, family: int) -> None:
    host = director_host

    @settings(max_examples=20 if scheduler in ("mh", "lblc", "lblcr") else 4, deadline=None)
    @given(
        st.lists(st.tuples(NUMBERS, WEIGHTS), min_size=1, max_size=SERVERS),
        st.lists(AGEING if scheduler.startswith("lblc") else EVENTS, max_size=60),
        st.sampled_from(FLAGS),
    )
    def holds(first: list[tuple[int, int]], events: list[Any], flags: ServiceFlag) -> None:
        history: list[str] = []

        def expected(got: int | None, wanted: int | None) -> None:
            assert got == wanted, history

        with host.director.batch():
            twin = Twin(host, host.new_key(vip=VIP4 if family == 4 else VIP6), scheduler, flags)
            twin.expire_after(LONG_S)
            for number, weight in first:
                twin.add(number, weight)
            for event in events:
                history.append(event.__qualname__)
                event(twin, expected)
            host.director.delete_service(twin.key)

    holds()


@pytest.mark.parametrize("scheduler", PREDICTABLE)
def test_choices_are_those_of_the_reference_when_loads_and_weights_differ(director_host: Host, scheduler: str) -> None:
    """A random history rarely lets all of connections, inactive ones, overload and weight matter. This one does."""
    chance, history = random.Random(7), list[str]()

    def expected(got: int | None, wanted: int | None) -> None:
        assert got == wanted, history

    with director_host.director.batch():
        twin = Twin(director_host, director_host.new_key(vip=VIP4), scheduler, ServiceFlag(0))
        twin.expire_after(LONG_S)
        for number, weight in enumerate((1, 2, 3, 4, 6, 1, 2, 3), 1):
            twin.add(number, weight)
        for _ in range(150):
            step = chance.choices(("connect", "finish", "overload", "edit"), (60, 30, 5, 5))[0]
            history.append(step)
            if step == "connect":
                twin.connect(0xC6120000 + chance.randrange(999), expected)
            elif step == "finish":
                twin.finish(chance.randrange(99))
            elif step == "overload":
                twin.overload(chance.randint(1, SERVERS))
            else:
                twin.edit(chance.randint(1, SERVERS), chance.choice((1, 2, 3, 4, 6)))
        director_host.director.delete_service(twin.key)


class TwinOfMany(Twin):
    """More servers than one part of an address's set holds, behind the router: connections show the choice.

    None is deleted, so each keeps its position.
    """

    @cached_property
    def positions(self) -> dict[int, int]:
        """Return the position of each server; all have been added."""
        return {number: super(TwinOfMany, self)._position(number) for number in self.known}

    def _position(self, number: int) -> int:
        return self.positions[number] if "positions" in vars(self) else super()._position(number)

    def _destination(self, number: int, weight: int = 1) -> Destination:
        return Destination(DestinationKey(ip_address(0x0A4D0100 + number), self.key.port), weight=weight)

    def _receiver(self, frame: bytes) -> int | None:
        before = self.host.counts(self.key)
        self.host.receive(frame)
        after = self.host.counts(self.key)
        risen = [address for address in after if sum(after[address]) > sum(before[address])]
        return int(ip_address(risen[0])) - 0x0A4D0100 if risen else None

    def members(self) -> int:
        """Return the members of the sets in the reference."""
        assert isinstance(self.model, ReplicatedLocality)
        return sum(len(entry.servers) for chain in self.model.cache.chains for entry in chain.values())

    def held(self) -> int:
        """Return the entries of caches that refer to the servers."""
        table = self.host.director.tables.destinations
        return sum(table.get(position, "cached") for position in self.positions.values())


@pytest.mark.parametrize("seed", range(4))
def test_sets_of_lblcr_of_any_size_grow_shrink_and_are_forgotten(director_host: Host, seed: int) -> None:
    chance, host, many = random.Random(seed), director_host, 20
    twin = TwinOfMany(host, host.new_key(), "lblcr", ServiceFlag(0))
    most = 0

    def connect() -> None:
        def expected(got: int | None, wanted: int | None) -> None:
            assert got == wanted

        twin.connect(0xC6120000 + chance.randrange(99), expected)
        assert twin.held() == twin.members()

    with host.director.batch():
        twin.expire_after(LONG_S)
        for number in range(1, many + 1):
            twin.add(number, 1)
        for seconds in LONG_S, 100, LONG_S, 100:
            twin.expire_after(seconds)
            for _ in range(70):
                if seconds == 100 and chance.random() < 0.5:
                    twin.finish(chance.randrange(99))
                    twin.wait(chance.choice([1] * 9 + [20]))  # 20: beyond the next full check
                connect()
                most = max(most, twin.members())
        assert most > 16
        twin.expire_after(LONG_S)
        host.director.delete_service(twin.key)
    assert twin.held() == 0
    assert len(host.director.tables.cache) == 0


DEALS = {  # weights, the newest server's first: shares of 256 buckets that they do not fill, just fill, or outnumber
    "255 of three": [85, 85, 85],
    "256 of three": [86, 85, 85],
    "257 of three": [86, 86, 85],
    "one alone": [1000],
    "one after all": [256, 3],
    "one nearly after all": [255, 3, 0],
    "255 servers": [1] * 255,
    "256 servers": [1] * 256,
    "257 servers": [1] * 257,
    "every third unusable": [2, 0, 1] * 110,
    "none usable but the last": [0] * 299 + [1],
}


@pytest.mark.parametrize("usable", [1, 0])
def test_mh_fallback_finds_the_only_usable_server_of_many(director_host: Host, usable: int) -> None:
    """Fewer than one slot in 1,024 is usable, so many clients exceed the limit of further hashes."""
    key = director_host.new_key()
    with director_host.director.batch():
        director_host.director.add_service(VirtualService(key, "mh", ServiceFlag.SCHED_1))
        for number in range(1500):
            at = DestinationKey(ip_address(0x0A4D0100 + number), key.port)
            director_host.director.add_destination(key, Destination(at))
    slots = DestinationSlots(director_host.director.tables)
    for number in range(usable, 1500):
        position = slots.find(key, DestinationKey(ip_address(0x0A4D0100 + number), key.port))
        assert position is not None
        director_host.director.tables.conn_counts.set(position, "overloaded", 1)
    for client in range(0xC6120000, 0xC6120000 + 200):
        director_host.receive(tcp(sport=2000, dport=key.port, source=str(ip_address(client))))
    made = [each for each in director_host.director.connections() if each.virtual_port == key.port]
    assert len(made) == 200 * usable
    assert {str(each.destination) for each in made} <= {"10.77.1.0"}
    director_host.director.delete_service(key)


@pytest.mark.parametrize("flags", [ServiceFlag(0), ServiceFlag.SCHED_1])
@pytest.mark.parametrize("weights", DEALS.values(), ids=DEALS)
def test_sh_fills_all_buckets(director_host: Host, weights: list[int], flags: ServiceFlag) -> None:
    """Compare every bucket's choice, with and without the list's end among them and sh-fallback."""
    key = director_host.new_key()
    servers: list[Server] = []
    with director_host.director.batch():
        director_host.director.add_service(VirtualService(key, "sh", flags))
        for number, weight in enumerate(reversed(weights)):
            at = DestinationKey(ip_address(0x0A4D0100 + number), key.port)
            director_host.director.add_destination(key, Destination(at, weight=weight))
            servers.insert(0, Server(Destination(at, weight=weight)))
    model = reference.SCHEDULERS["sh"](servers, flags)
    wanted = {}
    for client in range(0xC6120000, 0xC6120000 + 600):
        chosen = model.choose(reference.Flow(client.to_bytes(4, "big"), 2000, ip_address(VIP4).packed), 0)
        wanted[ip_address(client)] = chosen and chosen.key.address
        director_host.receive(tcp(sport=2000, dport=key.port, source=str(ip_address(client))))
    made = {
        each.client: each.destination for each in director_host.director.connections() if each.virtual_port == key.port
    }
    assert {client: made.get(client) for client in wanted} == wanted
    director_host.director.delete_service(key)
