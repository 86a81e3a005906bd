"""`pylvs doctor` where real servers of direct routing do not answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine, mend, plant, recognized, settle
from tests.lab.doctor.guard import PYTHON
from tests.lab.support import answers
from tests.waiting import until

FILTER = "nft add table inet f; nft add chain inet f i '{ type filter hook input priority 0; }'; nft add rule inet f i"
NO_FILTER = "nft delete table inet f"
NGINX = "/etc/nginx/pylvs-lab.conf"
VIP, RIP = "10.0.0.100", "10.0.0.21"
WEB = f"ipvsadm -C; ipvsadm -A -t {VIP}:80 -s rr; ipvsadm -a -t {VIP}:80 -r {RIP} -g; ipvsadm -a -t {VIP}:80 -r rs2 -g"
SYSLOG = f"""setsid {PYTHON} -c '
import socket
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.bind(("", 514))
while True:
    end.recv(2000)
' >/dev/null 2>&1 & echo $! >/run/syslog; until ss -Hlun | grep -q :514; do sleep 0.05; done"""
FIRST_ADDRESS = (
    f"ip -4 address flush dev eth0; ip address add {VIP}/24 dev eth0; ip address add 10.0.0.10/24 dev eth0;"
    " ip neigh flush all"
)
BRIDGED = "ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0"

