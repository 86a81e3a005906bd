"""SCTP packets: forwarded bytes, CRC32c, and malformed packets that are not scheduled, counted or changed.

The model is written from IPVS-SEMANTICS 2.3, 2.4, 4.6 and 7.3; scapy computes the checksums.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.sctp import crc32c

from pylvs.bpf.kernel import Run
from pylvs.model.service import Method, Protocol, ServiceKey
from tests.packet.frames import CLIENT4, CLIENT6, SCTP_PROTOCOL, carrying, chunk, parsed, sctp
from tests.packet.host import DROPPED, MAC, PASSED, SENT, VIP4, VIP6, Host, server4, server6, server_mac

INIT, ABORT = chunk(1), chunk(6)
REAL_PORT = 3900
FAMILIES = pytest.mark.parametrize("version", [4, 6])


def ends(version: int) -> tuple[str, str, str]:
    """Return client, virtual address, real server."""
    return (CLIENT4, VIP4, server4(1)) if version == 4 else (CLIENT6, VIP6, server6(1))


def transport(frame: bytes) -> bytes:
    """Return the SCTP packet of a frame without options or extension headers."""
    return bytes(parsed(frame).payload.payload) if frame[12:14] == b"\x86\xdd" else frame[14 + (frame[14] & 15) * 4 :]


def checksum(data: bytes) -> bytes:
    """Return the CRC32c in a packet."""
    return struct.pack("!I", crc32c(data))  # type: ignore[no-untyped-call]


def right(body: bytes) -> bool:
    """Return whether an SCTP packet's checksum is right."""
    return bool(body[8:12] == checksum(body[:8] + bytes(4) + body[12:]))


def sent(host: Host, frame: bytes) -> bytes:
    """Return the frame that TC sent; XDP passes it."""
    hook, done = host.receive(frame)
    assert hook == "tc"
    assert done.verdict in SENT["tc"], (done.verdict, host.reasons())
    return done.data


def test_scapy_knows_the_checksum() -> None:
    assert checksum(b"123456789") == struct.pack("<I", 0xE3069283)  # the check value of CRC-32C


# --- NAT ---

SIZES = (0, 1, 2, 3, 5, 100, 479, 480, 481, 499, 500, 501, 1000, 1011, 1012, 1013, 1400)


@FAMILIES
@pytest.mark.parametrize("check", [None, 0, 0xDEADBEEF], ids=["right", "none", "wrong"])
def test_nat_that_changes_the_port_computes_the_checksum(director_host: Host, version: int, check: int | None) -> None:
    client, vip, server = ends(version)
    service = director_host.new_key(Protocol.SCTP, vip)
    director_host.serve(service, 1, Method.MASQ, port=REAL_PORT)
    for port, size in enumerate(SIZES, 7000):
        chunks = INIT + bytes(number * 7 & 255 for number in range(size))
        out = sent(director_host, sctp(chunks, port, service.port, client, vip, check))
        body, ip = transport(out), parsed(out).payload
        assert (ip.src, ip.dst, struct.unpack("!HH", body[:4])) == (client, server, (port, REAL_PORT))
        assert right(body)
        assert body[12:] == chunks
        answer = chunk(2) + chunks
        out = sent(director_host, sctp(answer, REAL_PORT, port, server, client, check))
        body, ip = transport(out), parsed(out).payload
        assert (ip.src, ip.dst, struct.unpack("!HH", body[:4])) == (vip, client, (service.port, port))
        assert right(body)
        assert body[12:] == answer


@FAMILIES
@pytest.mark.parametrize("check", [None, 0, 0xDEADBEEF], ids=["right", "none", "wrong"])
def test_nat_that_keeps_the_port_keeps_the_checksum(director_host: Host, version: int, check: int | None) -> None:
    client, vip, server = ends(version)
    service = director_host.new_key(Protocol.SCTP, vip)
    director_host.serve(service, 1, Method.MASQ)
    for frame in (
        sctp(INIT, 7100, service.port, client, vip, check),
        sctp(chunk(2), service.port, 7100, server, client, check),
    ):
        assert transport(sent(director_host, frame)) == transport(frame)


