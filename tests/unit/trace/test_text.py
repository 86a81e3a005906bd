"""What `pylvs trace` prints of packets."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, IPOption_RR

from pylvs.trace import explain, text
from pylvs.trace.packet import TracedPacket
from tests.json_page import assert_documented
from tests.trace_filters import Random
from tests.unit.trace.packets import (
    ALL,
    DIRECT,
    DIRECT6,
    DROPPED,
    FALLBACK,
    GRE_TUNNEL,
    GUE_TUNNEL,
    IPIP,
    NAT,
    PASSED,
    REJECTED,
    REPLY,
    SYN,
    TO_TC,
    sent,
    to_vip,
)

AT_TC = replace(DIRECT, hook="tc", after=DIRECT.before[:12] + DIRECT.after[12:])
SCHEDULED = "wlc: least load for its weight, 256, of 3 servers; new connection, SYN_RECV"


def plain(line: str, colour: str) -> str:
    return line


def marked(line: str, colour: str) -> str:
    return f"<{colour} {line}>"


def printed(packet: TracedPacket) -> str:
    """The lines without number and time."""
    return "\n".join(line[21:] for line in text.lines(packet, plain))


def test_a_packet_has_a_line_for_how_it_came_for_its_server_and_for_how_it_left() -> None:
    assert printed(DIRECT).splitlines() == [
        "in   eth0 xdp      02:00:00:00:0c:00 > 02:00:00:00:0d:00  10.0.0.5:40000 > 10.0.0.100:80  TCP SYN, 54 bytes",
        "via  TCP 10.0.0.100:80 -> 10.0.0.22:80 direct  " + SCHEDULED,
        "out  eth0          02:00:00:00:0d:00 > 02:00:00:01:02:00  changed: MACs, TTL",
    ]


@pytest.mark.parametrize(
    ("packet", "last"),
    [
        (NAT, "10.0.0.5:40000 > 10.0.0.22:8080  changed: MACs, destination, TTL, destination port"),
        (REPLY, "10.0.0.100:80 > 10.0.0.5:40000  changed: MACs, source, TTL, source port"),
        (IPIP, "IPv4 10.0.0.100 > 10.0.0.22  changed: MACs, TTL, +IPv4"),
        (GRE_TUNNEL, "IPv4 10.0.0.100 > 10.0.0.22 GRE  changed: MACs, TTL, +IPv4, +GRE"),
        (GUE_TUNNEL, "IPv6 2001:db8::1 > 2001:db8::22 UDP GUE  changed: MACs, type, TTL, +IPv6, +UDP, +GUE"),
        (DIRECT6, "02:00:00:01:02:00  changed: MACs, hop limit"),
        (FALLBACK, "table full stateless: forwarded by a hash without a connection, because the table is full"),
        (DROPPED, "drop table full dropped: the connection table is full, and NAT needs a connection"),
        (REJECTED, 'icmp no destination: its service has no usable destination; the sender gets "port unreachable"'),
        (PASSED, "pass of no service"),
        (replace(PASSED, reason="standby"), "pass standby: to an address of which another director is the master"),
        (replace(PASSED, reason=None), "pass to the stack"),
        (replace(DIRECT, reason="forwarded_xdp"), "changed: MACs, TTL"),
        (TO_TC, "tc   XDP leaves it to TC"),
        (ALL["held"], "hold until the other fragments arrive"),
        (replace(DROPPED, reason=None), "drop without a reason"),
        (replace(DROPPED, reason="of_a_newer_pylvs"), "drop of a newer pylvs"),
        (replace(DIRECT, after=b""), "out  eth0"),
        (AT_TC, "out  eth0          changed: MACs, TTL"),
    ],
)
def test_the_last_line_has_the_outcome(packet: TracedPacket, last: str) -> None:
    assert printed(packet).splitlines()[-1].endswith(last)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"choice": "existing_connection"}, "existing connection"),
        ({"choice": "template"}, "persistence template"),
        ({"choice": "scheduler", "scheduler": "rr", "candidates": 1}, "rr: next in turn, of 1 server"),
        ({"choice": "scheduler", "scheduler": "lc", "load": 0, "candidates": 2}, "lc: least load, 0, of 2 servers"),
        ({"choice": "scheduler", "scheduler": "sh"}, "sh: hash of the client"),
        ({"choice": "of_a_newer_pylvs"}, "of a newer pylvs"),
    ],
)
def test_the_line_of_the_server_has_the_reason_of_the_choice(values: dict[str, object], expected: str) -> None:
    base = replace(NAT, choice=None, state=None)
    assert printed(replace(base, **values)).splitlines()[1].endswith(f"NAT  {expected}")  # type: ignore[arg-type]


def test_packets_of_devices_without_link_headers_have_no_macs() -> None:
    bare = replace(PASSED, before=bytes(12) + PASSED.before[12:], device="wg0", hook="tc")
    assert printed(bare).splitlines()[0] == "in   wg0 tc        10.0.0.5:53 > 10.0.0.10:53  UDP, 42 bytes"


def test_the_table_of_an_explanation_marks_what_changed() -> None:
    assert explain.lines(NAT, plain)[2:19] == [
        "                              as it came           as it left",
        "  Ethernet  destination MAC   02:00:00:00:0d:00  * 02:00:00:01:02:00",
        "            source MAC        02:00:00:00:0c:00  * 02:00:00:00:0d:00",
        "  IPv4      source            10.0.0.5             10.0.0.5",
        "            destination       10.0.0.100         * 10.0.0.22",
        "            TTL               64                 * 63",
        "            header checksum   0x6650             * 0x679e",
        "  TCP       source port       40000                40000",
        "            destination port  80                 * 8080",
        "            flags             PSH ACK              PSH ACK",
        "            checksum          0x478c             * 0x289a",
        "  data                        23 bytes             the same",
        "                                                 * changed",
        "",
        "  The packet belongs to a connection of the service TCP 10.0.0.100:80, which the connection table",
        "  has. So it is sent to the same real server as the packets before it, 10.0.0.22:8080.",
        "  NAT: the destination 10.0.0.100:80 became 10.0.0.22:8080, and the checksums follow. The TTL is 1",
    ]


def test_a_header_without_its_options_is_shown_without_them() -> None:
    options = IP(src="10.0.0.5", dst="10.0.0.100", options=IPOption_RR(routers=["0.0.0.0"]))
    lines = explain.lines(sent(options / SYN, to_vip(63) / SYN, method="direct"), plain)
    (row,) = [line.split() for line in lines if line.split()[:1] == ["options"]]
    assert row[-2:] == ["*", "(none)"]


def test_an_outer_header_stands_before_the_inner_one_of_the_same_name() -> None:
    rows = [line.split() for line in explain.lines(IPIP, plain)]
    assert [row[0] for row in rows if row and row[0] in ("Ethernet", "outer", "IPv4", "TCP")] == [
        "Ethernet",
        "outer",
        "IPv4",
        "TCP",
    ]
    assert ["outer", "IPv4", "source", "+", "10.0.0.100"] in rows
    assert ["IPv4", "source", "10.0.0.5", "10.0.0.5"] in rows


def explanation(packet: TracedPacket) -> str:
    return " ".join(" ".join(explain.lines(packet, plain)).split())


@pytest.mark.parametrize(
    ("packet", "sentences"),
    [
        (DIRECT, "Direct routing: only the MACs changed, and the TTL is 1 less, as behind every router."),
        (DIRECT6, "only the MACs changed, and the hop limit is 1 less"),
        (DIRECT, "chose 10.0.0.22:80 of 3 usable servers, with a load of 256. The load of a server is 256 times"),
        (DIRECT, "The connection gets an entry in the table"),
        (REPLY, "NAT: the source 10.0.0.22:8080 became 10.0.0.100:80, and the checksums follow."),
        (REPLY, "The TTL is 1 less, as behind every router. So the client sees a reply of the address that it asked."),
        (IPIP, "is inside an outer header (IPv4) from 10.0.0.100 to 10.0.0.22, so it is 20 bytes longer."),
        (IPIP, "Its own addresses did not change; its TTL is 1 less, as behind every router. The real server takes"),
        (IPIP, "This client's template names 10.0.0.22:80, so the scheduler has no choice."),
        (GUE_TUNNEL, "is inside outer headers (IPv6, UDP, GUE) from 2001:db8::1 to 2001:db8::22, so it is"),
        (GUE_TUNNEL, "takes the outer headers off, and finds a packet for"),
        (replace(NAT, before=NAT.before[:60], after=NAT.after[:60]), "data 23 bytes the first 6 are the same"),
        (FALLBACK, "A hash of the client chose 10.0.0.22:80, so its next packets find the same server"),
        (DROPPED, "It was dropped. Reason: table full dropped: the connection table"),
        (REJECTED, "its sender gets an ICMP error instead. Reason: no destination: its service has no usable"),
        (replace(PASSED, reason="not_ip"), "gets it unmodified. Reason: not ip: neither IPv4 nor IPv6."),
        (PASSED, "It is for no service, so the stack of this host gets it unmodified."),
        (TO_TC, "XDP cannot finish this packet, and passed it to TC, unmodified"),
        (AT_TC, "02:00:00:00:0d:00 * (by the kernel, behind TC)"),
        (AT_TC, "only the MACs changed, and the TTL is 1 less"),
    ],
)
def test_an_explanation_has_what_happened_and_why(packet: TracedPacket, sentences: str) -> None:
    assert sentences in explanation(packet)


def test_colours_mark_the_same_as_the_characters_beside_them() -> None:
    coloured = [line for line in explain.lines(NAT, marked) if "<" in line]
    assert len(coloured) == 7  # MACs, destination, TTL, port, checksums
    assert all(line.startswith("  <yellow ") and " * " in line for line in coloured)
    assert [line[21:].split()[0] for line in text.lines(DROPPED, marked)] == ["<cyan", "via", "<red"]


def damaged(seed: int) -> TracedPacket:
    """A packet of which every text and byte is hostile."""
    chance = random.Random(seed)
    made = Random(seed)

    def frame() -> bytes:
        found = bytearray(made.frame(0))
        for _ in range(chance.choice((0, 1, 8))):
            if found:
                found[chance.randrange(len(found))] = chance.randrange(256)
        return bytes(found[: chance.choice((len(found), chance.randrange(200)))])

    evil = "\x1b]0;x\x07\n\r\u202e\udcff"
    packet = chance.choice(list(ALL.values()))
    names = dict.fromkeys(("device", "output", "service", "server", "state", "scheduler"), evil)
    return replace(packet, before=frame(), after=frame() if packet.after else b"", **names)  # type: ignore[arg-type]


@pytest.mark.parametrize("lines", [text.lines, explain.lines], ids=["text", "explain"])
def test_hostile_bytes_never_reach_the_terminal(lines: Callable[..., list[str]]) -> None:
    for seed in range(600):
        for line in lines(damaged(seed), plain):
            assert line.isprintable(), (seed, line)


def test_json_is_one_line_of_ascii_for_any_packet() -> None:
    for seed in range(300):
        line = json.dumps(text.as_values(damaged(seed)))
        assert line.isascii()
        assert line.isprintable()


def test_json_has_the_documented_fields() -> None:
    assert_documented("pylvs trace", *map(text.as_values, ALL.values()))
    assert text.as_values(NAT)["sent_destination"] == "10.0.0.22:8080"
    assert bytes.fromhex(text.as_values(NAT)["after"]) == NAT.after


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((3, 3, 0, 0), "packets: 3 matched, 3 shown"),
        ((30, 3, 20, 7), "packets: 30 matched, 3 shown, 20 not shown by the rate limit, 7 lost"),
    ],
)
def test_the_last_line_counts_what_was_not_shown(counts: tuple[int, int, int, int], expected: str) -> None:
    assert text.ending(*counts) == expected
