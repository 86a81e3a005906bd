"""Two CPUs, one new flow: one connection comes out, the counts are exact, and nothing is lost on the way."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from pylvs.model.destination import Method
from pylvs.model.service import Protocol
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.host import DROPPED, HOOKS, SENT, VIP4, VIP6, Host, new_host, on_cpu, server4, server6
from tests.packet.table import entries4

FLOWS = 200
PORT = 8080
CPUS = sorted(os.sched_getaffinity(0))[:2]

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(connections=16384) as made:
        yield made


def at_once(host: Host, hook: str, frames: list[bytes]) -> list[list[int]]:
    """Two processes, each on its own CPU, run the same frames in step: the verdicts of both."""
    steps = mmap.mmap(-1, 16)
    verdicts = [mmap.mmap(-1, 4 * len(frames)) for _ in CPUS]
    children = []
    for number, cpu in enumerate(CPUS):
        child = os.fork()
        if not child:
            status = 1
            try:
                with on_cpu(cpu):
                    _in_step(host, hook, frames, number, memoryview(steps).cast("Q"), verdicts[number])
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    return [list(struct.unpack(f"{len(frames)}I", each)) for each in verdicts]


def _in_step(
    host: Host, hook: str, frames: list[bytes], number: int, steps: memoryview[int], verdicts: mmap.mmap
) -> None:
    for place, frame in enumerate(frames):
        steps[number] = place + 1
        for _ in range(4000):  # the other may be without its CPU: go on alone then
            if steps[1 - number] > place:
                break
        struct.pack_into("I", verdicts, 4 * place, host.run(frame, hook).verdict)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(Method.ROUTE, id="ROUTE"),
        pytest.param(Method.MASQ, id="MASQ"),
    ],
)
@pytest.mark.parametrize(("client", "vip"), [(CLIENT4, VIP4), (CLIENT6, VIP6)])
def test_one_new_flow_on_two_cpus_makes_one_connection(
    director_host: Host, hook: str, method: Method, client: str, vip: str
) -> None:
    host, server = director_host, server4 if vip == VIP4 else server6
    service = host.new_key(vip=vip)
    servers = 1 if method == Method.MASQ else 3  # with one, both CPUs write the same entry for its answers
    host.serve(service, servers, method, port=PORT if method == Method.MASQ else None)
    verdicts = at_once(
        host, hook, [tcp(sport=10000 + i, dport=service.port, source=client, target=vip) for i in range(FLOWS)]
    )
    assert not any(verdict == DROPPED[hook] for each in verdicts for verdict in each), host.reasons()

    made = [each for each in host.director.connections() if each.virtual_port == service.port]
    assert sorted(each.client_port for each in made) == list(range(10000, 10000 + FLOWS))
    chosen: dict[str, int] = {}
    for each in made:
        chosen[str(each.destination)] = chosen.get(str(each.destination), 0) + 1
    assert host.counts(service) == {server(i): (chosen.get(server(i), 0), 0) for i in range(1, servers + 1)}
    counted = host.director.service(service).counters
    assert counted.connections == FLOWS

    if method == Method.MASQ:
        lost = [
            each.client_port for each in made if not answered(host, each.client_port, str(each.destination), client)
        ]
        assert not lost, f"{len(lost)} connections whose answers find no way back"


def answered(host: Host, client_port: int, server: str, client: str) -> bool:
    """Whether the answer of a connection's real server is forwarded."""
    frame = tcp("SA", sport=PORT, dport=client_port, source=server, target=client)
    return any(host.run(frame, hook).verdict in SENT[hook] for hook in HOOKS)


def test_packets_of_one_connection_on_two_cpus_are_all_forwarded_and_counted(director_host: Host) -> None:
    """Here both CPUs change the same connection's word over and over: ESTABLISHED, CLOSE, and back."""
    host = director_host
    service = host.new_key()
    host.serve(service)
    frames = [tcp(flags, sport=5000, dport=service.port) for flags in ("S", "A", "A", "FA", "A", "S", "R", "A") * 100]
    first, second = at_once(host, "xdp", frames)
    assert 1 not in first + second
    (made,) = [each for each in host.director.connections() if each.virtual_port == service.port]
    active = made.state in ("ESTABLISHED", "SYN_RECV")
    assert host.counts(service) == {server4(1): (int(active), int(not active))}


def test_slots_of_connections_that_both_cpus_tried_to_make_are_not_lost(director_host: Host) -> None:
    host = director_host
    service = host.new_key(Protocol.UDP)
    host.serve(service)
    before = host.pool("used")
    connections, entries = len(list(host.director.connections())), entries4(host.director.tables)
    at_once(host, "xdp", [udp(sport=20000 + i, dport=service.port) for i in range(FLOWS)])
    made = len(list(host.director.connections())) - connections
    spare = 32 * (os.cpu_count() or 1)  # what CPUs keep for themselves
    assert host.pool("used") - before <= made + spare
    assert entries4(host.director.tables) - entries == made