@FAMILIES
@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL])
def test_other_methods_keep_the_packet(director_host: Host, version: int, method: Method) -> None:
    client, vip, _ = ends(version)
    service = director_host.new_key(Protocol.SCTP, vip)
    director_host.serve(service, 1, method)
    frame = sctp(INIT + b"?" * 50, 7200, service.port, client, vip, 0x12345678)
    outer = 0 if method == Method.ROUTE else 20 if version == 4 else 40
    out = director_host.forwarded(frame, "tc")
    assert out[:6] == bytes.fromhex(server_mac(1).replace(":", ""))
    assert out[6:12] == bytes.fromhex(MAC.replace(":", ""))
    assert transport(bytes(12) + frame[12:14] + out[14 + outer :]) == transport(frame)


# --- any bytes ---


def first_chunk(body: bytes) -> int | None:
    """Return the type of the first chunk, if its header is complete."""
    return body[12] if len(body) >= 16 else None


def is_abort(body: bytes) -> bool:
    """Return whether the packet ends its association: by its first chunk, or one behind COOKIE ECHO or COOKIE ACK."""
    kind = first_chunk(body)
    if kind in (10, 11):
        length = int.from_bytes(body[14:16], "big")
        at = 12 + (length + 3 & ~3)
        return length >= 4 and len(body) >= at + 4 and body[at] == 6
    return kind == 6


kinds = st.one_of(st.sampled_from([0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 14]), st.integers(0, 255))
one_chunk = st.builds(
    lambda kind, flags, length, body: struct.pack("!BBH", kind, flags, length) + body,
    kinds,
    st.integers(0, 255),
    st.one_of(st.integers(0, 20), st.integers(0, 65535)),
    st.binary(max_size=16),
)
chunk_areas = st.one_of(st.binary(max_size=40), st.lists(one_chunk, max_size=4).map(b"".join))
bodies = st.builds(
    lambda head, chunks, cut: (head + chunks)[:cut],
    st.binary(min_size=8, max_size=8),
    chunk_areas,
    st.one_of(st.just(4000), st.integers(0, 20)),
)


class Case:
    """A service of one method, and its associations: by client port, whether they are closed."""

    def __init__(self, host: Host, method: Method, version: int) -> None:
        self.host = host
        self.masq = method == Method.MASQ
        self.version = version
        self.client, self.vip, self.server = ends(version)
        self.service: ServiceKey = host.new_key(Protocol.SCTP, self.vip)
        host.serve(self.service, 1, method, port=REAL_PORT if self.masq else None)
        self.ports: Iterator[int] = itertools.count(10000)

    def request(self, port: int, rest: bytes, cut: int = 4000) -> bytes:
        """Return the transport bytes of a client's packet: ports, then these bytes."""
        return (struct.pack("!HH", port, self.service.port) + rest)[:cut]

    def run(self, body: bytes, trailing: bytes, reply: bool = False) -> tuple[bytes, Run]:
        """Run such a packet at TC; XDP passes it."""
        source, target = (self.server, self.client) if reply else (self.client, self.vip)
        frame = carrying(SCTP_PROTOCOL, body, source, target) + trailing
        hook, done = self.host.receive(frame)
        assert hook == "tc"
        return frame, done

    def state(self, port: int) -> str | None:
        for connection in self.host.director.connections():
            if (connection.client_port, connection.virtual_port) == (port, self.service.port):
                return connection.state
        return None

    def numbers(self) -> tuple[int, int, int]:
        """Return connections, and packets in and out, of the service."""
        counters = self.host.director.service(self.service).counters
        return counters.connections, counters.in_packets, counters.out_packets


@pytest.fixture(params=[(Method.ROUTE, 4), (Method.MASQ, 4), (Method.MASQ, 6)], ids=["dr", "nat", "nat6"])
def case(shared: Host, request: pytest.FixtureRequest) -> Case:
    return Case(shared, *request.param)


