"""What rules of nftables and iptables do with a packet."""

from __future__ import annotations

import json
import subprocess
from ipaddress import ip_address
from math import inf
from typing import Any

import pytest

from pylvs.doctor.facts import Facts
from pylvs.doctor.packet_filter.host import packet_filter
from pylvs.doctor.packet_filter.iptables import Tables
from pylvs.doctor.packet_filter.nft import Ruleset
from pylvs.doctor.packet_filter.packet import Decision, Packet, Verdict
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError

CLIENT, VIP, RIP = (ip_address(f"10.0.0.{number}") for number in (5, 100, 21))
REQUEST = Packet(CLIENT, VIP, 6, 40000, 80, iif="eth0")
REPLY = Packet(VIP, CLIENT, 6, 80, 40000, oif="eth0", new=False)
ARP = Packet(CLIENT, VIP, iif="eth0", arp=True)

Expressions = list[dict[str, Any]]


def _match(left: dict[str, Any], right: Any, operator: str = "==") -> dict[str, Any]:
    return {"match": {"op": operator, "left": left, "right": right}}


def _field(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _decided(*rules: Expressions, packet: Packet = REQUEST, policy: str = "accept", more: Any = ()) -> Decision:
    """Return the decision of a chain at input with these rules."""
    where = {"family": "arp" if packet.arp else "inet", "table": "t"}
    chain = {"chain": {**where, "name": "c", "hook": "input", "prio": 0, "type": "filter", "policy": policy}}
    listed = [{"rule": {**where, "chain": "c", "handle": at, "expr": each}} for at, each in enumerate(rules, 7)]
    ruleset = Ruleset(json.dumps({"nftables": [chain, *({kind: {**where, **each}} for kind, each in more), *listed]}))
    (base,) = ruleset.base_chains("input", (where["family"],))
    return ruleset.decision(base, packet, str(VIP))


DROP: dict[str, Any] = {"drop": None}
ACCEPT: dict[str, Any] = {"accept": None}
UNKNOWN: dict[str, Any] = {"xt": {"type": "match", "name": "recent"}}


@pytest.mark.parametrize(
    "condition",
    [
        _match(_field("ip", "daddr"), "10.0.0.100"),
        _match(_field("ip", "daddr"), {"prefix": {"addr": "10.0.0.0", "len": 24}}),
        _match(_field("ip", "daddr"), {"set": ["192.0.2.1", {"range": ["10.0.0.90", "10.0.0.110"]}]}),
        _match(_field("ip", "saddr"), "10.0.0.6", "!="),
        _match(_field("tcp", "dport"), {"set": [22, {"range": [80, 90]}]}),
        _match(_field("tcp", "dport"), 1024, "<"),
        _match(_field("th", "dport"), 80),
        _match({"meta": {"key": "iifname"}}, "eth*"),
        _match({"meta": {"key": "l4proto"}}, "tcp"),
        _match({"meta": {"key": "nfproto"}}, "ipv4"),
        _match({"ct": {"key": "state"}}, ["new", "untracked"], "in"),
        _match({"&": [_field("tcp", "flags"), ["syn", "ack"]]}, "syn"),
        _match({"concat": [_field("ip", "daddr"), _field("tcp", "dport")]}, {"set": [{"concat": ["10.0.0.100", 80]}]}),
        {"limit": {"rate": 5, "per": "second"}},
    ],
)
def test_a_condition_that_holds_lets_the_verdict_decide(condition: dict[str, Any]) -> None:
    """Each kind of condition, for a packet that meets it."""
    assert _decided([condition, DROP]).verdict is Verdict.DROP


@pytest.mark.parametrize(
    "condition",
    [
        _match(_field("ip", "daddr"), "10.0.0.101"),
        _match(_field("ip6", "daddr"), "fd00::1"),
        _match(_field("udp", "dport"), 80),
        _match(_field("tcp", "dport"), {"set": [22, 443]}),
        _match({"meta": {"key": "iifname"}}, "docker0"),
        _match({"meta": {"key": "l4proto"}}, {"set": ["udp", "icmp"]}),
        _match({"ct": {"key": "state"}}, ["established", "related"], "in"),
        _match({"ct": {"key": "state"}}, "invalid", "in"),
        {"limit": {"rate": 5, "per": "second", "inv": True}},
    ],
)
def test_a_condition_that_fails_ends_the_rule(condition: dict[str, Any]) -> None:
    """Each kind of condition, for a packet that does not meet it."""
    assert _decided([condition, DROP]).verdict is Verdict.PASS


def test_an_unknown_condition_makes_what_follows_uncertain() -> None:
    """A drop behind it is not reported, nor is a drop that an unknown rule may precede."""
    assert _decided([UNKNOWN, DROP]).verdict is Verdict.UNKNOWN
    assert _decided([UNKNOWN, ACCEPT], [DROP]).verdict is Verdict.UNKNOWN
    assert _decided([_match(_field("udp", "dport"), 80), UNKNOWN, ACCEPT], [DROP]).verdict is Verdict.DROP


def test_chains_maps_and_policies() -> None:
    """Jumps return, maps of verdicts decide, and the policy has the rest."""
    inner = [("chain", {"name": "inner"})]
    rule = [("rule", {"chain": "inner", "handle": 99, "expr": [_match(_field("tcp", "dport"), 80), DROP]})]
    assert _decided([{"jump": {"target": "inner"}}], [ACCEPT], more=inner + rule).verdict is Verdict.DROP
    assert _decided([{"jump": {"target": "inner"}}], [ACCEPT], more=inner).verdict is Verdict.PASS
    by_port = {"vmap": {"key": _field("tcp", "dport"), "data": {"set": [[22, ACCEPT], [80, DROP]]}}}
    assert _decided([by_port]).verdict is Verdict.DROP
    named = [("set", {"name": "vips", "elem": ["10.0.0.100"]})]
    assert _decided([_match(_field("ip", "daddr"), "@vips"), DROP], more=named).verdict is Verdict.DROP
    by_policy = _decided(policy="drop")
    assert by_policy.verdict is Verdict.DROP
    assert by_policy.accept == "nft insert rule inet t c ip daddr 10.0.0.100 tcp dport 80 accept"


def test_a_drop_has_the_commands_that_mend_it() -> None:
    """A rule that names the address is removed; another one is preceded."""
    found = _decided([_match(_field("ip", "daddr"), "10.0.0.100"), {"counter": {"packets": 3, "bytes": 9}}, DROP])
    assert (found.named, found.packets, found.remove) == (True, 3, "nft delete rule inet t c handle 7")
    assert not _decided([_match(_field("tcp", "dport"), 80), DROP]).named
    reply = _decided([_match(_field("tcp", "sport"), 80), DROP], packet=REPLY)
    assert reply.accept == "nft insert rule inet t c ip saddr 10.0.0.100 tcp sport 80 accept"


def test_no_rule_for_arp_applies_to_another_packet() -> None:
    rules = [_match(_field("arp", "daddr ip"), "10.0.0.100"), DROP]
    assert _decided(rules).verdict is Verdict.PASS


def test_rules_for_arp() -> None:
    """As arptables writes them."""
    named = [_match(_field("arp", "htype"), 1), _match(_field("arp", "daddr ip"), "10.0.0.100"), DROP]
    assert _decided(named, packet=ARP).verdict is Verdict.DROP
    other = [_match(_field("arp", "daddr ip"), "10.0.0.101"), DROP]
    assert _decided(other, packet=ARP).verdict is Verdict.PASS
    reply = Packet(VIP, CLIENT, oif="eth0", arp=True, new=False)
    requests = [_match(_field("arp", "operation"), "request"), DROP]
    assert _decided(requests, packet=ARP).verdict is Verdict.DROP
    assert _decided(requests, packet=reply).verdict is Verdict.PASS
    assert _decided(policy="drop", packet=reply).accept == "nft insert rule arp t c arp saddr ip 10.0.0.100 accept"


def _tables(*rules: str, policy: str = "ACCEPT", packet: Packet = REQUEST) -> Decision:
    text = "\n".join(("*filter", f":INPUT {policy} [4:240]", ":inner - [0:0]", *rules, "COMMIT"))
    return next(iter(Tables(text, "iptables-nft").decisions("INPUT", packet, str(VIP))))


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("-d 10.0.0.100/32 -j DROP", Verdict.DROP),
        ("-d 10.0.0.0/24 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable", Verdict.DROP),
        ("-p tcp -m multiport --dports 22,80:90 -j DROP", Verdict.DROP),
        ("-p tcp -m multiport --dports 22,443 -j DROP", Verdict.PASS),
        ("! -s 10.0.0.5/32 -j DROP", Verdict.PASS),
        ("-i eth+ -m conntrack --ctstate NEW -j DROP", Verdict.DROP),
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j DROP", Verdict.PASS),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", Verdict.DROP),
        ("-m iprange --dst-range 10.0.0.90-10.0.0.110 -j DROP", Verdict.DROP),
        ("-p udp -j DROP", Verdict.PASS),
        ("-m recent --rcheck -j DROP", Verdict.UNKNOWN),
        ("-m comment --comment 'a b' -j LOG --log-prefix drop", Verdict.PASS),
        ("-m comment --comment 'a\u2028b\x85c' -j DROP", Verdict.DROP),
        ("-j inner", Verdict.PASS),
        ("-j NFQUEUE --queue-num 1", Verdict.UNKNOWN),
    ],
)
def test_rules_of_iptables(rule: str, verdict: Verdict) -> None:
    """Each kind of match, behind an accepted other port."""
    assert _tables("[0:0] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", f"[2:120] -A INPUT {rule}").verdict is verdict


