"""Packets as a session would yield them, made by scapy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw

from pylvs.trace.packet import TracedPacket

CLIENT, DIRECTOR, SERVER = "02:00:00:00:0c:00", "02:00:00:00:0d:00", "02:00:00:01:02:00"
TIME = 1764432000.125
SERVICE, REAL = "TCP 10.0.0.100:80", "10.0.0.22:80"
SERVICE6, REAL6 = "TCP [2001:db8::100]:80", "[2001:db8::22]:80"
GUE = Raw(bytes((0, 4, 0, 0)))  # version 0, IPv4 follows
SYN = TCP(sport=40000, dport=80, flags="S")
DATA = TCP(sport=40000, dport=80, flags="PA") / Raw(b"GET / HTTP/1.1\r\n\x1b[31m\r\n")


def to_vip(ttl: int = 64) -> Packet:
    return IP(src="10.0.0.5", dst="10.0.0.100", ttl=ttl)


def to_vip6(limit: int = 64) -> Packet:
    return IPv6(src="2001:db8::5", dst="2001:db8::100", hlim=limit)


def came(packet: Packet, **values: Any) -> TracedPacket:
    """Return a packet that came from the client and was not sent."""
    frame = bytes(Ether(src=CLIENT, dst=DIRECTOR) / packet)
    made = TracedPacket(1, TIME, 1, "xdp", "eth0", len(frame), frame, b"")
    return replace(made, **values)


def sent(packet: Packet, left: Packet, **values: Any) -> TracedPacket:
    """Return a packet that came from the client and left to a real server."""
    after = bytes(Ether(src=DIRECTOR, dst=SERVER) / left)
    common = {"verdict": "forwarded", "output": "eth0", "after": after, "sent_length": len(after)}
    return came(packet, **{"service": SERVICE, "server": REAL, **common, **values})


SCHEDULED = {"choice": "scheduler", "scheduler": "wlc", "load": 256, "candidates": 3, "created": True}
DIRECT = sent(to_vip() / SYN, to_vip(63) / SYN, method="direct", state="SYN_RECV", **SCHEDULED)
NAT = sent(
    to_vip() / DATA,
    IP(src="10.0.0.5", dst="10.0.0.22", ttl=63) / TCP(sport=40000, dport=8080, flags="PA") / DATA[Raw],
    server="10.0.0.22:8080",
    method="nat",
    choice="existing_connection",
    state="ESTABLISHED",
)
REPLY = sent(
    IP(src="10.0.0.22", dst="10.0.0.5") / TCP(sport=8080, dport=40000, flags="SA"),
    IP(src="10.0.0.100", dst="10.0.0.5", ttl=63) / TCP(sport=80, dport=40000, flags="SA"),
    server="10.0.0.22:8080",
    method="nat",
    choice="reply",
    state="ESTABLISHED",
)
OUTER, OUTER6 = IP(src="10.0.0.100", dst="10.0.0.22"), IPv6(src="2001:db8::1", dst="2001:db8::22")
TUNNEL = {"method": "tunnel", "choice": "template"}
IPIP = sent(to_vip() / SYN, OUTER / to_vip(63) / SYN, **TUNNEL)
GRE_TUNNEL = sent(to_vip() / SYN, OUTER / GRE(proto=0x0800) / to_vip(63) / SYN, **TUNNEL)
GUE_TUNNEL = sent(to_vip() / SYN, OUTER6 / UDP(sport=40001, dport=6080) / GUE / to_vip(63) / SYN, **TUNNEL)
IP6IP6 = sent(to_vip6() / SYN, OUTER6 / to_vip6(63) / SYN, service=SERVICE6, server=REAL6, **TUNNEL)
DIRECT6 = sent(to_vip6() / SYN, to_vip6(63) / SYN, service=SERVICE6, server=REAL6, method="direct", **SCHEDULED)
FALLBACK = sent(
    *(to_vip() / SYN, to_vip(63) / SYN),
    method="direct",
    choice="hash_fallback",
    reason="table_full_stateless",
)
DROPPED = came(to_vip() / SYN, service=SERVICE, verdict="dropped", reason="table_full_dropped")
REJECTED = came(to_vip() / SYN, service=SERVICE, verdict="rejected", reason="no_destination")
PASSED = came(IP(src="10.0.0.5", dst="10.0.0.10") / UDP(sport=53, dport=53), reason="no_service")
TO_TC = came(to_vip() / SYN, verdict="to_tc", reason="to_tc")
HELD = came(IP(src="10.0.0.5", dst="10.0.0.100", flags="MF") / UDP(dport=80), hook="tc", verdict="held")
ALL = {
    "direct": DIRECT,
    "direct6": DIRECT6,
    "nat": NAT,
    "reply": REPLY,
    "ipip": IPIP,
    "gre": GRE_TUNNEL,
    "gue": GUE_TUNNEL,
    "ip6ip6": IP6IP6,
    "fallback": FALLBACK,
    "dropped": DROPPED,
    "rejected": REJECTED,
    "passed": PASSED,
    "to_tc": TO_TC,
    "held": HELD,
}
