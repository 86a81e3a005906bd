"""`pylvs doctor` where settings of the director keep it from forwarding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import DIRECTOR, Fault, built, diagnosed, examine

# A route to the client by another device than the one where its packets come in.
ASIDE = "ip link add aside type bridge; ip link set aside up; ip route add 10.0.0.5/32 dev aside;"
# What Docker writes: no rule concerns a virtual address.
DOCKER = """
ip link add docker0 type bridge; ip address add 172.17.0.1/16 dev docker0; ip link set docker0 up
iptables-nft -P FORWARD DROP
iptables-nft -N DOCKER; iptables-nft -N DOCKER-USER
iptables-nft -A FORWARD -j DOCKER-USER
iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A FORWARD -o docker0 -j DOCKER
iptables-nft -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 8080 -j ACCEPT
iptables-nft -A DOCKER-USER -j RETURN
iptables-nft -t nat -N DOCKER
iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:8080
nft add table inet host
nft add chain inet host input '{ type filter hook input priority 0; policy drop; }'
nft add rule inet host input ct state established,related accept
nft add rule inet host input iifname lo accept
nft add rule inet host input tcp dport '{ 22, 80 }' accept
sysctl -qw net.ipv4.conf.all.rp_filter=2
"""


def _on(name: str, script: str, cause: str, *words: str, cure: str | None = None, rest: str = "") -> Fault:
    return Fault(name=name, host=DIRECTOR, script=script, cause=cause, words=words, cure=cure, rest=rest)


GUARD = "nft add table inet guard; nft add chain inet guard input '{ type filter hook input priority 0; }'; "
RULE = "nft add rule inet guard input "


FAULTS = [
    _on("lo does not forward", "sysctl -qw net.ipv4.conf.lo.forwarding=0", "lo_not_forwarding", "net.ipv4.conf.lo"),
    _on(
        "BIG TCP",
        "ip link set dev eth0 gro_max_size 131072",
        "big_tcp",
        "131072",
        cure="ip link set dev eth0 gro_max_size 65536",
    ),
    _on(
        "a rule of nftables for a service",
        f"{GUARD}{RULE}ip saddr 192.0.2.0/24 ip daddr 10.0.0.100 tcp dport 80 drop",
        "rule_bypassed",
        "handle",
        "import --strict",
    ),
    _on(
        "a rule for every port of the address",
        f"nft delete table inet guard; {GUARD}{RULE}ip saddr 198.51.100.0/24 ip daddr 10.0.0.100 drop",
        "rule_bypassed",
        "Leave the rule",
        rest="nft list table inet guard | grep -q 'ip saddr 198.51.100.0/24 ip daddr 10.0.0.100 drop';"
        " pylvs filter del -t 10.0.0.100:80 198.51.100.0/24; nft delete table inet guard",
    ),
    _on(
        "a rule before one that accepts the port",  # so the import does not take the last rule
        f"{GUARD}{RULE}ip saddr 203.0.113.0/24 ip daddr 10.0.0.100 drop; {RULE}tcp dport 80 accept;"
        f" {RULE}ip daddr 10.0.0.100 drop",
        "rule_bypassed",
        "rule 2 of chain inet guard input",
        "import --strict",
        rest="test $(pylvs filter list | grep -c deny) = 1;"
        " pylvs filter del -t 10.0.0.100:80 203.0.113.0/24; nft delete table inet guard",
    ),
    _on(
        "a rule of iptables for a service",
        "iptables-legacy -A INPUT -s 192.0.2.0/24 -d 10.0.0.100 -p tcp --dport 80 -j REJECT",
        "rule_bypassed",
        "REJECT",
        "pylvs filter add",  # iptables-save is that of the other variant, so an import would leave out the rule
        cure="iptables-legacy -F INPUT",
    ),
    _on(
        "the reverse path filter",
        f"{ASIDE} sysctl -qw net.ipv4.conf.eth0.rp_filter=1; ipvsadm --set 0 0 0",
        "director_rp_filter",
        "10.0.0.5",
    ),
]
NAT_FAULTS = [
    _on("a director of NAT does not route", "sysctl -qw net.ipv4.ip_forward=0", "nat_not_forwarding", "ip_forward"),
    _on(
        "the servers' device does not forward",
        "sysctl -qw net.ipv4.conf.eth1.forwarding=0",
        "nat_not_forwarding",
        "eth1",
    ),
    _on("lo is detached", "pylvs detach lo", "lo_detached"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab of direct routing, which the faults share."""
    with built() as made:
        yield made


@pytest.fixture(scope="module")
def nat() -> Iterator[Lab]:
    """Return a healthy lab of NAT."""
    with built("nat") as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


@pytest.mark.parametrize("fault", NAT_FAULTS, ids=lambda fault: fault.name)
def test_nat(nat: Lab, fault: Fault) -> None:
    """The same with NAT."""
    examine(nat, fault)


@pytest.mark.parametrize("accepted", ["ip daddr 10.0.0.100 tcp dport 80", "tcp dport 80"])
def test_a_rule_for_the_other_ports_of_the_address_is_no_finding(lab: Lab, accepted: str) -> None:
    """An earlier rule accepts the port of the service, so this one drops none of its packets."""
    lab.sh(DIRECTOR, f"{GUARD}{RULE}{accepted} accept; {RULE}ip daddr 10.0.0.100 drop")
    assert diagnosed(lab) == []
    lab.sh(DIRECTOR, "nft delete table inet guard")


def test_rules_of_other_programs_and_loose_source_validation_are_no_finding(nat: Lab) -> None:
    """What Docker and a host firewall write concerns no service."""
    lab_hosts = (DIRECTOR, "rs1")
    for host in lab_hosts:
        nat.sh(host, DOCKER)
    assert [diagnosed(nat, host) for host in lab_hosts] == [[], []]