FAULTS = [
    Fault(
        name="no virtual address",
        host="rs1",
        script=f"ip address del {VIP}/32 dev lo",
        cause="server_lacks_vip",
        words=(VIP, RIP),
    ),
    Fault(
        name="no virtual address, on a host that forwards",
        host="rs1",
        script=f"sysctl -q -w net.ipv4.ip_forward=1; ip address del {VIP}/32 dev lo",
        cause="server_lacks_vip",
        words=(VIP, RIP),
        rest="sysctl -q -w net.ipv4.ip_forward=0",
    ),
    Fault(
        name="ARP is not suppressed",
        host="rs1",
        script="cd /proc/sys/net/ipv4/conf; for d in all lo eth0; do echo 0 >$d/arp_ignore; done",
        cause="server_answers_arp",
        words=(VIP, RIP, "02:00:00:01:01:00"),
    ),
    Fault(
        name="the virtual address on eth0",
        host="rs1",
        script=f"ip address del {VIP}/32 dev lo; ip address add {VIP}/32 dev eth0",
        cause="server_answers_arp",
        words=(VIP, RIP),
    ),
    Fault(
        name="the virtual address on another card of a real server",
        host="rs1",
        script=f"ip link add link eth0 name eth1 type macvlan mode bridge; ip link set eth1 up;"
        f" ip address add 10.0.0.121/24 dev eth1; ip address del {VIP}/32 dev lo; ip address add {VIP}/32 dev eth1",
        cause="server_answers_arp",
        words=(VIP, RIP, "another link address"),
        rest="ip link del eth1",
    ),
    Fault(
        name="a rule changes the source of replies",
        host="rs1",
        script="nft add table ip s; nft add chain ip s o '{ type filter hook output priority -150; }';"
        f" nft add rule ip s o ip saddr {VIP} tcp sport 80 ip saddr set {RIP}",
        cause="reply_source_differs",
        words=(VIP, RIP),
        cure="nft delete table ip s",
    ),
    Fault(
        name="the application is down",
        host="rs1",
        script="service nginx stop",
        cause="not_listening",
        words=(RIP, "80"),
        cure="service nginx start",
    ),
    Fault(
        name="the application listens on the server's own address",
        host="rs1",
        script=f"sed -i.old 's/listen 80;/listen {RIP}:80;/; /listen \\[/d' {NGINX}; service nginx restart",
        cause="not_listening_on_vip",
        words=(RIP, VIP),
        cure=f"mv {NGINX}.old {NGINX}; service nginx restart",
    ),
    Fault(
        name="a firewall rejects the port",
        host="rs1",
        script=f"{FILTER} tcp dport 80 reject",
        cause="server_firewall",
        words=(RIP, "80"),
        cure=NO_FILTER,
    ),
    Fault(
        name="a firewall drops the port",
        host="rs1",
        script=f"{FILTER} tcp dport 80 drop",
        cause="server_firewall",
        words=(RIP, "80"),
        cure=NO_FILTER,
    ),
    Fault(
        name="a firewall drops the virtual address",
        host="rs1",
        script=f"{FILTER} ip daddr {VIP} drop",
        cause="vip_packets_lost",
        words=(RIP, VIP),
        cure=NO_FILTER,
    ),
    Fault(
        name="a firewall drops everything but ARP",
        host="rs1",
        script=f"{FILTER} meta protocol ip drop",
        cause="server_silent",
        words=(RIP,),
        cure=NO_FILTER,
    ),
    Fault(
        name="the server is down",
        host="rs1",
        script="ip link set eth0 down",
        cause="neighbour_silent",
        words=(RIP, "eth0"),
        cure="ip link set eth0 up",
    ),
    Fault(
        name="two servers with one address",
        host="rs2",
        script=f"ip address add {RIP}/24 dev eth0",
        cause="server_twice",
        words=(RIP, "02:00:00:01:01:00", "02:00:00:01:02:00"),
        cure=f"ip address del {RIP}/24 dev eth0",
    ),
    Fault(
        name="a blackhole",
        host="director",
        script=f"ip route add blackhole {RIP}/32",
        cause="route_drops",
        words=(RIP, "blackhole"),
    ),
    Fault(
        name="a route by a gateway",
        host="director",
        script=f"ip route add {RIP}/32 via 10.0.0.22",
        cause="server_behind_gateway",
        words=(RIP, "10.0.0.22"),
        cure=f"ip route del {RIP}/32",
    ),
    Fault(
        name="a rule that drops",
        host="director",
        script=f"ip rule add to {RIP} blackhole priority 50",
        cause="route_drops",
        words=(RIP, "priority 50"),
    ),
    Fault(
        name="no virtual address, on a host that ignores echo requests",
        host="rs1",
        script=f"sysctl -q -w net.ipv4.icmp_echo_ignore_all=1; ip address del {VIP}/32 dev lo",
        cause="server_lacks_vip",
        words=(VIP, RIP),
        rest="sysctl -q -w net.ipv4.icmp_echo_ignore_all=0",
    ),
    Fault(
        name="a real server drops what the director itself sends",
        host="rs1",
        script=f"{FILTER} ip saddr 10.0.0.10 drop",
        cause="server_silent",
        words=("clients have just completed connections",),
        cure=NO_FILTER,
        steady=True,
        noticed="until ipvsadm -Lnc | grep -q 'FIN_WAIT.* 10.0.0.21:80'; do sleep 0.1; done",
    ),
    Fault(
        name="another host has the director's address",
        host="rs2",
        script="ip address add 10.0.0.10/32 dev eth0",
        cause="own_address_twice",
        words=("10.0.0.10", "02:00:00:01:02:00"),
        cure="ip address del 10.0.0.10/32 dev eth0",
    ),
    Fault(
        name="the virtual address is the first one of its network",
        host="director",
        script=FIRST_ADDRESS,
        cause="source_is_virtual",
        words=(VIP, RIP, "10.0.0.10", "eth0"),
        rest="sysctl -q -w net.ipv4.conf.eth0.promote_secondaries=0",
    ),
    Fault(
        name="the addresses are on a port of a bridge",
        host="director",
        script=BRIDGED,
        cause="address_on_port",
        words=("10.0.0.10", VIP, "br0"),
        cure="ip link del br0",
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    with built() as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


# A second card in the same network: the host answers ARP for its address by both, and is one host.
SECOND_CARD = (
    "ip link add link eth0 name eth1 type macvlan mode bridge; ip link set eth1 up;"
    " ip address add 10.0.0.121/24 dev eth1; for d in all lo eth0; do sysctl -q -w net.ipv4.conf.$d.arp_ignore=0; done;"
    " nft add table arp f; nft add chain arp f i '{ type filter hook input priority 0; }';"
    f" nft add rule arp f i arp daddr ip {VIP} drop"
)
ONE_CARD = (
    "ip link del eth1; nft delete table arp f; for d in all eth0; do sysctl -q -w net.ipv4.conf.$d.arp_ignore=1; done"
)


@pytest.mark.parametrize(
    ("director", "server", "undo"),
    [
        pytest.param(":", SECOND_CARD, (":", ONE_CARD), id="a real server has two cards in one network"),
        pytest.param(
            f"ip neigh replace {RIP} lladdr 02:00:00:01:01:00 nud permanent dev eth0",
            "sysctl -q -w net.ipv4.conf.eth0.arp_ignore=8",
            (f"ip neigh del {RIP} dev eth0", "sysctl -q -w net.ipv4.conf.eth0.arp_ignore=1"),
            id="a static entry of a real server that answers no ARP",
        ),
        pytest.param(
            f"ipvsadm -C; ipvsadm -A -u {VIP}:514 -s rr; ipvsadm -a -u {VIP}:514 -r {RIP} -g;"
            f" ipvsadm -A -t {VIP}:80 -s rr; ipvsadm -a -t {VIP}:80 -r 10.0.0.22 -g",
            f"{SYSLOG}; {FILTER} udp dport 514 accept; {FILTER} drop",
            (WEB, f"kill $(cat /run/syslog); {NO_FILTER}"),
            id="a firewall accepts the datagrams of a service alone, which have no reply",
        ),
    ],
)
def test_what_is_unusual_and_works_has_no_finding(lab: Lab, director: str, server: str, undo: tuple[str, str]) -> None:
    """No host is blamed for an answer that it need not give."""
    lab.sh("rs1", server)
    lab.sh("director", f"{director}; ip neigh flush all")
    try:
        assert all(each.startswith("This is rs") for each in answers(lab, 2))
        assert diagnosed(lab) == []
    finally:
        lab.sh("rs1", undo[1])
        lab.sh("director", undo[0])


def test_replies_that_are_sent_to_the_director() -> None:
    """As NAT needs them. The director has no use for a packet from its own address."""
    words = (RIP, "172.16.0.5", "via 10.0.0.1")
    fault = Fault("", "rs1", "ip route replace default via 10.0.0.10", "reply_through_director", words, steady=True)
    with built("dr-behind-router") as routed:
        plant(routed, fault)
        mend(routed, fault, recognized(routed, fault))
        settle(routed, fault)
        until(lambda: diagnosed(routed) == [], "no connection waits any more")


# Replies from the address of the route, not from the one that was asked.
ECHOES = f"""setsid {PYTHON} -c '
import socket
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.bind(("", 7))
while True:
    data, client = end.recvfrom(2000)
    end.sendto(data, client)
' >/dev/null 2>&1 & echo $! >/run/echoes; until ss -Hlun | grep -q :7; do sleep 0.05; done"""


def test_an_application_of_udp_that_replies_from_another_address(lab: Lab) -> None:
    """It is bound to no address, so the kernel chooses the source."""
    lab.sh("rs1", ECHOES)
    add = f"ipvsadm -A -u {VIP}:7 -s rr; ipvsadm -a -u {VIP}:7 -r {RIP} -g"
    examine(lab, Fault("", "director", add, "reply_source_differs", (VIP, RIP), cure=f"ipvsadm -D -u {VIP}:7"))
    lab.sh("rs1", "kill $(cat /run/echoes)")


def test_services_of_marks_are_asked_at_the_addresses_of_their_rules(lab: Lab) -> None:
    """A mark has no address of its own."""
    commands = f"pylvs mark add --dst {VIP} --proto tcp --dports 80,443 7; ipvsadm -C; ipvsadm -A -f 7 -s rr"
    lab.sh("director", f"ipvsadm -Sn >table; {commands}; ipvsadm -a -f 7 -r {RIP} -g")
    try:
        assert diagnosed(lab) == []
        lab.sh("rs1", f"ip address del {VIP}/32 dev lo")
        (found,) = diagnosed(lab)
        assert found["id"] == "server_lacks_vip"
        lab.sh("rs1", found["fix_command"])
        assert diagnosed(lab) == []
    finally:
        lab.sh("director", "ipvsadm -C; pylvs mark del --all; ipvsadm -R <table")


def test_a_server_without_weight_is_not_asked(lab: Lab) -> None:
    """A server that was taken out is no finding, even if it is dead."""
    lab.sh("director", f"ipvsadm -e -t {VIP}:80 -r {RIP} -g -w 0")
    lab.sh("rs1", "service nginx stop")
    try:
        assert diagnosed(lab) == []
    finally:
        lab.sh("rs1", "service nginx start")
        lab.sh("director", f"ipvsadm -e -t {VIP}:80 -r {RIP} -g -w 1")


DIRECTOR = "02:00:00:00:0d:00"
# Whether listings have all packets so far: the estimator has run since.
LISTED = """
import sys
from pylvs.dataplane.reader import Statistics
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
tables = Tables(State.open())
found = Statistics(tables)
sys.exit(any(found.counted(slot) != found.passed(slot) for slot in range(tables.book.get(0, "destination_top"))))
"""
CONNECTIONS = "ipvsadm -Lnc | awk '{ print $1, $3, $4, $5, $6 }'"
STATE = (
    *("ipvsadm -Sn", CONNECTIONS, "ipvsadm -Ln --stats --exact"),
    *("pylvs sysctl -a", "sysctl -a -r '^net.ipv[46].(conf|neigh|route|ip_)'", "nft list ruleset"),
    *("ip -o address", "ip -o link", "ip route show table all", "ip rule"),
)


def state(lab: Lab) -> dict[str, str]:
    """Return the director's state, the link addresses that others know for the VIP, and half-open connections.

    A server without the VIP learns the director's link address, which is right.
    """
    found = {command: lab.sh("director", command) for command in STATE}
    for host in "client", "rs1", "rs2":
        found[host] = lab.sh(host, f"ip neigh show to {VIP} | grep -v {DIRECTOR}; ss -Htan state syn-recv")
    return found


def test_the_doctor_changes_nothing(lab: Lab) -> None:
    """Neither a table nor a counter, no setting, no link address that another host has learned, no open handshake."""
    lab.sh("rs1", f"ip address del {VIP}/32 dev lo")
    lab.sh("client", "for n in 1 2; do curl -s -o /dev/null --max-time 1 http://VIP/; done; true")
    lab.sh("client", f"ip neigh show to {VIP} | grep -q {DIRECTOR}")
    lab.sh("director", f"until {PYTHON} -c '{LISTED}'; do sleep 0.1; done")
    before = state(lab)
    assert diagnosed(lab)
    after = state(lab)
    former, latter = (set(each.pop(CONNECTIONS).splitlines()) for each in (before, after))
    assert latter <= former  # some may have expired
    assert after == before
    lab.sh("rs1", f"ip address add {VIP}/32 dev lo")
    assert diagnosed(lab) == []
    assert not any(lab.sh(host, "ss -Htan state syn-recv") for host in ("rs1", "rs2"))


def test_a_link_with_a_smaller_mtu(lab: Lab) -> None:
    """Small packets arrive, long ones disappear; the route to the server tells clients."""
    fault = Fault("", "rs1", "ip link set eth0 mtu 1400", "path_mtu", (RIP, "1400"), rest="ip link set eth0 mtu 1500")
    examine(lab, fault)
    lab.sh("director", f"ip route del {RIP}/32")
    assert diagnosed(lab) == []


def test_a_destination_that_is_a_client(lab: Lab) -> None:
    """Its address is not that of a real server."""
    add = f"ipvsadm -a -t {VIP}:80 -r 10.0.0.5 -g"
    cure = f"ipvsadm -d -t {VIP}:80 -r 10.0.0.5"
    examine(lab, Fault("", "director", add, "server_is_client", ("10.0.0.5",), cure=cure, requests=3))
