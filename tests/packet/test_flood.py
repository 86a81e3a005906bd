"""A CPU that is flooded: SYNs get no connection, and their handshakes complete all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from pylvs.bpf import abi, maps
from pylvs.dataplane import load
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    VirtualService,
)
from tests.packet.frames import parsed
from tests.packet.host import HOOKS, Host, new_host, on_cpu
from tests.packet.test_half_open import change_queues, clients, flood, packet, serve, shake_hands, states

CAPACITY = 4096
SPORTS = range(3000, 3032)
AGES = 1 << 20  # ticks: longer than any test takes
DIRECT = [Method.ROUTE, Method.TUNNEL]


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as made, on_cpu(min(os.sched_getaffinity(0))):
        yield made


def queues_of(host: Host) -> list[dict[str, int]]:
    codec = abi.struct("half_open_queue")
    with maps.PerCpuArray.open(host.director.tables.path("half_open_queues")) as queues:
        raw = queues.get(0) or b""
        return [codec.unpack_from(raw, at) for at in range(0, len(raw), queues.stride)]


def begin_flood(host: Host, service: ServiceKey) -> None:
    """Let the service have most of the half-open connections, and every CPU be flooded."""
    flood(host, service, 2 * CAPACITY)
    change_queues(host, flooded_until=load.clock(host.director.state) + AGES)


def picks(host: Host, service: ServiceKey, flags: str, hook: str, sports: Sequence[int] = SPORTS) -> list[str]:
    """Return the link addresses of the servers that get a packet of each client port."""
    return [parsed(host.forwarded(packet(flags, service, sport), hook)).dst for sport in sports]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", DIRECT, ids=lambda method: method.name)
def test_a_syn_gets_no_connection_and_the_handshake_completes(
    host: Host, method: Method, family: int, hook: str
) -> None:
    service = serve(host, family, method)
    shake_hands(host, service, range(2000, 2050))
    begin_flood(host, service)
    before = picks(host, service, "S", hook)
    assert picks(host, service, "S", hook) == before
    assert clients(host, service) == set(range(2000, 2050))
    assert host.reason("FLOOD_STATELESS") >= 2 * len(SPORTS)
    assert len(set(before)) == 3
    for flags in "A", "PA", "A", "FA":
        assert picks(host, service, flags, hook) == before
    assert clients(host, service) == {*range(2000, 2050), *SPORTS}
    assert host.reason("TABLE_FULL_STATELESS") == 0


@pytest.mark.parametrize(("scheduler", "cost"), [("rr", 1), ("wlc", 1), ("ovf", 6)])
def test_a_syn_counts_as_several_if_its_scheduler_loads_a_long_list(host: Host, scheduler: str, cost: int) -> None:
    """So a CPU is flooded before such SYNs take all of its time."""
    service, other = host.new_key(), serve(host, 4, Method.ROUTE)
    with host.director.batch():
        host.director.add_service(VirtualService(service, scheduler))
        for number in range(320):
            server = DestinationKey(ip_address("10.77.1.0") + number, service.port)
            host.director.add_destination(service, Destination(server, Method.ROUTE))
    counted = set()
    flood(host, other, CAPACITY)
    for _ in range(100):
        change_queues(host, ended_in_tick=0, flooded_until=0)
        flood(host, service, 1)
        counted |= {each["ended_in_tick"] for each in queues_of(host)}
    assert counted - {0}
    assert counted <= {0, cost, 2 * cost}, "a SYN ends two connections at most"


def test_both_hooks_choose_alike_and_count_alike(host: Host) -> None:
    service = serve(host, 4, Method.ROUTE)
    begin_flood(host, service)
    before = packets(host, service)
    assert picks(host, service, "S", "xdp") == picks(host, service, "S", "tc")
    assert packets(host, service) - before >= 2 * len(SPORTS)
    assert host.pool("used") <= CAPACITY * 5 // 8


def packets(host: Host, service: ServiceKey) -> int:
    reader = host.director.reader
    slot, version = host.director.known(service)
    return sum(reader.statistics.counted(each)[1] for each in reader.owned(slot, version))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("method", "flags", "protocol"),
    [
        (Method.MASQ, ServiceFlag(0), Protocol.TCP),
        (Method.ROUTE, ServiceFlag.PERSISTENT, Protocol.TCP),
        (Method.ROUTE, ServiceFlag(0), Protocol.UDP),
    ],
    ids=["NAT", "persistent", "UDP"],
)
def test_what_needs_a_connection_gets_one(
    host: Host, method: Method, flags: ServiceFlag, protocol: Protocol, hook: str
) -> None:
    service = serve(host, 4, method, flags, protocol)
    begin_flood(host, service)
    picks(host, service, "S", hook)
    assert clients(host, service) - {0} == set(SPORTS)
    assert host.reason("FLOOD_STATELESS") == 0


@pytest.mark.parametrize("hook", HOOKS)
def test_another_service_still_gets_connections(host: Host, hook: str) -> None:
    """It made few of the half-open ones, so it has a reserved share."""
    attacked, quiet = serve(host, 4, Method.ROUTE), serve(host, 4, Method.ROUTE)
    begin_flood(host, attacked)
    picks(host, quiet, "S", hook)
    assert states(host, quiet) == {"SYN_RECV": len(SPORTS)}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_syn_of_a_connection_is_sent_to_its_server(host: Host, hook: str) -> None:
    service = serve(host, 4, Method.ROUTE)
    shake_hands(host, service, SPORTS)
    before = picks(host, service, "A", hook)
    begin_flood(host, service)
    assert picks(host, service, "S", hook) == before
    assert set(states(host, service)) == {"ESTABLISHED", "SYN_RECV"}


def test_flows_stay_after_the_flood_until_their_handshakes_have_ended(host: Host) -> None:
    service = serve(host, 4, Method.ROUTE)
    begin_flood(host, service)
    before = picks(host, service, "S", "xdp")
    change_queues(host, flooded_until=0)
    assert picks(host, service, "S", "xdp") == before
    assert clients(host, service) == set(SPORTS)
    slot, _ = host.director.known(service)
    until = host.director.tables.service_states.get(slot, "stateless_until")
    seconds = (until - load.clock(host.director.state)) / load.ticks_per_second()
    assert 60 < seconds < 140
    host.director.tables.service_states.set(slot, "stateless_until", 0)
    scheduled = picks(host, service, "S", "xdp", range(4000, 4030))
    assert scheduled[:3] * 10 == scheduled  # in turn


@pytest.mark.parametrize("ended", [0, 1 << 20])
def test_a_cpu_that_ends_many_half_open_connections_in_a_tick_is_flooded(host: Host, ended: int) -> None:
    service = serve(host, 4, Method.ROUTE)
    flood(host, service, 2 * CAPACITY)
    counted: list[dict[str, int]] = []
    for _ in range(1000):  # until the packet comes in the same tick
        change_queues(host, tick=load.clock(host.director.state), ended_in_tick=ended)
        flood(host, service, 1)
        counted = [each for each in queues_of(host) if each["ended_in_tick"] > ended]
        if counted:
            break
    (queue,) = counted
    assert queue["flooded_until"] == (queue["tick"] + 1 if ended else 0)