def test_iptables_name_the_commands() -> None:
    """A rule that names the address is removed; a policy is preceded."""
    found = _tables("[2:120] -A INPUT -d 10.0.0.100/32 -p tcp -j DROP")
    assert (found.named, found.packets) == (True, 2)
    assert found.remove == "iptables-nft -D INPUT -d 10.0.0.100/32 -p tcp -j DROP"
    assert _tables(policy="DROP").accept == "iptables-nft -I INPUT -d 10.0.0.100 -p tcp --dport 80 -j ACCEPT"
    inner = _tables("[0:0] -A INPUT -j inner", "[1:60] -A inner -p tcp -j DROP", policy="DROP")
    assert inner.remove == "iptables-nft -D inner -p tcp -j DROP"


def test_a_command_may_take_the_time_of_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what probes need that know the rules; with less, half of it."""
    limits = list[float]()

    def run(*_: Any, timeout: float, **__: Any) -> subprocess.CompletedProcess[str]:
        limits.append(timeout)
        raise subprocess.TimeoutExpired("nft", timeout)

    monkeypatch.setattr(subprocess, "run", run)
    for limit_s in (60, 4.5, 1):
        with pytest.raises(PylvsError, match="did not end"):
            packet_filter(Facts(limit_s=limit_s))
    assert limits == [58.5, 3, 0.5]


EXCESS = replace(REQUEST, exceeds=True)
OVER: dict[str, Any] = {"limit": {"rate": 30, "per": "minute", "burst": 5, "inv": True}}
UP_TO: dict[str, Any] = {"limit": {"rate": 2, "per": "second", "burst": 5}}
NOTED: dict[str, Any] = {"op": "add", "elem": _field("ip", "saddr"), "set": "@m"}
NAMED_LIMIT = [("limit", {"name": "few", "rate": 5, "per": "second", "inv": True})]


@pytest.mark.parametrize(
    ("rules", "most", "condition"),
    [
        ([[OVER, DROP]], 0.5, "limit rate over 30/minute"),
        ([[UP_TO, ACCEPT], [DROP]], 2, "limit rate 2/second"),
        ([[{"limit": "few"}, DROP]], 5, "limit rate over 5/second"),
        (
            [[{"set": {"op": "add", "elem": _field("ip", "saddr"), "set": "@m", "stmt": [OVER]}}, DROP]],
            0.5,
            "30/minute",
        ),
        ([[{"meter": {"key": _field("ip", "saddr"), "stmt": OVER, "name": "m"}}, DROP]], 0.5, "30/minute"),
        ([[{"ct count": {"val": 3, "inv": True}}, DROP]], 3, "ct count over 3"),
        ([[{"quota": {"val": 25, "val_unit": "mbytes", "inv": True}}, DROP]], inf, "quota over 25 mbytes"),
        ([[{"limit": {"rate": 1, "per": "second", "rate_unit": "mbytes", "inv": True}}, DROP]], inf, "1 mbytes/second"),
        ([[_match({"numgen": {"mode": "random", "mod": 10, "offset": 0}}, 3, "<"), DROP]], 0, "numgen"),
        ([[_match({"numgen": {"mode": "random", "mod": 2, "offset": 0}}, 0), ACCEPT], [DROP]], 0, "numgen"),
    ],
)
def test_a_rule_of_nftables_with_a_limit_drops_what_exceeds_it(
    rules: list[Expressions], most: float, condition: str
) -> None:
    """One packet alone passes."""
    assert _decided(*rules, more=NAMED_LIMIT).verdict is Verdict.PASS
    found = _decided(*rules, packet=EXCESS, more=NAMED_LIMIT)
    assert (found.verdict, [each.most for each in found.limits]) == (Verdict.DROP, [most])
    assert condition in found.limits[0].condition


def test_a_set_that_notes_clients_limits_none() -> None:
    """Nor is the drop behind it one of a limit."""
    rule = [{"set": NOTED}, DROP]
    assert (_decided(rule).verdict, _decided(rule, packet=EXCESS).limits) == (Verdict.DROP, ())


@pytest.mark.parametrize(
    ("rules", "most"),
    [
        (("-m hashlimit --hashlimit-above 6/min --hashlimit-mode srcip --hashlimit-name n -j DROP",), 0.1),
        (("-m limit --limit 3/sec --limit-burst 1 -j ACCEPT", "-j DROP"), 3),
        (("-m hashlimit --hashlimit-upto 1/day --hashlimit-name n -j ACCEPT", "-j DROP"), 1 / 86400),
        (("-m hashlimit --hashlimit-above 1mb/s --hashlimit-name n -j DROP",), inf),
        (("-m connlimit --connlimit-above 4 --connlimit-mask 32 --connlimit-saddr -j REJECT",), 4),
        (("-m connlimit --connlimit-upto 4 --connlimit-mask 32 --connlimit-saddr -j ACCEPT", "-j DROP"), 4),
        (("-m recent --set --name r", "-m recent --update --seconds 10 --hitcount 20 --name r --rsource -j DROP"), 2),
        (("-m statistic --mode random --probability 0.50000000000 -j DROP",), 0),
    ],
)
def test_a_rule_of_iptables_with_a_limit_drops_what_exceeds_it(rules: tuple[str, ...], most: float) -> None:
    """One packet alone passes."""
    listed = [f"[2:120] -A INPUT -p tcp -m tcp --dport 80 {each}" for each in rules]
    assert _tables(*listed).verdict is Verdict.PASS
    found = _tables(*listed, packet=EXCESS)
    assert (found.verdict, [each.most for each in found.limits]) == (Verdict.DROP, [most])


def test_a_limit_of_other_packets_is_none() -> None:
    """Its rule does not match this one."""
    other = "-A INPUT -p icmp -m limit --limit 1/sec -j ACCEPT"
    assert _tables(f"[0:0] {other}", "[0:0] -A INPUT -p tcp -j DROP", packet=EXCESS).limits == ()
    assert _decided([_match(_field("tcp", "dport"), 22), OVER, DROP], [DROP], packet=EXCESS).limits == ()