def examples(*strategies: st.SearchStrategy[bytes]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Run the test with examples of hypothesis."""

    def wrap(test: Callable[..., None]) -> Callable[[], None]:
        return settings(max_examples=120, deadline=None)(given(*strategies)(test))

    return wrap


def test_first_packets_of_any_bytes(case: Case) -> None:
    """Only a complete INIT is scheduled. Truncated packets are dropped, all others pass unmodified."""

    @examples(bodies, st.binary(max_size=20))
    def holds(rest: bytes, trailing: bytes) -> None:
        port, before = next(case.ports), case.numbers()
        body = case.request(port, rest)
        frame, done = case.run(body, trailing)
        kind = first_chunk(body)
        if kind == 1:
            assert done.verdict in SENT["tc"]
            assert case.state(port) == "INIT1"
            assert case.numbers() == (before[0] + 1, before[1] + 1, before[2])
            assert len(done.data) == len(frame) - len(trailing)
            return
        assert done.verdict == (DROPPED["tc"] if kind is None else PASSED["tc"])
        assert done.data == frame
        assert case.state(port) is None
        assert case.numbers() == before

    holds()


def test_truncated_ports(case: Case) -> None:
    for cut in range(4):
        before = case.numbers()
        frame, done = case.run(case.request(next(case.ports), INIT, cut), b"")
        assert (done.verdict, done.data, case.numbers()) == (DROPPED["tc"], frame, before)


def test_later_packets_of_any_bytes(case: Case) -> None:
    """All belong to their association. NAT needs the common header, and counts before it checks."""

    @examples(bodies, st.binary(max_size=20))
    def holds(rest: bytes, trailing: bytes) -> None:
        port = next(case.ports)
        case.run(case.request(port, bytes(8) + INIT), b"")
        before = case.numbers()
        body = case.request(port, rest)
        frame, done = case.run(body, trailing)
        if case.masq and len(body) < 12:
            assert (done.verdict, done.data) == (DROPPED["tc"], frame)
        else:
            assert done.verdict in SENT["tc"]
            assert len(done.data) == len(frame) - len(trailing)
        assert case.numbers() == (before[0], before[1] + 1, before[2])
        if is_abort(body):
            assert case.state(port) == "CLOSED"
        elif first_chunk(body) is None:
            assert case.state(port) == "INIT1"
        else:
            assert case.state(port) is not None

    holds()


@pytest.mark.parametrize("case", [(Method.MASQ, 4), (Method.MASQ, 6)], ids=["nat", "nat6"], indirect=True)
def test_replies_of_any_bytes(case: Case) -> None:
    @examples(bodies, st.binary(max_size=20))
    def holds(rest: bytes, trailing: bytes) -> None:
        port = next(case.ports)
        case.run(case.request(port, bytes(8) + INIT), b"")
        before = case.numbers()
        body = struct.pack("!HH", REAL_PORT, port) + rest
        frame, done = case.run(body, trailing, reply=True)
        if len(body) < 12:
            assert (done.verdict, done.data, case.numbers()) == (DROPPED["tc"], frame, before)
            return
        assert done.verdict in SENT["tc"]
        assert right(transport(done.data))
        assert transport(done.data)[12:] == body[12:]
        assert case.numbers() == (before[0], before[1], before[2] + 1)
        unknown = struct.pack("!HH", REAL_PORT, 9) + rest
        frame, done = case.run(unknown, trailing, reply=True)
        assert (done.verdict, done.data) == (PASSED["tc"], frame)

    holds()


@pytest.mark.parametrize("sloppy", [0, 1])
def test_with_sloppy_sctp_anything_but_abort_opens_a_connection(director_host: Host, sloppy: int) -> None:
    case = Case(director_host, Method.ROUTE, 4)
    director_host.director.change_setting("sloppy_sctp", sloppy)
    try:
        for kind in range(256):
            port = next(case.ports)
            _, done = case.run(case.request(port, bytes(8) + chunk(kind)), b"")
            opens = kind == 1 or (sloppy and kind != 6)
            assert (done.verdict in SENT["tc"], case.state(port) is not None) == (opens, opens), kind
            assert opens or done.verdict == PASSED["tc"]
    finally:
        director_host.director.change_setting("sloppy_sctp", 0)
