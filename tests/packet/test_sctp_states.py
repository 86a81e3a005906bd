"""SCTP's state table of IPVS-SEMANTICS 4.6: every event in every state, in both directions."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.bpf import abi
from pylvs.dataplane import load
from pylvs.model.director import Connection
from pylvs.model.service import Method, Protocol, ServiceKey
from tests.packet.frames import CLIENT4, CLIENT6, chunk, sctp
from tests.packet.host import HOOKS, PASSED, SENT, VIP4, VIP6, Host, server4, server6
from tests.packet.table import words

SEMANTICS = Path(__file__).parents[2] / "docs" / "reference" / "ipvs-semantics.md"
NAMES = {
    "NO": "NONE",
    "I1": "INIT1",
    "IN": "INIT",
    "CS": "C-SENT",
    "CR": "C-REPLIED",
    "CW": "C-WAIT",
    "CO": "COOKIE",
    "CE": "C-ECHOED",
    "ES": "ESTABLISHED",
    "SS": "S-SENT",
    "SR": "S-RECEIVED",
    "SA": "S-ACK-SENT",
    "RJ": "REJECTED",
    "CL": "CLOSED",
}
CHUNKS = {  # the kinds of chunk (RFC 9260 3.2) that are an event
    "d": (0, 3, 4, 5, 12, 13, 15, 64, 130, 200, 255),
    "init": (1,),
    "init_ack": (2,),
    "c_echo": (10,),
    "c_ack": (11,),
    "shut": (7,),
    "shut_ack": (8,),
    "shut_com": (14,),
    "error": (9,),
    "abort": (6,),
}
SECONDS = dict.fromkeys(NAMES.values(), 61) | {"NONE": 2, "INIT1": 4, "REJECTED": 4, "ESTABLISHED": 900}
REAL_PORT = 3900


def tables() -> dict[tuple[str, str], list[str]]:
    """Return (direction, event) -> the next state for each of the fourteen states."""
    text = SEMANTICS.read_text(encoding="utf-8")
    section = text[text.index("### 4.6 SCTP") : text.index("### 4.7")]
    found: dict[tuple[str, str], list[str]] = {}
    direction = ""
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[1] in CHUNKS:
            direction = cells[0] or direction
            found[direction, cells[1]] = cells[2:]
    return found


TABLES = tables()


def test_the_tables_are_complete() -> None:
    assert len(TABLES) == 3 * len(CHUNKS)
    assert all(set(row) <= NAMES.keys() and len(row) == len(NAMES) for row in TABLES.values())


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    director_host.director.change_setting("conn_reuse_mode", 0)  # an INIT on a closed association is a packet of it
    yield director_host
    director_host.director.change_setting("conn_reuse_mode", 1)


class Side:
    """A service whose associations see packets of one direction."""

    def __init__(self, host: Host, direction: str, six: bool) -> None:
        self.host = host
        self.six = six
        self.vip, self.client = (VIP6, CLIENT6) if six else (VIP4, CLIENT4)
        self.server = server6(1) if six else server4(1)
        self.from_server = direction == "OUTPUT"
        self.masq = direction != "INPUT-ONLY"
        self.service: ServiceKey = host.new_key(Protocol.SCTP, self.vip)
        host.serve(self.service, 1, Method.MASQ if self.masq else Method.ROUTE, port=REAL_PORT if self.masq else None)

    def request(self, client_port: int, chunks: bytes) -> bytes:
        """Return a frame of a client."""
        return sctp(chunks, client_port, self.service.port, self.client, self.vip)

    def frame(self, client_port: int, chunks: bytes) -> bytes:
        """Return a frame in this direction."""
        if self.from_server:
            return sctp(chunks, REAL_PORT, client_port, self.server, self.client)
        return self.request(client_port, chunks)

    def take(self, frame: bytes) -> None:
        """Assert that TC alone forwards the frame."""
        hook, done = self.host.receive(frame)
        assert (hook, done.verdict in SENT["tc"]) == ("tc", True), (done.verdict, self.host.reasons())

    def put_into(self, states: dict[int, int]) -> None:
        """Set the states of associations by client port, for a minute."""
        tables = self.host.director.tables
        form = struct.Struct(f"!{32 if self.six else 8}xHH")
        longer = round(60 * load.ticks_per_second())
        for key, word, change in words(tables, 6 if self.six else 4):
            client_port, port = form.unpack_from(key)
            if port == self.service.port and client_port in states:
                expiry = (word & 0xFFFFFFFF) + longer & 0xFFFFFFFF
                change(word >> 48 << 48 | states[client_port] << abi.constant("WORD_STATE") | expiry)

    def listed(self) -> dict[int, Connection]:
        """Return the service's associations by client port."""
        return {
            each.client_port: each
            for each in self.host.director.connections()
            if (each.protocol, each.virtual_port) == (Protocol.SCTP, self.service.port)
        }


