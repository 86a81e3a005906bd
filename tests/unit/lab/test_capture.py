"""Frames are decoded and described."""

from __future__ import annotations

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from pylvs.lab.capture import Frame, changes

CLIENT, DIRECTOR = "02:00:00:00:0c:00", "02:00:00:00:0d:00"


def frame(packet: Ether) -> Frame:
    return Frame("eth0", True, bytes(packet))


def test_a_syn_is_described_layer_by_layer() -> None:
    seen = frame(
        Ether(src=CLIENT, dst=DIRECTOR) / IP(src="10.0.0.5", dst="10.0.0.100", ttl=9) / TCP(sport=4000, dport=80)
    )
    assert seen.describe() == [f"{CLIENT} > {DIRECTOR}", "IPv4 10.0.0.5 > 10.0.0.100, TTL 9", "TCP 4000 > 80, SYN"]
    assert seen.flags == ["SYN"]


def test_a_tunnel_has_two_headers() -> None:
    inner = IP(src="10.0.0.5", dst="10.0.0.100") / TCP(dport=80, flags="PA")
    seen = frame(Ether(src=CLIENT, dst=DIRECTOR) / IPv6(src="fd00::1", dst="fd00::2", hlim=7) / inner)
    assert [packet.family for packet in seen.packets] == [6, 4]
    assert seen.describe()[1] == "IPv6 fd00::1 > fd00::2, hop limit 7"
    assert seen.flags == ["ACK", "PSH"]


def test_other_frames_have_neither_headers_nor_flags() -> None:
    seen = frame(Ether(src=CLIENT, dst=DIRECTOR) / ARP())
    assert (seen.packets, seen.flags, len(seen.describe())) == ([], [], 1)
    truncated = Frame("eth0", True, bytes(Ether() / IP())[:20])
    assert truncated.packets == []


def test_changes_are_named_by_field() -> None:
    before = Ether(src=CLIENT, dst=DIRECTOR) / IP(src="10.0.0.5", dst="10.0.0.100", ttl=64) / TCP(dport=80)
    after = Ether(src=DIRECTOR, dst="02:00:00:01:03:00") / IP(src="10.0.0.5", dst="10.0.0.100", ttl=63) / TCP(dport=80)
    different = changes(frame(before), frame(after))
    names = {frame(after).field(at) for at in different}
    assert names == {"destination MAC", "source MAC", "TTL", "header checksum"}
    assert changes(frame(before), frame(before)) == []
    assert changes(frame(before), Frame("eth0", True, bytes(before) + b"x")) == [len(bytes(before))]
