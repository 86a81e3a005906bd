"""`pylvs doctor` where packets to a virtual address do not reach the director."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine, healthy

EARLY_RULE = (
    "ip rule add priority 5 lookup local; ip rule del priority 0; ip rule add priority 3 to 10.0.0.100 lookup 77;"
    " ip route add default via 10.0.0.22 table 77"
)
NO_EARLY_RULE = "ip rule add priority 0 lookup local; ip rule del priority 5; ip route flush table 77"
BRIDGE = "ip link add br0 type bridge; ip link set br0 up;"
ON_BRIDGE = (
    f"{BRIDGE} ip -4 address flush dev eth0; ip address add 10.0.0.10/24 dev br0; ip address add 10.0.0.100/32 dev br0"
)
OFF_BRIDGE = (
    "ip link del br0; ip link set eth0 up; ip address add 10.0.0.10/24 dev eth0; ip address add 10.0.0.100/32 dev eth0;"
    " ipvsadm --set 0 0 0"
)

FAULTS = [
    Fault(
        name="no address",
        host="director",
        script="ip address del 10.0.0.100/32 dev eth0",
        cause="vip_missing",
        words=("10.0.0.100", "eth0"),
    ),
    Fault(
        name="the device is down",
        host="director",
        script="ip link set eth0 down",
        cause="link_down",
        words=("eth0",),
    ),
    Fault(
        name="the director suppresses ARP, with the address on lo",
        host="director",
        script="sysctl -q -w net.ipv4.conf.all.arp_ignore=1; ip address del 10.0.0.100/32 dev eth0;"
        " ip address add 10.0.0.100/32 dev lo",
        cause="vip_without_arp",
        words=("10.0.0.100", "eth0", "arp_ignore"),
        rest="ip address del 10.0.0.100/32 dev lo; ip address add 10.0.0.100/32 dev eth0",
    ),
    Fault(
        name="nftables drop ARP",
        host="director",
        script="nft add table arp f; nft add chain arp f o '{ type filter hook output priority 0; policy drop; }'",
        cause="arp_filtered",
        words=("10.0.0.100", "arp f o"),
        rest="nft delete table arp f",
    ),
    Fault(
        name="a client has the address",
        host="client",
        script="ip address add 10.0.0.100/32 dev eth0",
        cause="vip_conflict",
        words=("10.0.0.100", "02:00:00:00:0c:00"),
        cure="ip address del 10.0.0.100/32 dev eth0",
    ),
    Fault(
        name="proxy ARP",
        host="client",
        script="sysctl -q -w net.ipv4.conf.eth0.proxy_arp=1 net.ipv4.ip_forward=1; ip route add 10.0.0.100/32 dev lo",
        cause="vip_conflict",
        words=("10.0.0.100", "02:00:00:00:0c:00"),
        cure="sysctl -q -w net.ipv4.conf.eth0.proxy_arp=0 net.ipv4.ip_forward=0; ip route del 10.0.0.100/32 dev lo",
    ),
    Fault(
        name="the local route is missing",
        host="director",
        script="ip route del local 10.0.0.100 dev eth0 table local",
        cause="vip_routed_away",
        words=("10.0.0.100", "table local has no route"),
    ),
    Fault(
        name="a rule precedes the local routes",
        host="director",
        script=EARLY_RULE,
        cause="vip_routed_away",
        words=("10.0.0.100", "the priorities 3"),
        rest=NO_EARLY_RULE,
    ),
    Fault(
        name="a bridge without a port",
        host="director",
        script=ON_BRIDGE,
        cause="link_down",
        words=("br0, a bridge, has no port", "ip link set eth0 master br0"),
        cure=OFF_BRIDGE,
    ),
    Fault(
        name="a bridge whose port is down",
        host="director",
        script=f"{ON_BRIDGE}; ip link set eth0 master br0; ipvsadm --set 0 0 0; ip link set eth0 down",
        cause="link_down",
        words=("eth0 is down", "br0 is on it"),
        cure=OFF_BRIDGE,
    ),
    Fault(
        name="a bridge whose ports are down",
        host="director",
        script=f"{ON_BRIDGE}; ip link add d0 type veth peer name d1; ip link set d0 master br0;"
        " ip link set eth0 master br0; ipvsadm --set 0 0 0; ip link set eth0 down",
        cause="link_down",
        words=("all ports of br0 are down: ", "eth0", "d0"),
        cure=f"ip link del d0; {OFF_BRIDGE}",
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    with built() as made:
        yield made


def test_a_healthy_lab_has_no_finding(lab: Lab) -> None:
    """Direct routing as the lab makes it is complete."""
    assert diagnosed(lab) == []


def test_a_bridge_without_a_port_may_hold_the_address_as_lo_does(lab: Lab) -> None:
    """The director answers ARP for it on the card of its network."""
    lab.sh("director", f"{BRIDGE} ip address del 10.0.0.100/32 dev eth0; ip address add 10.0.0.100/32 dev br0")
    healthy(lab, "director")
    lab.sh("director", "ip link del br0; ip address add 10.0.0.100/32 dev eth0")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)