def number(letters: str) -> int:
    """Return a state's number in the packet path."""
    index = list(NAMES).index(letters)
    return abi.constant("STATE_SCTP_INIT1") + index - 1 if index else abi.constant("STATE_NONE")


@pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
@pytest.mark.parametrize("direction", ["INPUT", "OUTPUT", "INPUT-ONLY"])
def test_every_event_in_every_state(host: Host, direction: str, six: bool) -> None:
    side = Side(host, direction, six)
    for row, (event, kinds) in enumerate(CHUNKS.items()):
        for kind in kinds if not six else kinds[:1]:
            ports = {letters: 5000 + 100 * row + index for index, letters in enumerate(NAMES)}
            for port in ports.values():
                side.take(side.request(port, chunk(1)))
            side.put_into({port: number(letters) for letters, port in ports.items()})
            began = time.monotonic()
            for port in ports.values():
                side.take(side.frame(port, chunk(kind)))
            listed = side.listed()
            age_s = time.monotonic() - began
            for letters, after in zip(NAMES, TABLES[direction, event], strict=True):
                found = listed[ports[letters]]
                assert found.state == NAMES[after], (direction, event, kind, letters)
                least = max(SECONDS[found.state] - 2 - age_s, 0)
                assert least <= found.expires_s <= SECONDS[found.state], found


@pytest.mark.parametrize(
    ("chunks", "after"),
    [
        (chunk(10, b"cookie!!") + chunk(6), "CLOSED"),
        (chunk(10, b"cookie") + chunk(6), "CLOSED"),  # padded to twelve bytes
        (chunk(10) + chunk(0, bytes(12)) + chunk(6), "ESTABLISHED"),
        (chunk(11) + chunk(6), "CLOSED"),
        (chunk(11) + chunk(0, bytes(12)), "INIT1"),
        (chunk(10, length=3) + chunk(6), "ESTABLISHED"),
        (chunk(10, length=0) + chunk(6), "ESTABLISHED"),
        (chunk(10, length=400) + chunk(6), "ESTABLISHED"),
        (chunk(10) + chunk(6)[:3], "ESTABLISHED"),
        (chunk(0, bytes(12)) + chunk(6), "INIT1"),
        (chunk(7) + chunk(6), "INIT1"),
        (chunk(1) + chunk(6), "INIT"),
        (chunk(6, length=0), "CLOSED"),
        (b"", "INIT1"),
        (chunk(6)[:3], "INIT1"),
    ],
)
def test_the_first_chunk_of_a_bundle_decides(host: Host, chunks: bytes, after: str) -> None:
    side = Side(host, "INPUT-ONLY", False)
    side.take(side.request(6000, chunk(1)))
    for trailing in b"", chunk(6):  # bytes behind the packet do not belong to it
        frame = side.request(6000, chunks) + trailing
        assert host.run(frame, "xdp").verdict == PASSED["xdp"]
        assert host.run(frame, "tc").verdict in SENT["tc"]
        assert side.listed()[6000].state == after
        if after in ("CLOSED", "INIT"):
            break


def test_an_init_on_a_closed_association_makes_a_new_one_unless_that_is_off(host: Host) -> None:
    side = Side(host, "INPUT-ONLY", False)
    conns = []
    for mode in 0, 1:
        host.director.change_setting("conn_reuse_mode", mode)
        for chunks in chunk(1), chunk(6), chunk(1):
            side.take(side.request(6100, chunks))
        conns.append((side.listed()[6100].state, host.director.service(side.service).counters.connections))
        side.take(side.request(6100, chunk(6)))
    # mode 0: INIT1, CLOSED, INIT; mode 1: a second connection replaces the CLOSED one, and a third the second
    assert conns == [("INIT", 1), ("INIT1", 3)]


def test_xdp_passes_sctp_to_tc_unmodified(host: Host) -> None:
    side = Side(host, "INPUT", False)
    for chunks in chunk(1), chunk(6), b"":
        frame = side.request(6200, chunks)
        done = host.run(frame, HOOKS[0])
        assert (done.verdict, done.data) == (PASSED[HOOKS[0]], frame)
    assert not side.listed()
