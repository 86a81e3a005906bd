"""The harness of the benchmark writes the frames that its plan describes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from bench import site
from bench.frames import IN_ORDER, SYN, Flows, Frame
from bench.harness import (
    FLOWS,
    FLOWS6,
    REPLIES,
    REPLIES6,
    SHRINK,
    SHRINK_FLOWS,
    XDP_TX,
    Harness,
    Wrapper,
    loaded,
)
from pylvs.bpf import abi
from pylvs.cli.meter import on_one_cpu

REQUEST = Frame("10.128.0.0", site.VIP, 40000, 80, SYN)
REQUEST6 = Frame("fd67::a80:0", site.VIP6, 40000, 80, SYN)
REPLY = Frame(site.server(1), "10.192.0.0", 8080, 40000)
REPLY6 = Frame(site.server6(1), "fd67::ac0:0", 8080, 40000)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with site.new_site("frames"), on_one_cpu(), loaded(table_lines=4099) as harness:
        yield harness


def has_right_ip_checksum(packet: Packet) -> bool:
    again = packet.copy()
    del again.chksum
    return bytes(again)[:20] == bytes(packet)[:20]


@pytest.mark.parametrize("port_bits", [15, 0])
@pytest.mark.parametrize(
    ("wrapper", "frame"),
    [(FLOWS, REQUEST), (SHRINK_FLOWS, REQUEST), (FLOWS6, REQUEST6), (REPLIES, REPLY), (REPLIES6, REPLY6)],
    ids=lambda each: each.name if isinstance(each, Wrapper) else "",
)
def test_each_frame_belongs_to_its_flow(harness: Harness, wrapper: Wrapper, frame: Frame, port_bits: int) -> None:
    replies = wrapper in (REPLIES, REPLIES6)
    for flow in 0, 1, 32767, 32768, 65535:
        flows = Flows(65536, flow, IN_ORDER, port_bits=port_bits, replies=replies)
        harness.plan(frame, flows)
        _, last = harness.run(wrapper, harness.own("bench_empty"), 1)
        packet = Ether(last.data)[IPv6 if wrapper.version == 6 else IP]
        ends = (packet.src, packet[TCP].sport), (packet.dst, packet[TCP].dport)
        client, other = reversed(ends) if replies else ends
        expected = flows.client(ip_address(frame.target) if replies else frame.sender, flow)
        assert (ip_address(client[0]), client[1]) == expected
        assert other == ((frame.source, frame.source_port) if replies else (frame.target, frame.target_port))
        assert wrapper.version == 6 or has_right_ip_checksum(packet)


@pytest.mark.parametrize("wrapper", [SHRINK, SHRINK_FLOWS], ids=lambda each: each.name)
def test_a_frame_that_grew_is_shortened_before_the_next_run(harness: Harness, wrapper: Wrapper) -> None:
    for runs in 1, 2, 100:
        harness.plan(REQUEST, Flows(64, 0, IN_ORDER) if wrapper.varies else None)
        _, last = harness.run(wrapper, harness.own("bench_grow"), runs)
        assert (last.verdict, len(last.data)) == (XDP_TX, abi.constant("BENCH_BYTES") + abi.constant("BENCH_OUTER"))


@pytest.mark.parametrize(
    "name",
    [
        *("bench_line", "bench_table_line", "bench_table_awaited", "bench_table_work"),
        *("bench_table_store", "bench_table_store_work"),
    ],
)
def test_the_programs_of_one_line_send_each_flow_back(harness: Harness, name: str) -> None:
    for flow in range(0, 1 << 20, 4093):
        harness.plan(REQUEST, Flows(1 << 20, flow, IN_ORDER))
        _, last = harness.run(FLOWS, harness.own(name), 1)
        assert (last.verdict, last.data[:12]) == (XDP_TX, REQUEST.packed()[6:12] + REQUEST.packed()[:6])


def test_what_an_awaited_line_has_is_in_the_next_packet(harness: Harness) -> None:
    read = 5  # in a measurement always 0, which neither the compiler nor the processor knows
    with loaded(table_lines=1) as small, small.table() as table:
        table.put(0, struct.pack("<8Q", read, *[0] * 7))
        small.plan(REQUEST, Flows(64, 0, IN_ORDER))
        small.run(FLOWS, small.own("bench_table_awaited"), 1)
        _, last = small.run(FLOWS, small.own("bench_empty"), 1)
    assert Ether(last.data)[TCP].dport == REQUEST.target_port + read
