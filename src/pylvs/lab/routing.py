"""The routing of the lab ecmp: configurations of BIRD and FRR, for the router and the directors, and their service."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.lab.plan import AddressPlan, AnyInterface

BIRD, FRR = "bird", "frr"
CONFIGURATIONS = {BIRD: "/etc/bird/bird.conf", FRR: "/etc/frr/frr.conf"}
ROUTER_AS, DIRECTORS_AS = 65000, 65001
HOLD_S = 3  # without a message for so long a director is dead

# Of each host with a routing daemon; /usr/sbin/service calls it.
ROUTING_SERVICE = """#!/bin/sh
# Runs the routing daemon of a host, BIRD or FRR. Part of a pylvs lab.
name=$1 action=$2
start_bird() {
    mkdir -p /run/bird
    bird
}
stop_bird() { birdc down >/dev/null; while [ -e /run/bird/bird.ctl ]; do sleep 0.05; done; }
start_frr() {
    mkdir -p /run/frr /var/log/frr
    chown frr:frr /run/frr /var/log/frr
    for program in zebra bgpd; do
        /usr/lib/frr/$program -d -A 127.0.0.1 -P 0 --log file:/var/log/frr/$program.log -f /dev/null || exit
    done
    until [ -S /run/frr/zebra.vty ] && [ -S /run/frr/bgpd.vty ]; do sleep 0.05; done
    vtysh -b >/dev/null
}
stop_frr() {
    for program in bgpd zebra; do
        pid=$(cat /run/frr/$program.pid) && kill "$pid"
        while grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null; do sleep 0.05; done
    done
}
case $action in
    start) start_$name ;;
    stop) stop_$name ;;
    restart) stop_$name; start_$name ;;
    *) echo "usage: service $name start|stop|restart" >&2; exit 2 ;;
esac
"""


def directors_of(plan: AddressPlan, count: int) -> list[AnyInterface]:
    """Return the addresses of directors, from the plan's DIP on."""
    return [type(plan.dip)((int(plan.dip.ip) + number, plan.dip.network.prefixlen)) for number in range(count)]


def _router_id(address: AnyInterface) -> str:
    """Return an IPv4 address, which BGP needs of IPv6 routers, too."""
    return str(address.ip) if address.version == 4 else str(ip_address(0x0A000000 | int(address.ip) & 0xFF))


def router_conf(program: str, plan: AddressPlan) -> str:
    """Return the configuration of the router: sessions with all directors, and all best paths in the kernel."""
    assert plan.gateway is not None
    family, network = f"ipv{plan.version}", plan.gateway.network
    if program == BIRD:
        return f"""\
router id {_router_id(plan.gateway)};
protocol device {{ }}
protocol kernel {{
    merge paths on;
    {family} {{ import none; export all; }};
}}
filter from_directors {{
    if (65535, 0) ~ bgp_community then bgp_local_pref = 0;  # GRACEFUL_SHUTDOWN (RFC 8326)
    accept;
}}
protocol bgp directors {{
    local as {ROUTER_AS};
    neighbor range {network} as {DIRECTORS_AS};
    dynamic name "director";
    hold time {HOLD_S};
    {family} {{ import filter from_directors; export none; }};
}}
"""
    return f"""\
router bgp {ROUTER_AS}
 bgp router-id {_router_id(plan.gateway)}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor directors peer-group
 neighbor directors remote-as {DIRECTORS_AS}
 neighbor directors timers 1 {HOLD_S}
 bgp listen range {network} peer-group directors
 address-family {family} unicast
  neighbor directors activate
  maximum-paths 64
 exit-address-family
exit
"""


def director_conf(program: str, plan: AddressPlan, dip: AnyInterface) -> str:
    """Return the configuration of a director: announce the addresses that pylvs puts on its devices."""
    assert plan.gateway is not None
    family, router = f"ipv{plan.version}", plan.gateway.ip
    if program == BIRD:
        return f"""\
router id {_router_id(dip)};
protocol device {{ }}
protocol direct {{
    {family};
    interface "pylvs-up", "pylvs-leaving";
}}
filter vips {{
    bgp_med = 100;
    if ifname = "pylvs-leaving" then {{
        bgp_med = 200;
        bgp_community.add((65535, 0));  # GRACEFUL_SHUTDOWN (RFC 8326)
    }}
    accept;
}}
protocol bgp router1 {{
    local as {DIRECTORS_AS};
    neighbor {router} as {ROUTER_AS};
    connect retry time 1;
    connect delay time 1;
    error wait time 1, 5;
    hold time {HOLD_S};
    {family} {{ import none; export filter vips; }};
}}
"""
    return f"""\
router bgp {DIRECTORS_AS}
 bgp router-id {_router_id(dip)}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor {router} remote-as {ROUTER_AS}
 neighbor {router} timers 1 {HOLD_S}
 neighbor {router} timers connect 1
 address-family {family} unicast
  redistribute connected route-map VIPS
  neighbor {router} activate
  neighbor {router} send-community
 exit-address-family
exit
route-map VIPS permit 10
 match interface pylvs-up
 set origin igp
exit
route-map VIPS permit 20
 match interface pylvs-leaving
 set origin igp
 set community graceful-shutdown
exit
"""
