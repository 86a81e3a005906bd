"""`pylvs doctor` where real servers of NAT do not answer, or not through the director."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import (
    END_REQUESTS,
    ENDLESS_REQUESTS,
    Fault,
    built,
    diagnosed,
    examine,
    mend,
    plant,
    recognized,
    settle,
)
from tests.lab.support import answers
from tests.waiting import until

FAULTS = [
    Fault(
        name="the director rejects packets to the client",
        host="director",
        script="ip route add unreachable 172.16.0.5/32",
        cause="reply_route_missing",
        words=("172.16.0.5", "unreachable"),
        requests=2,
    ),
    Fault(
        name="no default route",
        host="rs1",
        script="ip route del default",
        cause="nat_reply_path",
        words=("10.0.0.21", "via 10.0.0.1"),
    ),
    Fault(
        name="the default route leads to another host",
        host="rs1",
        script="ip route replace default via 10.0.0.22; ip route add 172.16.0.0/24 via 10.0.0.22",
        cause="nat_reply_path",
        words=("10.0.0.21", "via 10.0.0.1"),
        cure="ip route del 172.16.0.0/24; ip route replace default via 10.0.0.1",
    ),
    Fault(
        name="a firewall accepts the director alone",
        host="rs1",
        script="nft add table inet f; nft add chain inet f i '{ type filter hook input priority 0; policy drop; }';"
        " nft add rule inet f i ip saddr 10.0.0.1 accept",
        cause="server_firewall",
        words=("10.0.0.21", "10.0.0.1 alone"),
        cure="nft delete table inet f",
    ),
    Fault(
        name="a firewall accepts the servers' network alone",
        host="rs1",
        script="nft add table inet f; nft add chain inet f i '{ type filter hook input priority 0; policy drop; }';"
        " nft add rule inet f i ip saddr 10.0.0.0/24 accept",
        cause="server_firewall",
        words=("10.0.0.21", "its own network alone"),
        cure="nft delete table inet f",
    ),
    Fault(
        name="the servers' device is down",
        host="director",
        script="ip link set eth1 down",
        cause="link_down",
        words=("eth1",),
    ),
    Fault(
        name="the servers' device is down, and a default route is used",
        host="director",
        script="ip link set eth1 down; ip route add default via 172.16.0.5",
        cause="link_down",
        words=("eth1",),
        rest="ip route del default",
    ),
    Fault(
        name="the application is down",
        host="rs1",
        script="service nginx stop",
        cause="not_listening",
        words=("10.0.0.21", "80"),
        cure="service nginx start",
    ),
    Fault(
        name="the port of the table is wrong",
        host="director",
        script="ipvsadm -d -t 172.16.0.100:80 -r 10.0.0.21:80; ipvsadm -a -t 172.16.0.100:80 -r 10.0.0.21:8080 -m",
        cause="not_listening",
        words=("10.0.0.21", "8080"),
        cure="ipvsadm -d -t 172.16.0.100:80 -r 10.0.0.21:8080; ipvsadm -a -t 172.16.0.100:80 -r 10.0.0.21:80 -m",
    ),
]


def _on_server(name: str, script: str, cause: str, *words: str, cure: str | None = None, requests: int = 0) -> Fault:
    """Return a fault of the first real server, which runs the doctor as well, with its own address."""
    return Fault(name, "rs1", script, cause, words, on="rs1", cure=cure, requests=requests, named=("10.0.0.21",))


SERVER_FAULTS = [
    _on_server(
        "the application does not run", "service nginx stop", "not_listening", "10.0.0.21", cure="service nginx start"
    ),
    _on_server(
        "iptables translate the port",
        "iptables-nft -t nat -A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8099",
        "server_nat_rule",
        "port 8099",
    ),
    _on_server(
        "a rule drops everything",
        "nft add table inet f; nft add chain inet f i '{ type filter hook input priority 0; }';"
        " nft add rule inet f i meta l4proto tcp drop",
        "server_firewall",
        "10.0.0.21",
    ),
    _on_server(
        "the gateway does not exist",
        "ip route replace default via 10.0.0.99",
        "server_next_hop_silent",
        "10.0.0.99",
        cure="ip route replace default via 10.0.0.1",
    ),
    _on_server(
        "a route rejects replies",
        "for net in 172.16.0.0/24 0.0.0.0/1 128.0.0.0/1; do ip route add unreachable $net; done",
        "server_reply_rejected",
        "unreachable",
        cure="ip route flush type unreachable",
        requests=4,
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    with built("nat") as made:
        yield made


def test_a_healthy_lab_has_no_finding(lab: Lab) -> None:
    """NAT as the lab makes it is complete."""
    assert diagnosed(lab) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


@pytest.mark.parametrize("fault", SERVER_FAULTS, ids=lambda fault: fault.name)
def test_on_a_real_server_whose_address_is_named(lab: Lab, fault: Fault) -> None:
    """Nothing else shows that a host is a real server of NAT."""
    examine(lab, fault)


def test_a_real_server_that_clients_do_not_answer_names_the_gateway(lab: Lab) -> None:
    """Without a name, too: no client confirms its replies, and its gateway does not forward."""
    fault = Fault("", "rs1", "ip route replace default via 10.0.0.22", "server_reply_misrouted", on="rs1", steady=True)
    plant(lab, fault)
    until(lambda: any(each["id"] == fault.cause for each in diagnosed(lab, "rs1")))
    lab.sh("rs1", "ip route replace default via 10.0.0.1")
    settle(lab, fault)


def test_a_route_to_clients_without_a_gateway_is_named(lab: Lab) -> None:
    """The real server asks on its link for clients, which are elsewhere."""
    wrong, waits = "ip route add 172.16.0.0/16 dev eth0", "ipvsadm -Lnc | grep -q 'SYN_RECV.* 10.0.0.21:80'"
    words = ("10.0.0.21", "172.16.0", "asks on eth1")
    noticed = f"until {waits}; do sleep 0.1; done"
    fault = Fault("", "rs1", wrong, "nat_reply_path", words, steady=True, noticed=noticed)
    plant(lab, fault)
    mend(lab, fault, recognized(lab, fault))
    settle(lab, fault)
    assert all(each.startswith("This is rs") for each in answers(lab, 2))


def test_a_firewall_that_accepts_some_clients_is_healthy(lab: Lab) -> None:
    """They complete connections, so it is no mistake that others do not."""
    chain = "nft add table inet f; nft add chain inet f i '{ type filter hook input priority 0; policy drop; }'"
    lab.sh("rs1", f"{chain}; nft add rule inet f i ip saddr '{{ 10.0.0.1, 172.16.0.5 }}' accept")
    lab.sh("client", ENDLESS_REQUESTS)
    try:
        assert diagnosed(lab) == []
    finally:
        lab.sh("client", END_REQUESTS)
        lab.sh("rs1", "nft delete table inet f")


AGAIN = "ipvsadm -C; ipvsadm -A -t VIP:80 -s rr; ipvsadm -a -t VIP:80 -r rs1 -m; ipvsadm -a -t VIP:80 -r rs2 -m"


def test_a_client_beside_its_server_is_named(lab: Lab) -> None:
    """The server replies to it directly, so NAT cannot translate. That explains what its connections show."""
    lab.sh("director", AGAIN)
    lab.sh("rs2", "for n in $(seq 12); do curl -s -o /dev/null --max-time 1 http://VIP/; done; :")
    found = [each["id"] for each in diagnosed(lab)]
    lab.sh("director", AGAIN)
    assert found == ["client_beside_server"]


def test_a_link_with_a_smaller_mtu_is_named(lab: Lab) -> None:
    """Long requests would disappear."""
    lab.sh("rs1", "ip link set eth0 mtu 1400")
    first = diagnosed(lab)[0]
    lab.sh("rs1", "ip link set eth0 mtu 1500")
    assert (first["id"], "1400" in first["fix_command"]) == ("path_mtu", True)
