"""The packets of the doctor's questions, and what it decodes of replies."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.doctor.wire import packets
from pylvs.doctor.wire.packets import FIRST_PORT, Kind, decoded, encapsulated, overhead, packet
from pylvs.model.addresses import Address
from pylvs.model.service import Tunnel, TunnelFlag, TunnelKind
from pylvs.reference.packet import ICMP, TCP, checksum

HERE, SERVER, VIP = ip_address("10.0.0.10"), ip_address("10.0.0.21"), ip_address("10.0.0.100")
HERE_6, SERVER_6, VIP_6 = ip_address("fd00::10"), ip_address("fd00::21"), ip_address("fd00::100")
OWN = frozenset({HERE, HERE_6})
FAMILIES = [(HERE, SERVER, VIP), (HERE_6, SERVER_6, VIP_6)]
IDENT = 77


@pytest.mark.parametrize(("here", "server", "vip"), FAMILIES)
def test_a_reply_names_its_question(here: Address, server: Address, vip: Address) -> None:
    """An echo by its sequence number, a segment by its port, an error by the packet that it contains."""
    kind, body = packets.echo(5, IDENT)
    reply = packet(0, vip, here, (kind, bytes([0 if here.version == 4 else 129]) + body[1:]))
    reply = reply if here.version == 4 else reply[:40] + bytes([129]) + reply[41:]
    found = decoded(reply, IDENT, OWN)
    assert found is not None
    assert (found.kind, found.number, found.sender) == (Kind.ECHO, 5, vip)
    assert decoded(reply, IDENT + 1, OWN) is None
    asked = packet(9, here, vip, packets.syn(9, 80))
    kind = ICMP if here.version == 4 else 58
    error = packet(0, server, here, (kind, bytes([3 if here.version == 4 else 1, 3, 0, 0, 0, 0, 0, 0]) + asked[:48]))
    found = decoded(error, IDENT, OWN)
    assert found is not None
    assert (found.kind, found.number, found.sender) == (Kind.REFUSED, 9, server)


@pytest.mark.parametrize(("flags", "kind"), [(0x12, Kind.OPEN), (0x14, Kind.CLOSED)])
def test_a_segment_belongs_to_the_syn_that_it_acknowledges(flags: int, kind: Kind) -> None:
    """A segment to the port of another question is no answer."""
    head = (80).to_bytes(2, "big") + (FIRST_PORT + 9).to_bytes(2, "big") + bytes(4)
    segment = head + ((9 << 16) + 1).to_bytes(4, "big") + bytes([0x50, flags]) + bytes(6)
    found = decoded(packet(0, VIP, HERE, (TCP, segment)), IDENT, OWN)
    assert found is not None
    assert (found.kind, found.number) == (kind, 9)
    wrong = head + (1).to_bytes(4, "big") + bytes([0x50, flags]) + bytes(6)
    assert decoded(packet(0, VIP, HERE, (TCP, wrong)), IDENT, OWN) is None


@pytest.mark.parametrize(("here", "server", "vip"), FAMILIES)
def test_a_reply_to_a_client_is_no_question_that_came_back(here: Address, server: Address, vip: Address) -> None:
    """A server that uses the director as its gateway sends replies from the virtual address."""
    kind, body = packets.reset(12, 80)
    segment = kind, body[:13] + bytes([0x12]) + body[14:]
    found = decoded(packet(12, vip, server, segment), IDENT, OWN | {vip})
    assert found is not None
    assert (found.kind, found.number, found.sender, found.address) == (Kind.REPLY, -1, server, vip)


@pytest.mark.parametrize(("here", "server", "vip"), FAMILIES)
def test_a_report_about_a_malformed_packet_names_its_question(here: Address, server: Address, vip: Address) -> None:
    """Its header is right: only the option is wrong."""
    asked = packets.malformed(9, here, server)
    v4 = here.version == 4
    assert not v4 or checksum(asked[:28]) == 0
    assert len(asked) == int.from_bytes(asked[2:4] if v4 else asked[4:6], "big") + (0 if v4 else 40)
    error = packet(0, server, here, (ICMP if v4 else 58, bytes([12 if v4 else 4, 0, 0, 0, 22, 0, 0, 0]) + asked))
    found = decoded(error, IDENT, OWN)
    assert found is not None
    assert (found.kind, found.number, found.sender) == (Kind.REFUSED, 9, server)


@pytest.mark.parametrize(("here", "server", "vip"), FAMILIES)
def test_a_packet_that_comes_back_is_recognized(here: Address, server: Address, vip: Address) -> None:
    """A server without the virtual address, which forwards, sends it back."""
    found = decoded(packet(12, here, vip, packets.syn(12, 80)), IDENT, OWN)
    assert found is not None
    assert (found.kind, found.number) == (Kind.RETURNED, 12)


def test_a_probe_without_a_source_teaches_no_host_an_address() -> None:
    """RFC 5227, 2.1.1: the sender's protocol address is all zeroes."""
    frame = packets.who_has(VIP, b"\x02" * 6, None)
    assert frame[:6] == b"\xff" * 6
    assert frame[28:32] == bytes(4)
    found = decoded(frame[14:], IDENT, OWN)
    assert found is not None
    assert (found.kind, found.address) == (Kind.ASKED, VIP)


@pytest.mark.parametrize(
    "tunnel",
    [
        Tunnel(),
        Tunnel(TunnelKind.GRE),
        Tunnel(TunnelKind.GRE, flags=TunnelFlag.CSUM),
        Tunnel(TunnelKind.GUE, 6080),
    ],
    ids=str,
)
@pytest.mark.parametrize(("here", "server", "vip"), FAMILIES)
def test_a_tunnel_adds_its_overhead(tunnel: Tunnel, here: Address, server: Address, vip: Address) -> None:
    """The length of padded packets depends on it."""
    inner = packet(1, here, vip, packets.syn(1, 80))
    outer = encapsulated(1, here, server, tunnel, inner)
    assert len(outer) == len(inner) + overhead(here.version, tunnel)
    assert outer.endswith(inner)
    assert here.version == 6 or checksum(outer[:20]) == 0


@pytest.mark.parametrize("data", [b"", b"\x45", b"\x60" + bytes(20), bytes(28), b"\x45" + bytes(30)])
def test_what_is_too_short_belongs_to_no_question(data: bytes) -> None:
    """Any host of the link may send anything."""
    assert decoded(data, IDENT, OWN) is None
