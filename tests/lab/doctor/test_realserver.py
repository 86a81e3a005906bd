"""`pylvs doctor` on a real server: what it does with packets to a virtual address, and with its replies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import END_REQUESTS, ENDLESS_REQUESTS, Fault, built, diagnosed, examine
from tests.lab.doctor.guard import PYTHON, guard
from tests.lab.doctor.test_address import EARLY_RULE, NO_EARLY_RULE
from tests.waiting import until

ARP = "net.ipv4.conf"
# A second device on the same link, with the route to the client.
SECOND = (
    "ip link add link eth0 name eth1 type macvlan mode bridge; ip link set eth1 up;"
    " ip address add 10.0.0.121/24 dev eth1 noprefixroute; ip route add 10.0.0.5/32 dev eth1 src 10.0.0.21;"
)
ROUTED = "ip route flush table 99; ip rule add from 10.0.0.100 table 99 priority 88; ip route add %s table 99"
CHAIN = "nft add table inet guard; nft add chain inet guard input '{ type filter hook input priority 0; policy %s; }'; "
LISTEN = "sed -i 's/listen %s;/listen %s;/' /etc/nginx/pylvs-lab.conf; service nginx restart"
WEB = (
    "for p in $(cat /var/lib/pylvs-lab/nginx.pid) $(pgrep -P $(cat /var/lib/pylvs-lab/nginx.pid)); do kill -%s $p; done"
)


def _on(name: str, script: str, cause: str, *words: str, cure: str | None = None, requests: int = 0) -> Fault:
    """Return a fault of the first real server, which runs the doctor as well."""
    return Fault(name=name, host="rs1", on="rs1", script=script, cause=cause, words=words, cure=cure, requests=requests)


FAULTS = [
    _on("no virtual address", "ip address del 10.0.0.100/32 dev lo", "server_lacks_vip", "10.0.0.100"),
    _on("lo is down", "ip link set lo down", "server_lo_down"),
    _on(
        "a netmask on lo",
        "ip address del 10.0.0.100/32 dev lo; ip address add 10.0.0.100/24 dev lo",
        "server_vip_netmask",
        "10.0.0.0/24",
    ),
    _on(
        "on eth0 instead of lo",
        "ip address del 10.0.0.100/32 dev lo; ip address add 10.0.0.100/24 dev eth0",
        "server_vip_on_link",
        "eth0",
    ),
    _on(
        "ARP is answered",
        f"sysctl -qw {ARP}.all.arp_ignore=0 {ARP}.eth0.arp_ignore=0",
        "server_answers_arp",
        "arp_ignore is 0",
    ),
    _on(
        "ARP requests with the virtual address",
        f"sysctl -qw {ARP}.all.arp_announce=0 {ARP}.eth0.arp_announce=1",
        "server_asks_with_vip",
        "arp_announce is 1",
    ),
    _on("no ARP at all", f"sysctl -qw {ARP}.eth0.arp_ignore=8", "server_answers_no_arp", "10.0.0.21"),
    _on(
        "the reverse path filter",
        f"{SECOND} sysctl -qw {ARP}.eth0.rp_filter=1",
        "server_rp_filter",
        "rp_filter is 1",
        requests=2,
    ),
    _on(
        "a blackhole route",
        "ip link del eth1 || :; ip route add blackhole 10.0.0.5",
        "server_reply_rejected",
        "10.0.0.5",
    ),
    _on(
        "a rule that prohibits replies",
        "ip rule add from 10.0.0.100 prohibit priority 77",
        "server_reply_rejected",
        "priority 77",
    ),
    _on(
        "no route in the table of the virtual address",
        ROUTED % "unreachable default",
        "server_reply_rejected",
        "table 99",
        cure="ip rule del priority 88; ip route del unreachable default table 99",
    ),
    _on(
        "nftables name the virtual address",
        CHAIN % "accept" + "nft add rule inet guard input ip daddr 10.0.0.100 drop",
        "server_firewall",
        "handle",
    ),
    _on(
        "nftables accept the real server's address alone",
        CHAIN % "drop"
        + "nft add rule inet guard input ct state established,related accept;"
        + " nft add rule inet guard input ip daddr 10.0.0.21 tcp dport 80 accept;"
        + " nft add rule inet guard input meta l4proto icmp accept",
        "server_firewall",
        "policy",
    ),
    _on(
        "nftables drop one client",
        "nft delete table inet guard 2>/dev/null; ping -c 1 -W 1 10.0.0.5 >/dev/null; "
        + CHAIN % "accept"
        + "nft add rule inet guard input ip saddr 10.0.0.5 ip daddr 10.0.0.100 drop",
        "server_firewall",
        "handle",
    ),
    _on("iptables drop the port", "iptables-nft -A INPUT -p tcp --dport 80 -j DROP", "server_firewall", "dport 80"),
    _on(
        "legacy iptables reject the virtual address",
        "iptables-legacy -t mangle -A PREROUTING -d 10.0.0.100/32 -p tcp -m multiport --dports 80,443 -j DROP",
        "server_firewall",
        "mangle",
    ),
    _on(
        "iptables drop replies",
        "iptables-nft -A OUTPUT -s 10.0.0.100/32 -p tcp -m tcp --sport 80 -j DROP",
        "server_firewall",
        "replies",
    ),
    _on(
        "the application listens on the real server's address alone",
        LISTEN % ("80", "10.0.0.21:80"),
        "not_listening_on_vip",
        "10.0.0.21:80",
        cure=LISTEN % ("10.0.0.21:80", "80"),
    ),
    _on(
        "the application does not run",
        "service nginx stop",
        "not_listening",
        "no socket",
        cure="service nginx start",
    ),
    _on(
        "the application hangs",
        WEB % "STOP",
        "server_not_accepting",
        "waiting connection",
        cure=WEB % "CONT",
        requests=2,
    ),
]


DEVICE_SOCKET = (
    "python3 -c \"import socket, time; s = socket.socket(); s.setsockopt(1, socket.SO_BINDTODEVICE, b'lo');"
    " s.bind(('0.0.0.0', 80)); s.listen(); time.sleep(600)\""
)
UNTRACKED = (
    "nft add table inet guard; nft add chain inet guard raw '{ type filter hook prerouting priority -300; }';"
    " nft add rule inet guard raw tcp dport 80 notrack;"
    " nft add chain inet guard input '{ type filter hook input priority 0; policy drop; }';"
    " nft add rule inet guard input meta l4proto icmp accept;"
    " nft add rule inet guard input ct state new,established,related accept"
)
HOST_ITSELF = [
    _on(
        "its addresses are on a port of a bridge",
        "ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0",
        "address_on_port",
        "10.0.0.21",
        "br0",
        cure="ip link del br0",
    ),
    _on(
        "the application is bound to lo",
        f"service nginx stop; {DEVICE_SOCKET} >/dev/null 2>&1 & echo $! >/run/bound;"
        " until ss -Hltn | grep -q '%lo:80'; do sleep 0.1; done",
        "not_listening_on_vip",
        "port 80 on lo",
        cure="kill $(cat /run/bound); while ss -Hltn | grep -q '%lo:80'; do sleep 0.1; done; service nginx start",
    ),
    _on(
        "the service is not tracked, and rules want a state",
        f"nft delete table inet guard 2>/dev/null; {UNTRACKED}",
        "server_firewall",
        "policy of chain inet guard input",
        cure="nft delete table inet guard",
    ),
    Fault(
        "a rule by the sender's link address",
        "rs1",
        f"nft delete table inet guard 2>/dev/null; {CHAIN % 'accept'}"
        "nft add rule inet guard input ether saddr != 02:00:00:00:0c:00 tcp dport 80 drop",
        "server_firewall",
        ("does not answer", "chain inet guard input"),
        on="rs1",
        cure="nft delete table inet guard",
        steady=True,
    ),
    Fault(
        "packets that a rule of IPsec drops",
        "rs1",
        "ip xfrm policy add dir in dst 10.0.0.100/32 action block",
        "server_requests_unanswered",
        ("10.0.0.100:80",),
        on="rs1",
        cure="ip xfrm policy flush",
        steady=True,
    ),
    Fault(
        name="its packet filter accepts the director alone",
        host="rs1",
        on="rs1",
        script="nft delete table inet guard 2>/dev/null || :; "
        + CHAIN % "drop"
        + "nft add rule inet guard input meta l4proto icmp accept;"
        " nft add rule inet guard input ip saddr 10.0.0.10 accept",
        cause="server_firewall",
        words=("accepts no client", "policy"),
        steady=True,
        rest="nft delete table inet guard",
    ),
]

NAT = "nft add table ip n; nft add chain ip n p '{ type nat hook prerouting priority -100; }'; nft add rule ip n p"

PATHS = [
    _on(
        "the local route of the virtual address is missing",
        "ip route del local 10.0.0.100 dev lo table local",
        "server_vip_routed_away",
        "table local has no route",
    ),
    _on(
        "a rule precedes the local routes",
        EARLY_RULE,
        "server_vip_routed_away",
        "the priorities 3",
        cure=f"ip rule del priority 3; {NO_EARLY_RULE}",
    ),
    _on(
        "a rule leads replies to a host that does not forward",
        ROUTED % "default via 10.0.0.22",
        "server_reply_misrouted",
        "by 10.0.0.22",
        "priority 88",
    ),
    _on("a rule leads replies to lo", ROUTED % "default dev lo", "server_reply_misrouted", "by lo"),
    _on(
        "a rule rejects replies of one port",
        "ip rule add from 10.0.0.100 ipproto tcp sport 80 blackhole priority 88",
        "server_reply_rejected",
        "priority 88",
    ),
    _on(
        "its address has no network",
        "ip address del 10.0.0.21/24 dev eth0; ip address add 10.0.0.21/32 dev eth0",
        "server_reply_unroutable",
        "no route to any other host",
        cure="ip address del 10.0.0.21/32 dev eth0; ip address add 10.0.0.21/24 dev eth0",
    ),
    _on(
        "nftables redirect the port",
        f"{NAT} ip daddr 10.0.0.100 tcp dport 80 redirect to :8081",
        "server_nat_rule",
        "10.0.0.100:80",
        "port 8081",
    ),
    _on(
        "iptables translate the address to a host that does not answer",
        "iptables-nft -t nat -A PREROUTING -d 10.0.0.100/32 -p tcp -m tcp --dport 80 -j DNAT"
        " --to-destination 10.0.0.22:8099",
        "server_nat_rule",
        "10.0.0.22:8099",
    ),
    _on(
        "nftables drop ARP at ingress",
        "nft add table netdev no; nft add chain netdev no i '{ type filter hook ingress device eth0 priority 0; }';"
        " nft add rule netdev no i ether type arp drop",
        "arp_filtered",
        "10.0.0.21",
    ),
]

GUARDS = [
    _on(
        "a static neighbour entry of the client",
        "ip neigh replace 10.0.0.5 lladdr 02:00:00:00:00:77 nud permanent dev eth0",
        "static_neighbour_wrong",
        "02:00:00:00:00:77",
    ),
    _on(
        "nftables drop ARP",
        "nft add table arp f; nft add chain arp f i '{ type filter hook input priority 0; }';"
        " nft add rule arp f i arp daddr ip 10.0.0.100 drop; nft add rule arp f i arp daddr ip 10.0.0.21 drop",
        "arp_filtered",
        "10.0.0.21",
    ),
    _on("ARP is off", "ip link set dev eth0 arp off", "device_without_arp", "eth0"),
    _on(
        "nftables drop at ingress",
        "nft add table netdev guard;"
        " nft add chain netdev guard in '{ type filter hook ingress device eth0 priority 0; }';"
        " nft add rule netdev guard in ip daddr 10.0.0.100 drop",
        "server_firewall",
        "netdev guard in",
    ),
    _on(
        "a filter of another tool drops",
        "tc qdisc add dev eth0 clsact;" + guard("ingress", 2),
        "foreign_program",
        "tc ingress",
    ),
]

INTERNAL = (
    CHAIN % "drop" + "nft add rule inet guard input ct state established accept;"
    " nft add rule inet guard input meta l4proto icmp accept;"
    " nft add rule inet guard input ip saddr 10.0.0.0/24 tcp dport 80 accept"
)

TUNNEL_FAULTS = [
    _on("nothing decapsulates", "tc qdisc del dev eth0 clsact", "server_not_decapsulating", "gue:6080"),
    _on(
        "the gateway of replies does not exist",
        "ip route replace default via 10.0.11.99",
        "server_next_hop_silent",
        "10.0.11.99",
        cure="ip route replace default via 10.0.11.1",
    ),
    _on(
        "another host is accepted as the director",
        "pylvs realserver up 10.0.0.100 --director 10.0.0.99",
        "server_tunnel_source",
        "10.0.0.99",
        cure="pylvs realserver down; pylvs realserver up 10.0.0.100 --tun-type gue --tun-port 6080",
        requests=2,
    ),
]

SIX_FAULTS = [
    _on("no IPv6 on lo", "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1", "server_lacks_vip", "disable_ipv6 is 1"),
    _on(
        "a virtual address of IPv6 on eth0",
        "ip address del fd00:10::100/128 dev lo; ip address add fd00:10::100/64 dev eth0 nodad",
        "server_vip_on_link",
        "neighbour discovery",
    ),
    _on(
        "rules for IPv6",
        "ip6tables-nft -A INPUT -p tcp -d fd00:10::100 -j REJECT",
        "server_firewall",
        "ip6tables-nft",
    ),
    _on(
        "ip6tables drop neighbour solicitations",
        "ip6tables-nft -A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j DROP",
        "discovery_filtered",
        "fd00:10::21",
        "ip6tables-nft",
    ),
    _on(
        "nftables drop neighbour advertisements",
        "nft add table inet nd; nft add chain inet nd o '{ type filter hook output priority 0; }';"
        " nft add rule inet nd o icmpv6 type nd-neighbor-advert drop",
        "discovery_filtered",
        "fd00:10::21",
        "inet nd o",
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab of direct routing, which the faults share."""
    with built() as made:
        yield made


