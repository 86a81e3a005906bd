"""`pylvs realserver` records and restores what it changes, and decapsulates every kind of tunnel."""

from __future__ import annotations

import json
from itertools import product

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from pylvs.lab.lab import Lab
from pylvs.realserver.vip import memory_path
from pylvs.system.namespaces import inside_network, network_cookie
from tests.lab.conftest import MakeLab
from tests.lab.exchange import exchange, identifier

STATE = """
ip -o addr show
ip -o link show
cd /proc/sys/net; grep -r . ipv4/conf/*/arp_ignore ipv4/conf/*/arp_announce ipv4/conf/*/rp_filter
tc qdisc show dev eth0
tc filter show dev eth0 ingress
true
"""


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """Make a real server without a VIP, and a client, both with addresses of both families."""
    made = make_lab("dr", servers=1, bare=True)
    made.sh("rs1", "ip addr add fd00:10::21/64 dev eth0 nodad")
    made.sh("client", "ip addr add fd00:10::5/64 dev eth0 nodad")
    return made


def remembered(lab: Lab) -> bool:
    """Return whether anything is recorded about this real server's namespace."""
    with inside_network(lab.host("rs1").network):
        return memory_path(network_cookie()).exists()


def snapshot(lab: Lab) -> str:
    """Return what the command may change, and whether it has recorded anything; other labs have records beside it."""
    return f"{lab.sh('rs1', STATE)}recorded: {remembered(lab)}\n"


@pytest.mark.parametrize("tunnel", [[], ["--tunnel"]])
def test_down_restores_exactly_what_up_changed(lab: Lab, tunnel: list[str]) -> None:
    lab.sh("rs1", "echo 3 >/proc/sys/net/ipv4/conf/eth0/arp_ignore; echo 1 >/proc/sys/net/ipv4/conf/lo/arp_announce")
    lab.sh("rs1", "ip addr add 10.0.0.101/32 dev lo")  # it existed before, and stays
    before = snapshot(lab)
    words = " ".join(["pylvs realserver up 10.0.0.100 10.0.0.101 fd00:10::100", *tunnel])
    assert "10.0.0.100/32 is on lo" in lab.sh("rs1", words)
    between = snapshot(lab)
    assert remembered(lab)
    assert "10.0.0.100/32" in between
    assert "fd00:10::100/128" in between
    assert "ipv4/conf/eth0/arp_ignore:1" in between
    assert ("pylvs-realserver" in between) == bool(tunnel) or "tunl0" in between
    assert lab.sh("rs1", words) == "all was so already\n"
    assert snapshot(lab) == between
    lab.sh("rs1", "pylvs realserver down")
    assert snapshot(lab).split() == before.split()
    assert not remembered(lab)
    assert lab.sh("rs1", "pylvs realserver down") == "there was nothing to restore\n"


def test_addresses_are_removed_one_by_one(lab: Lab) -> None:
    before = snapshot(lab)
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 --tunnel; pylvs realserver up 10.0.0.101")
    assert lab.sh("rs1", "pylvs realserver down 10.0.0.100") == "10.0.0.100 is off lo\n"
    after = snapshot(lab)
    assert "10.0.0.100/32" not in after
    assert "10.0.0.101/32" in after
    assert "ipv4/conf/all/arp_ignore:1" in after
    lab.sh("rs1", "pylvs realserver down 10.0.0.101")
    assert snapshot(lab).split() == before.split()


def test_an_address_that_is_given_twice_counts_once(lab: Lab) -> None:
    before = snapshot(lab)
    twice = "10.0.0.100 fd00:10::100 10.0.0.100 fd00:10:0::100"
    for end in "", " --tunnel --tunnel --director 10.0.0.10 --director 10.0.0.10":
        done = lab.sh("rs1", f"pylvs realserver up {twice}{end}")
        assert [done.count(f"{each} is on lo\n") for each in ("10.0.0.100/32", "fd00:10::100/128")] == [1, 1]
        assert done.count("director 10.0.0.10") == bool(end)
        done = lab.sh("rs1", f"pylvs realserver down {twice}")
        assert [done.count(f"{each} is off lo\n") for each in ("10.0.0.100", "fd00:10::100")] == [1, 1]
        assert snapshot(lab).split() == before.split()


