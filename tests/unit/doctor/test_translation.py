"""What rules of NAT make of a packet's destination, and which rules match neighbour discovery."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.doctor.packet_filter.iptables import Tables
from pylvs.doctor.packet_filter.nft import Ruleset
from pylvs.doctor.packet_filter.packet import ADVERTISEMENT, SOLICITATION, Packet, Verdict

CLIENT, VIP, OTHER = (ip_address(text) for text in ("198.18.0.1", "192.0.2.1", "192.0.2.9"))
ONE, TWO = ip_address("2001:db8::1"), ip_address("fe80::2")
TO_VIP = Packet(CLIENT, VIP, sport=40000, dport=80, iif="eth0")
PORT_80 = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}}


def ruleset(*rules: list[dict[str, Any]], family: str = "ip", kind: str = "nat", hook: str = "prerouting") -> Ruleset:
    """Return the rules of one base chain."""
    key = {"family": family, "table": "t"}
    listed: list[dict[str, Any]] = [
        {"table": {"family": family, "name": "t"}},
        {"chain": {**key, "name": "c", "type": kind, "hook": hook, "prio": -100, "policy": "accept"}},
    ]
    listed += [{"rule": {**key, "chain": "c", "handle": at, "expr": rule}} for at, rule in enumerate(rules, 5)]
    return Ruleset(json.dumps({"nftables": listed}))


def by_nft(*rules: list[dict[str, Any]]) -> tuple[str, int] | None:
    """Return address, or "here", and port of a packet to the virtual address."""
    rules_of = ruleset(*rules)
    (chain,) = rules_of.base_chains("prerouting", ("ip",))
    found = rules_of.translation(chain, TO_VIP)
    return (str(found.address or "here"), found.port) if found else None


def test_nft_replaces_address_and_port() -> None:
    assert by_nft([PORT_80, {"dnat": {"addr": str(OTHER), "port": 8080}}]) == (str(OTHER), 8080)
    assert by_nft([PORT_80, {"dnat": {"addr": str(OTHER)}}]) == (str(OTHER), 80)
    assert by_nft([PORT_80, {"redirect": {"port": 81}}]) == ("here", 81)
    assert by_nft([PORT_80, {"redirect": None}]) == ("here", 80)


def test_nft_leaves_other_packets_and_what_cannot_be_known() -> None:
    assert by_nft([PORT_80, {"accept": None}], [{"redirect": {"port": 81}}]) is None
    assert by_nft([{"match": {"op": "==", "left": {"osf": {"key": "name"}}, "right": "x"}}, {"redirect": None}]) is None
    assert by_nft([PORT_80, {"dnat": {"addr": {"map": {"key": {"numgen": {}}, "data": "@m"}}}}]) is None


SAVED = """*nat
:PREROUTING ACCEPT [0:0]
:SERVICES - [0:0]
-A PREROUTING -j SERVICES
-A SERVICES -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j {}
COMMIT
"""


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("DNAT --to-destination 192.0.2.9:8080", ("192.0.2.9", 8080)),
        ("DNAT --to-destination 192.0.2.9", ("192.0.2.9", 80)),
        ("REDIRECT --to-ports 81", ("here", 81)),
        ("REDIRECT", ("here", 80)),
        ("RETURN", None),
        ("REDIRECT --to-ports 81-83", None),
    ],
)
def test_iptables_replaces_address_and_port(target: str, expected: tuple[str, int] | None) -> None:
    tables = Tables(SAVED.format(target), "iptables-nft")
    found = tables.translation(TO_VIP)
    assert ((str(found.address or "here"), found.port) if found else None) == expected
    assert tables.translated_ports() == {80}


def solicitation(kind: int) -> Packet:
    return Packet(TWO, ONE, 58, iif="eth0", icmp_type=kind)


@pytest.mark.parametrize("right", ["nd-neighbor-solicit", 135, {"set": ["nd-neighbor-solicit", "echo-request"]}])
def test_nft_drops_neighbour_discovery(right: object) -> None:
    match = {"match": {"op": "==", "left": {"payload": {"protocol": "icmpv6", "field": "type"}}, "right": right}}
    rules = ruleset([match, {"drop": None}], family="ip6", kind="filter", hook="input")
    (chain,) = rules.base_chains("input", ("ip6",))
    assert rules.decision(chain, solicitation(SOLICITATION)).verdict is Verdict.DROP
    assert rules.decision(chain, solicitation(ADVERTISEMENT)).verdict is Verdict.PASS


@pytest.mark.parametrize("word", ["135", "neighbour-solicitation", "135/0"])
def test_ip6tables_drop_neighbour_discovery(word: str) -> None:
    rule = f"-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type {word} -j DROP"
    tables = Tables(f"*filter\n:INPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n", "ip6tables-nft")
    (decided,) = tables.decisions("INPUT", solicitation(SOLICITATION))
    assert decided.verdict is Verdict.DROP
    (decided,) = tables.decisions("INPUT", solicitation(ADVERTISEMENT))
    assert decided.verdict is Verdict.PASS


def test_arp_is_known_by_its_ethertype() -> None:
    match = {"match": {"op": "==", "left": {"payload": {"protocol": "ether", "field": "type"}}, "right": "arp"}}
    rules = ruleset([match, {"drop": None}], family="netdev", kind="filter", hook="ingress")
    (chain,) = rules.base_chains("ingress", ("netdev",))
    assert rules.decision(chain, Packet(CLIENT, VIP, iif="eth0", arp=True)).verdict is Verdict.DROP
    assert rules.decision(chain, TO_VIP).verdict is Verdict.PASS