@pytest.fixture(scope="module")
def untouched() -> Iterator[Lab]:
    """Return another one, without what the commands against faults leave: rules that drop, behind one that accepts."""
    with built() as made:
        yield made


@pytest.fixture(scope="module")
def tunnels() -> Iterator[Lab]:
    """Return a healthy lab of tunnels."""
    with built("tun", tunnel="gue") as made:
        yield made


@pytest.fixture(scope="module")
def six() -> Iterator[Lab]:
    """Return a healthy lab of IPv6."""
    with built("dr", 6) as made:
        yield made


@pytest.mark.parametrize("name", ["lab", "tunnels", "six"])
def test_a_healthy_real_server_has_no_finding(request: pytest.FixtureRequest, name: str) -> None:
    """`pylvs realserver up` is complete."""
    lab: Lab = request.getfixturevalue(name)
    assert diagnosed(lab, "rs1") == []
    assert diagnosed(lab, "rs1", lab.network.vip) == []


@pytest.mark.parametrize("fault", [*FAULTS, *PATHS, *GUARDS, *HOST_ITSELF], ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


@pytest.mark.parametrize("fault", TUNNEL_FAULTS, ids=lambda fault: fault.name)
def test_tunnels(tunnels: Lab, fault: Fault) -> None:
    """The same where the director encapsulates."""
    examine(tunnels, fault)


@pytest.mark.parametrize("fault", SIX_FAULTS, ids=lambda fault: fault.name)
def test_ipv6(six: Lab, fault: Fault) -> None:
    """The same where clients use IPv6."""
    examine(six, fault)


def test_clients_that_ask_now_show_that_replies_have_no_route(tunnels: Lab) -> None:
    """Without a default route a real server may be healthy: its clients may be on its link."""
    tunnels.sh("rs1", "ip route del default")
    assert diagnosed(tunnels, "rs1") == []
    tunnels.sh("client", ENDLESS_REQUESTS)
    try:
        until(lambda: "TcpExtListenDrops" in tunnels.sh("rs1", "nstat -s | grep ListenDrops || :"))
        (found,) = diagnosed(tunnels, "rs1")
    finally:
        tunnels.sh("client", END_REQUESTS)
    assert (found["id"], "172.16.0.5" in found["title"]) == ("server_reply_unroutable", True)
    tunnels.sh("rs1", "ip route add default via 10.0.11.1")
    assert diagnosed(tunnels, "rs1") == []


def test_a_port_that_is_translated_to_an_application_is_healthy(lab: Lab) -> None:
    """A real server may serve the port by another one."""
    lab.sh("rs1", f"nft delete table ip n 2>/dev/null; {NAT} ip daddr 10.0.0.100 tcp dport 81 redirect to :80")
    assert diagnosed(lab, "rs1") == []
    lab.sh("rs1", "nft delete table ip n")


# What Docker makes of a published port, without its proxy: no socket of this host listens on it.
CONTAINER = f"""
service nginx stop
ip netns add box; ip link add box type bridge; ip link set box up; ip address add 172.17.0.1/16 dev box
ip link add box0 type veth peer name eth0 netns box; ip link set box0 master box up
ip -n box link set eth0 up; ip -n box address add 172.17.0.2/16 dev eth0; ip -n box route add default via 172.17.0.1
sysctl -q -w net.ipv4.ip_forward=1
iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 80 -j DNAT --to 172.17.0.2:8000
setsid ip netns exec box {PYTHON} -m http.server 8000 >/dev/null 2>&1 & echo $! >/run/box
until curl -s -o /dev/null --max-time 1 http://172.17.0.2:8000/; do sleep 0.1; done
"""
NO_CONTAINER = (
    "kill $(cat /run/box); iptables-nft -t nat -F PREROUTING; ip link del box; ip netns del box;"
    " sysctl -q -w net.ipv4.ip_forward=0; service nginx start"
)


def test_a_port_of_a_container_is_healthy(untouched: Lab) -> None:
    """A rule of NAT leads to the application, so no socket of the real server listens."""
    untouched.sh("rs1", CONTAINER)
    try:
        untouched.sh("client", "for n in 1 2; do curl -s -f -o /dev/null --max-time 10 http://VIP/; done")
        assert diagnosed(untouched, "rs1") == []
    finally:
        untouched.sh("rs1", NO_CONTAINER)


def test_an_address_of_the_director_is_virtual() -> None:
    """Although nothing else tells this real server of it: it is alone on a card, and another host answers for it."""
    fault = _on("", "ip address add 10.0.0.101/32 dev eth0", "server_vip_on_link", "10.0.0.101", "02:00:00:00:0d:00")
    with built() as lab:
        lab.sh("director", "ip address add 10.0.0.101/32 dev eth0")
        examine(lab, fault)


@pytest.mark.parametrize(
    ("script", "undo"),
    [
        ("ip route add local 10.0.0.100/32 dev lo", "ip route del local 10.0.0.100/32 dev lo"),
        (
            "iptables-nft -t nat -A PREROUTING -d 10.0.0.100/32 -p tcp -m tcp --dport 80 -j REDIRECT",
            "iptables-nft -t nat -F PREROUTING",
        ),
    ],
    ids=["by a local route", "by a rule that redirects"],
)
def test_packets_that_are_taken_without_the_address_are_healthy(untouched: Lab, script: str, undo: str) -> None:
    """Real servers of direct routing need not have the virtual address itself."""
    untouched.sh("rs1", f"ip address del 10.0.0.100/32 dev lo; {script}")
    try:
        untouched.sh("client", "for n in 1 2; do curl -s -f -o /dev/null --max-time 10 http://VIP/; done")
        assert diagnosed(untouched, "rs1") == []
    finally:
        untouched.sh("rs1", f"{undo}; ip address add 10.0.0.100/32 dev lo")


def test_replies_by_a_router_of_their_own_are_healthy() -> None:
    """Replies from the virtual address may take another way, if it is one."""
    with built("dr-routed") as lab:
        lab.sh("rs1", "ip rule add from 10.0.1.100 table 99 priority 88; ip route add default via 10.0.0.1 table 99")
        assert diagnosed(lab, "rs1") == []


def test_a_service_for_one_network_is_healthy(lab: Lab) -> None:
    """Rules may keep other clients out, at the virtual address as at the real server's own."""
    lab.sh("rs1", f"nft delete table inet guard 2>/dev/null; ping -c 1 -W 1 10.0.0.5; {INTERNAL}")
    assert diagnosed(lab, "rs1") == []
    lab.sh("rs1", "nft delete table inet guard")