def test_changes_of_other_programs_stay(lab: Lab) -> None:
    lab.sh("rs1", "pylvs realserver up 10.0.0.100")
    lab.sh("rs1", "echo 8 >/proc/sys/net/ipv4/conf/all/arp_ignore")
    output = lab.sh("rs1", "pylvs realserver down")
    assert "net.ipv4.conf.all.arp_ignore was changed since, and stays" in output
    assert (
        lab.sh("rs1", "cat /proc/sys/net/ipv4/conf/all/arp_ignore /proc/sys/net/ipv4/conf/all/arp_announce") == "8\n0\n"
    )


def test_settings_that_are_right_already_stay(lab: Lab) -> None:
    lab.sh("rs1", "echo 2 >/proc/sys/net/ipv4/conf/all/arp_ignore")
    lab.sh("rs1", "pylvs realserver up 10.0.0.100")
    assert lab.sh("rs1", "cat /proc/sys/net/ipv4/conf/all/arp_ignore") == "2\n"


def test_status_reports_what_has_changed(lab: Lab) -> None:
    nothing = lab.run("rs1", ["pylvs", "realserver", "status"])
    assert (nothing.returncode, nothing.stdout[:17]) == (1, "not a real server")
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 --tunnel")
    good = json.loads(lab.sh("rs1", "pylvs realserver status --json"))
    assert [each["good"] for each in good] == [True] * len(good)
    assert {each["subject"] for each in good} == {"10.0.0.100", "eth0", "tunnel"}
    lab.sh("rs1", "ip addr del 10.0.0.100/32 dev lo; echo 0 | tee /proc/sys/net/ipv4/conf/*/arp_announce")
    done = lab.run("rs1", ["pylvs", "realserver", "status", "--json"])
    assert done.returncode == 1
    assert {each["subject"]: each["good"] for each in json.loads(done.stdout)} == {
        "10.0.0.100": False,
        "eth0": False,
        "tunnel": True,
    }


BAD = {
    "10.0.0.21": "10.0.0.21: is on eth0, which would answer for it; ip addr del 10.0.0.21/24 dev eth0",
    "10.0.0.256": "10.0.0.256: not an IP address (a VIP is given without a prefix length)",
    "10.0.0.0/24": "10.0.0.0/24: not an IP address (a VIP is given without a prefix length)",
    "224.0.0.5": "224.0.0.5: not a unicast address that clients could ask for",
    "::": "::: not a unicast address that clients could ask for",
    "10.0.0.100 --director 10.0.0.1": "--director 10.0.0.1/32: without tunnels nothing is checked; add --tunnel",
    "10.0.0.100 --tunnel --director 10.0.0.1/24": (
        "--director 10.0.0.1/24: not an IP address, nor a network without host bits"
    ),
    "10.0.0.100 --device eth9": "eth9: no such device; there are: lo, eth0",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_changes_nothing(lab: Lab, words: str) -> None:
    before = snapshot(lab)
    done = lab.run("rs1", ["pylvs", "realserver", "up", *words.split()])
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"pylvs: {BAD[words]}\n")
    assert snapshot(lab) == before


def test_up_is_undone_if_a_part_fails(lab: Lab) -> None:
    """Here the second address fails. An existing real server stays as it was."""
    lab.sh("rs1", "echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6")
    for earlier in ("true", "pylvs realserver up 10.0.0.101"):
        lab.sh("rs1", earlier)
        before = snapshot(lab)
        done = lab.run("rs1", ["pylvs", "realserver", "up", "10.0.0.100", "fd00:10::100", "--tunnel"])
        switch = "net.ipv6.conf.lo.disable_ipv6=0"
        assert done.stderr == f"pylvs: fd00:10::100/128 on lo: IPv6 is switched off there; sysctl {switch}\n"
        assert done.returncode == 1
        assert snapshot(lab) == before


# An echo request to the VIP in every kind of tunnel, with each ECN codepoint in the outer header. The answer has the
# codepoint that arrived inside (RFC 6040: congestion outside becomes congestion inside).
KINDS = list(product((4, 6), (4, 6), (0, 2, 3)))


def encapsulated(number: int, ends: Packet, inside: int) -> Packet:
    """Return one of them; its id is its kind."""
    if inside == 4:
        return ends / IP(src="10.0.0.5", dst="10.0.0.100", tos=2) / ICMP(id=number + 1) / b"hello"
    echo = ICMPv6EchoRequest(id=number + 1, data=b"hello")
    return ends / IPv6(src="fd00:10::5", dst="fd00:10::100", tc=2) / echo


