"""Two CPUs open one flow: one connection is made, the counts are exact, and no slot is lost."""

from __future__ import annotations

import mmap
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest

from pylvs.bpf import abi
from pylvs.model.service import Method, Protocol
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.host import DROPPED, HOOKS, SENT, VIP4, VIP6, Host, new_host, on_cpu, server4, server6
from tests.packet.runner import Runner
from tests.packet.table import entries, entries_in_use
from tests.waiting import PATIENCE_S

FLOWS = 200  # of a round
ENOUGH = 100  # steps at which both CPUs are in the program
MOST_ROUNDS = 20
PORT = 8080
CPUS = sorted(os.sched_getaffinity(0))[:2]

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(connections=1 << 16, expires=False) as made:
        yield made


class Both(NamedTuple):
    """Results of the same frames on two CPUs."""

    verdicts: list[list[int]]
    overlapped: int  # steps at which one was still in the program when the other entered it


class Child:
    """Memory that a process shares with the test."""

    def __init__(self, frames: int) -> None:
        self.step, self.verdicts, self.begun, self.done = (
            memoryview(mmap.mmap(-1, 8 * count)).cast("Q") for count in (1, frames, frames, frames)
        )


def at_once(host: Host, hook: str, one_frames: list[bytes], other_frames: list[bytes] | None = None) -> Both:
    """Run the same frames, or other ones, in step in two processes on two CPUs."""
    both = [Child(len(one_frames)) for _ in CPUS]
    processes = []
    for mine, other, cpu, frames in zip(
        both, reversed(both), CPUS, (one_frames, other_frames or one_frames), strict=True
    ):
        process = os.fork()
        if not process:
            status = 1
            try:
                with on_cpu(cpu):
                    _in_step(Runner(host.program(hook), hook, host.ifindex), frames, mine, other)
                status = 0
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0, 0]
    one, two = both
    times = zip(one.begun, one.done, two.begun, two.done, strict=True)
    overlapped = sum(begun < other_done and other_begun < done for begun, done, other_begun, other_done in times)
    return Both([list(each.verdicts) for each in both], overlapped)


def at_once_often(host: Host, hook: str, rounds: Iterable[list[bytes]]) -> tuple[list[int], int]:
    """Return the verdicts of enough rounds in which both CPUs were in the program at once, and their number.

    A busy machine or a hypervisor sometimes takes a CPU away, so that the other is alone in the program.
    """
    verdicts: list[int] = []
    overlapped = 0
    for number, frames in enumerate(rounds, 1):
        both = at_once(host, hook, frames)
        verdicts += [*both.verdicts[0], *both.verdicts[1]]
        overlapped += both.overlapped
        if overlapped >= ENOUGH:
            return verdicts, number
    raise AssertionError(f"both CPUs were in the program at once only {overlapped} times")


def _in_step(run: Runner, frames: list[bytes], mine: Child, other: Child) -> None:
    now, patient_until = time.monotonic_ns, time.monotonic() + PATIENCE_S
    for round_number, frame in enumerate(frames):
        mine.step[0] = round_number + 1
        while other.step[0] <= round_number:  # the hypervisor may have taken the CPU
            assert time.monotonic() < patient_until
        mine.begun[round_number] = now()
        mine.verdicts[round_number] = run(frame)[0]
        mine.done[round_number] = now()


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
    servers = 1 if method == Method.MASQ else 3  # with one, both CPUs write the same reverse entry
    host.serve(service, servers, method, port=PORT if method == Method.MASQ else None)
    ends = {"dport": service.port, "source": client, "target": vip}
    ports = (range(first, first + FLOWS) for first in range(10000, 10000 + MOST_ROUNDS * FLOWS, FLOWS))
    verdicts, rounds = at_once_often(host, hook, ([tcp(sport=port, **ends) for port in some] for some in ports))
    assert DROPPED[hook] not in verdicts, host.reasons()

    made = [each for each in host.director.connections() if each.virtual_port == service.port]
    assert sorted(each.client_port for each in made) == list(range(10000, 10000 + rounds * FLOWS))
    chosen: dict[str, int] = {}
    for each in made:
        chosen[str(each.destination)] = chosen.get(str(each.destination), 0) + 1
    assert host.counts(service) == {server(i): (chosen.get(server(i), 0), 0) for i in range(1, servers + 1)}
    counted = host.director.service(service).counters
    assert counted.connections == rounds * FLOWS

    if method == Method.MASQ:
        lost = [
            each.client_port for each in made if not answered(host, each.client_port, str(each.destination), client)
        ]
        assert not lost, f"{len(lost)} connections whose answers find no way back"


def test_of_two_connections_with_the_same_replies_one_gets_them(director_host: Host) -> None:
    """Two CPUs make them at once, to two services with the same real server."""
    host, services = director_host, [director_host.new_key() for _ in CPUS]
    no_replies = 1 << abi.constant("WORD_NO_REPLIES")
    for service in services:
        host.serve(service, 1, Method.MASQ, port=PORT)
    overlapped = 0
    for first in range(30000, 30000 + MOST_ROUNDS * FLOWS, FLOWS):
        ports = range(first, first + FLOWS)
        frames = [[tcp(sport=port, dport=service.port) for port in ports] for service in services]
        overlapped += at_once(host, "xdp", *frames).overlapped
        losers = Counter(each.client_port for each in entries(host.director.tables) if each.word & no_replies)
        assert {port: losers[port] for port in ports} == dict.fromkeys(ports, 1)
        if overlapped >= ENOUGH:
            return
    raise AssertionError(f"both CPUs were in the program at once only {overlapped} times")


def answered(host: Host, client_port: int, server: str, client: str) -> bool:
    """Return whether the reply of a connection's real server is forwarded."""
    frame = tcp("SA", sport=PORT, dport=client_port, source=server, target=client)
    return any(host.run(frame, hook).verdict in SENT[hook] for hook in HOOKS)


def test_packets_of_one_connection_on_two_cpus_are_all_forwarded_and_counted(director_host: Host) -> None:
    """Both CPUs change the same connection's state repeatedly: ESTABLISHED, CLOSE, and back."""
    host = director_host
    service = host.new_key()
    host.serve(service)
    frames = [tcp(flags, sport=5000, dport=service.port) for flags in ("S", "A", "A", "FA", "A", "S", "R", "A") * 100]
    verdicts, _ = at_once_often(host, "xdp", [frames] * MOST_ROUNDS)
    assert DROPPED["xdp"] not in verdicts
    (made,) = [each for each in host.director.connections() if each.virtual_port == service.port]
    active = made.state in ("ESTABLISHED", "SYN_RECV")
    assert host.counts(service) == {server4(1): (int(active), int(not active))}


def test_slots_of_connections_that_both_cpus_tried_to_make_are_not_lost(director_host: Host) -> None:
    host = director_host
    service = host.new_key(Protocol.UDP)
    host.serve(service)
    before = host.pool("used")
    connections, entries = len(list(host.director.connections())), entries_in_use(host.director.tables)
    ports = (range(first, first + FLOWS) for first in range(20000, 20000 + MOST_ROUNDS * FLOWS, FLOWS))
    at_once_often(host, "xdp", ([udp(sport=port, dport=service.port) for port in some] for some in ports))
    made = len(list(host.director.connections())) - connections
    spare = 32 * (os.cpu_count() or 1)  # slots that CPUs reserve
    assert host.pool("used") - before <= made + spare
    assert entries_in_use(host.director.tables) - entries == made
