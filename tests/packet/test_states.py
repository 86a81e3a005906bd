"""Random packets of several connections, compared with a model of IPVS's states: listings and counts are exact.

The model is written from IPVS-SEMANTICS 4.4, 2.3 and 2.4, not from the packet path.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.model.service import Method, Protocol, ServiceKey
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.host import PASSED, SENT, VIP4, VIP6, Host, new_host, server4, server6

NAMES = {
    "NO": "NONE",
    "ES": "ESTABLISHED",
    "SS": "SYN_SENT",
    "SR": "SYN_RECV",
    "FW": "FIN_WAIT",
    "TW": "TIME_WAIT",
    "CL": "CLOSE",
    "CW": "CLOSE_WAIT",
    "LA": "LAST_ACK",
    "LI": "LISTEN",
    "SA": "SYNACK",
}
# event by event, the state that follows NO ES SS SR FW TW CL CW LA LI SA (IPVS-SEMANTICS 4.4)
INPUT = """
syn SR ES ES SR SR SR SR SR SR SR SR
fin CL CW SS TW TW TW CL CW LA LI TW
ack ES ES SS ES FW TW CL CW CL LI ES
rst CL CL CL SR CL CL CL CL LA LI SR
"""
OUTPUT = """
syn SS ES SS SR SS SS SS SS SS LI SR
fin TW FW SS TW FW TW CL TW LA LI TW
ack ES ES SS ES FW TW CL CW LA ES ES
rst CL CL SS CL CL TW CL CL CL CL CL
"""
INPUT_ONLY = """
syn SR ES ES SR SR SR SR SR SR SR SR
fin CL FW SS TW FW TW CL CW LA LI TW
ack ES ES SS ES FW TW CL CW CL LI ES
rst CL CL CL SR CL CL CL CL LA LI CL
"""
SECONDS = {
    "NONE": 2,
    "ESTABLISHED": 900,
    "SYN_SENT": 120,
    "SYN_RECV": 60,
    "FIN_WAIT": 120,
    "TIME_WAIT": 120,
    "CLOSE": 10,
    "CLOSE_WAIT": 60,
    "LAST_ACK": 30,
    "LISTEN": 120,
    "SYNACK": 120,
    "UDP": 300,
}
ACTIVE = ("ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK")
PORT = 8080
CLIENTS = 3


def table(text: str) -> dict[tuple[str, str], str]:
    """Return (event, state) -> next state, by the names of a listing."""
    found: dict[tuple[str, str], str] = {}
    for line in text.split("\n"):
        if line:
            event, *after = line.split()
            found |= {(event, NAMES[now]): NAMES[then] for now, then in zip(NAMES, after, strict=True)}
    return found


TABLES = {"input": table(INPUT), "output": table(OUTPUT), "input-only": table(INPUT_ONLY)}


def following(direction: str, flags: str, state: str) -> str:
    """Return the state after a TCP packet: RST counts before SYN before FIN before ACK; none of them closes."""
    for letter, event in ("R", "rst"), ("S", "syn"), ("F", "fin"), ("A", "ack"):
        if letter in flags:
            return TABLES[direction][event, state]
    return "CLOSE"


@dataclass(frozen=True)
class Step:
    """A packet of a client to one of the services, or of the real server back to it."""

    service: int
    client: int
    flags: str
    from_server: bool
    hook: str


steps = st.builds(
    Step,
    service=st.integers(0, 3),
    client=st.integers(0, CLIENTS - 1),
    flags=st.sampled_from(["S", "S", "A", "A", "FA", "F", "R", "RA", "SA", "PA", "", "P", "SR", "SF", "U"]),
    from_server=st.booleans(),
    hook=st.sampled_from(["xdp", "tc"]),
)


class World:
    """A host with one service of each kind, and its expected table. Client ports are never reused."""

    KINDS = (
        (Protocol.TCP, Method.ROUTE),
        (Protocol.TCP, Method.MASQ),
        (Protocol.UDP, Method.ROUTE),
        (Protocol.UDP, Method.MASQ),
    )

    def __init__(self, host: Host, six: bool) -> None:
        self.host = host
        self.client, self.vip = (CLIENT6, VIP6) if six else (CLIENT4, VIP4)
        self.server = server6(1) if six else server4(1)
        self.services: list[ServiceKey] = []
        for number, (protocol, method) in enumerate(self.KINDS):
            self.services.append(host.new_key(protocol, self.vip))
            host.serve(self.services[-1], 1, method, port=PORT + number if method == Method.MASQ else None)
        self.expected: dict[tuple[int, int], str] = {}
        self._ports = itertools.count(2000, CLIENTS)
        self.first_port = 0
        self._began = 0.0

    def begin(self) -> None:
        """Start with new clients. Connections of earlier clients stay."""
        self._began = time.monotonic()
        self.expected.clear()
        self.first_port = next(self._ports)

    def take(self, step: Step) -> None:
        """Send the packet, and compare result and table with the model."""
        protocol, method = self.KINDS[step.service]
        service, port = self.services[step.service], self.first_port + step.client
        flow = (step.service, port)
        is_reply = step.from_server and method == Method.MASQ
        if is_reply:
            ends = {"source": self.server, "target": self.client, "sport": PORT + step.service, "dport": port}
        else:
            ends = {"source": self.client, "target": self.vip, "sport": port, "dport": service.port}
        frame = tcp(step.flags, **ends) if protocol == Protocol.TCP else udp(**ends)
        state = self.expected.get(flow)
        forwarded = True
        if protocol == Protocol.UDP:
            forwarded = state is not None or not is_reply
            after: str | None = "UDP" if forwarded else None
        elif is_reply:
            forwarded = state is not None
            after = following("output", step.flags, state) if state else None
        else:
            direction = "input" if method == Method.MASQ else "input-only"
            new = "S" in step.flags
            if state in ("TIME_WAIT", "CLOSE") and new:
                state = None  # the ports are reused (2.3, conn_reuse_mode 1)
            if state is None and (not new or "R" in step.flags):
                forwarded, after = False, None  # the local stack handles it (2.4)
            else:
                after = following(direction, step.flags, state or "NONE")
        self._check(step, frame, forwarded)
        if after is None:
            self.expected.pop(flow, None)
        else:
            self.expected[flow] = after

    def _check(self, step: Step, frame: bytes, forwarded: bool) -> None:
        if step.hook == "xdp":
            hook, done = self.host.receive(frame)
        else:
            hook, done = "tc", self.host.run(frame, "tc")
        if forwarded:
            assert done.verdict in SENT[hook], (step, done.verdict, self.host.reasons())
        else:
            assert (done.verdict, done.data) == (PASSED[hook], frame), step

    def compare(self) -> None:
        """Compare the listing with the model's connections, and the counts with the listing."""
        listed: dict[tuple[int, int], str] = {}
        left_s: dict[str, list[int]] = {}
        counts = {service: [0, 0] for service in self.services}
        for connection in self.host.director.connections():
            key = ServiceKey(Protocol(connection.protocol), connection.virtual, connection.virtual_port)
            if key not in counts:
                continue
            counts[key][connection.state not in ACTIVE] += 1
            if connection.client_port >= self.first_port:
                listed[self.services.index(key), connection.client_port] = connection.state
                left_s.setdefault(connection.state, []).append(connection.expires_s)
        age_s = time.monotonic() - self._began
        assert listed == self.expected
        for state, seconds in left_s.items():  # a second for each of the two clocks that count in whole ticks
            assert max(SECONDS[state] - 2 - age_s, 0) <= min(seconds) <= max(seconds) <= SECONDS[state]
        for service, (active, inactive) in counts.items():
            assert self.host.counts(service) == {self.server: (active, inactive)}


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(connections=16384, expires=False, recycled=True) as made:
        yield made


@pytest.fixture(params=[4, 6])
def world(shared: Host, request: pytest.FixtureRequest) -> World:
    return World(shared, request.param == 6)


def test_states_and_counts_are_those_of_ipvs_for_any_sequence_of_packets(world: World) -> None:
    @settings(max_examples=80, deadline=None)
    @given(st.lists(steps, min_size=1, max_size=30))
    def holds(sequence: list[Step]) -> None:
        world.begin()
        for step in sequence:
            world.take(step)
        world.compare()

    holds()


@pytest.mark.parametrize("first", ["S", "SA"])
@pytest.mark.parametrize("number", [0, 1])
def test_every_cell_of_the_tables_that_packets_can_reach(world: World, number: int, first: str) -> None:
    """Send all pairs of packets after the first, in both directions for NAT, each on its own connection."""
    packets = [Step(number, 0, flags, False, "xdp") for flags in ("S", "FA", "A", "R", "P")]
    if number == 1:
        packets += [Step(number, 0, flags, True, "tc") for flags in ("SA", "FA", "A", "R", "P")]
    for sequence in itertools.product(packets, repeat=2):
        world.begin()
        for step in (Step(number, 0, first, False, "xdp"), *sequence):
            world.take(step)
        world.compare()