def tunnelled(lab: Lab, outer4: str = "10.0.0.21", outer6: str = "fd00:10::21") -> list[str]:
    """Send one of each kind from the client; return the answers."""
    packets = []
    for number, (out, inside, ecn) in enumerate(KINDS):
        four, six = IP(src="10.0.0.10", dst=outer4, tos=ecn), IPv6(src="fd00:10::10", dst=outer6, tc=ecn)
        packets.append(encapsulated(number, four if out == 4 else six, inside))
    output = []
    for reply in exchange(lab, packets):
        mark = (reply.tos if reply.version == 4 else reply.tc) & 3
        output.append(f"{KINDS[identifier(reply) - 1]} {reply.src} {mark}")
    return sorted(output)


def test_every_kind_of_tunnel_is_decapsulated(lab: Lab) -> None:
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 fd00:10::100 --tunnel")
    wanted = [
        f"({out}, {inside}, {ecn}) {'10.0.0.100' if inside == 4 else 'fd00:10::100'} {3 if ecn == 3 else 2}"
        for out in (4, 6)
        for inside in (4, 6)
        for ecn in (0, 2, 3)
    ]
    assert tunnelled(lab) == wanted
    # The kernel's own tunnel devices, if there are any, have their own counters.
    output = lab.sh("rs1", "pylvs realserver status")
    assert "by a program at eth0: 12 unwrapped\n" in output or "unwrapped by tunl0" in output


def test_fragments_of_outer_packets_pass_and_are_counted(lab: Lab) -> None:
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 --tunnel")
    inner = IP(src="10.0.0.5", dst="10.0.0.100") / ICMP(id=1) / bytes(1400)
    exchange(lab, (IP(src="10.0.0.10", dst="10.0.0.21") / inner).fragment(1000))  # type: ignore[no-untyped-call]
    output = lab.sh("rs1", "pylvs realserver status")
    assert "by a program at eth0: 0 unwrapped, 2 fragments\n" in output or "unwrapped by tunl0" in output


def test_ip_in_ip_of_other_sources_than_the_directors_is_dropped(lab: Lab) -> None:
    """Also if the kernel has tunnel devices, which accept all sources, and one was used before."""
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 fd00:10::100 --tunnel")
    assert len(tunnelled(lab)) == 12
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 --director 10.0.0.9")
    assert tunnelled(lab) == []
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 --director fd00:10::10")
    assert [each[1] for each in tunnelled(lab)] == ["6"] * 6
    assert "by a program at eth0: 6 unwrapped, 6 foreign\n" in lab.sh("rs1", "pylvs realserver status")


def test_tunnels_to_other_addresses_are_not_decapsulated(lab: Lab) -> None:
    """Not for an unknown VIP, and not after `down`."""
    lab.sh("rs1", "pylvs realserver up 10.0.0.101 fd00:10::101 --tunnel; ip addr add 10.0.0.100/32 dev lo")
    assert tunnelled(lab) == []
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 fd00:10::100")
    assert len(tunnelled(lab)) == 12
    lab.sh("rs1", "pylvs realserver down")
    assert tunnelled(lab) == []


def test_a_router_does_not_decapsulate_packets_of_other_hosts(lab: Lab) -> None:
    lab.sh("rs1", "pylvs realserver up 10.0.0.100 fd00:10::100 --tunnel")
    lab.sh("rs1", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
    assert tunnelled(lab, "10.0.0.10", "fd00:10::10") == []
    assert len(tunnelled(lab)) == 12


def test_a_server_that_was_prepared_by_hand_and_answers_arp_is_bad(lab: Lab) -> None:
    lab.sh("rs1", "ip addr add 10.0.0.100/32 dev lo; ip addr add fd00:10::100/128 dev lo nodad")
    lab.sh("rs1", "sysctl -q -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0")
    done = lab.run("rs1", ["pylvs", "realserver", "status"])
    assert done.returncode == 1
    assert "ok   10.0.0.100           on lo, not by pylvs realserver\n" in done.stdout
    assert "ok   fd00:10::100         on lo, not by pylvs realserver\n" in done.stdout
    assert "BAD  eth0                 arp_ignore 0, arp_announce 0: it answers ARP for the VIP" in done.stdout
    lab.sh("rs1", "sysctl -q -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")
    assert "BAD" not in lab.sh("rs1", "pylvs realserver status")
    lab.sh("rs1", "sysctl -q -w net.ipv4.conf.all.arp_ignore=0; ip addr del 10.0.0.100/32 dev lo")
    assert "BAD" not in lab.sh("rs1", "pylvs realserver status")  # IPv6 needs no setting
    lab.sh("rs1", "ip addr del fd00:10::100/128 dev lo")
    assert lab.run("rs1", ["pylvs", "realserver", "status"]).stdout.startswith("not a real server")
