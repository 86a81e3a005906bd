"""`pylvs doctor --lab` where a router, a client or a real server of NAT is the cause: the lab tells what to expect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import built
from tests.lab.doctor.test_of_lab import diagnosed

FORWARD = (
    "nft add table inet f; nft add chain inet f c '{ type filter hook forward priority 0; }'; nft add rule inet f c"
)
TOPOLOGIES = ["dr-behind-router", "tun", "nat"]
TRANSLATE = (
    "nft add table ip other; nft add chain ip other p '{ type nat hook prerouting priority -110; }';"
    " nft add rule ip other p"
)

# topology; host; script; id; a word of title or command
FAULTS = [
    ("dr-behind-router", "router", "sysctl -qw net.ipv4.ip_forward=0", "router_not_forwarding", "router:"),
    ("dr-behind-router", "router", "nft flush chain ip nat prerouting", "router_lacks_dnat", "10.0.0.100"),
    (
        "dr-behind-router",
        "router",
        f"{TRANSLATE} ip daddr 172.16.0.88 dnat to 10.0.0.22",
        "router_lacks_dnat",
        "10.0.0.22",
    ),
    (
        "dr-behind-router",
        "router",
        "iptables-nft -A FORWARD -p tcp -m tcp --dport 80 -j DROP",
        "router_firewall",
        "172.16.0.88",
    ),
    (
        "dr-behind-router",
        "router",
        "ip route add blackhole 172.16.0.5/32",
        "router_route_drops",
        "blackhole 172.16.0.5",
    ),
    ("dr-behind-router", "router", "ip address del 172.16.0.88/32 dev eth0", "router_lacks_address", "172.16.0.88"),
    (
        "dr-behind-router",
        "router",
        "ip neigh replace 10.0.0.100 lladdr 02:00:00:01:01:00 dev eth1 nud permanent",
        "wrong_neighbour",
        "10.0.0.100",
    ),
    (
        "dr-behind-router",
        "client",
        "ip neigh replace 172.16.0.88 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
        "wrong_neighbour",
        "172.16.0.88",
    ),
    ("tun", "router", "sysctl -qw net.ipv4.conf.eth2.rp_filter=1", "router_rp_filter", "eth2"),
    ("tun", "router", f"{FORWARD} ip protocol 4 drop", "router_firewall", "10.0.0.10"),
    ("tun", "router", "ip route add 10.0.11.21/32 dev eth3", "router_wrong_route", "eth3"),
    ("tun", "router", "ip link set eth2 down", "link_down", "eth2"),
    ("nat", "rs1", "ip route replace default via 10.0.0.22", "nat_reply_path", "10.0.0.1"),
    ("nat", "rs1", "ip route del default", "nat_reply_path", "10.0.0.1"),
    (
        "nat",
        "rs1",
        "iptables-nft -A INPUT -s 10.0.0.0/24 -j ACCEPT; iptables-nft -A INPUT -p tcp -j DROP",
        "server_firewall",
        "10.0.0.21",
    ),
]


@pytest.fixture(scope="module")
def labs() -> Iterator[dict[str, Lab]]:
    """Return healthy labs, which the faults share."""
    with built("dr-behind-router") as behind, built("tun") as tunnels, built("nat") as by_nat:
        yield {"dr-behind-router": behind, "tun": tunnels, "nat": by_nat}


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_healthy_lab_has_no_finding(labs: dict[str, Lab], topology: str) -> None:
    assert diagnosed(labs[topology]) == []


@pytest.mark.parametrize(
    ("topology", "host", "script", "cause", "word"),
    FAULTS,
    ids=[f"{each[0]}: {each[2][:60]}" for each in FAULTS],
)
def test_the_host_is_named_and_its_command_mends_it(
    labs: dict[str, Lab], topology: str, host: str, script: str, cause: str, word: str
) -> None:
    """The cause comes first, and blames no other host."""
    lab = labs[topology]
    lab.sh(host, script)
    found = diagnosed(lab)
    first = found[0]
    assert first["id"] == cause, [(each["id"], each["title"], each["evidence"]) for each in found]
    assert word in first["title"] + first["fix_command"]
    assert first["title"].startswith(f"{host}:")
    assert all(each["title"].startswith(f"{host}:") for each in found), [each["title"] for each in found]
    lab.sh(host, first["fix_command"])


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_everything_is_mended(labs: dict[str, Lab], topology: str) -> None:
    """No command has left anything."""
    left = diagnosed(labs[topology])
    assert left == [], [(each["title"], each["evidence"]) for each in left]
