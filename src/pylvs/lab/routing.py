"""The routing of the lab ecmp: configurations of BIRD, FRR and GoBGP, and their service."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.lab.plan import AddressPlan, AnyInterface

BIRD, FRR, GOBGP = "bird", "frr", "gobgp"
CONFIGURATIONS = {BIRD: "/etc/bird/bird.conf", FRR: "/etc/frr/frr.conf", GOBGP: "/etc/gobgp/gobgpd.toml"}
ROUTER_AS, DIRECTORS_AS = 65000, 65001
HOLD_S = 3  # without a message for so long a director is dead

# Of each host with a routing daemon; /usr/sbin/service calls it.
ROUTING_SERVICE = """#!/bin/sh
# Runs the routing daemon of a host: BIRD, FRR or GoBGP. Part of a pylvs lab.
name=$1 action=$2
start_bird() {
    mkdir -p /run/bird
    bird
}
stop_bird() { birdc down >/dev/null; while [ -e /run/bird/bird.ctl ]; do sleep 0.05; done; }
start_of_frr() {
    mkdir -p /run/frr /var/log/frr
    chown frr:frr /run/frr /var/log/frr
    for program; do
        /usr/lib/frr/$program -d -A 127.0.0.1 -P 0 --log file:/var/log/frr/$program.log -f /dev/null || exit
        until [ -S /run/frr/$program.vty ]; do sleep 0.05; done
    done
}
start_frr() { start_of_frr zebra bgpd; vtysh -b >/dev/null; }
start_gobgp() {
    mkdir -p /run/frr
    setsid gobgpd -f /etc/gobgp/gobgpd.toml -p --pprof-disable --api-hosts 127.0.0.1:50051 \\
        </dev/null >>/var/log/gobgpd.log 2>&1 &
    echo $! >/run/frr/gobgpd.pid
    until gobgp global >/dev/null 2>&1; do sleep 0.05; done
    setsid /usr/local/sbin/gobgp-addresses </dev/null >>/var/log/gobgpd.log 2>&1 &
}
stop_programs() {
    for program; do
        pid=$(cat /run/frr/$program.pid) && kill "$pid"
        while grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null; do sleep 0.05; done
    done
}
stop_frr() { stop_programs bgpd zebra; }
stop_gobgp() { stop_programs gobgpd; }  # gobgp-addresses then ends, too
case $action in
    start) start_$name ;;
    stop) stop_$name ;;
    restart) stop_$name; start_$name ;;
    *) echo "usage: service $name start|stop|restart" >&2; exit 2 ;;
esac
"""


# GoBGP reads no devices. This follows them, and tells GoBGP.
GOBGP_ADDRESSES = """#!/bin/sh
# Lets GoBGP announce the addresses of pylvs's devices as they come and go, until GoBGP ends.
state=
{ echo; exec ip -o monitor address; } | while read -r _; do
    now=$(for device in pylvs-up pylvs-leaving; do
        ip -o address show dev $device 2>/dev/null | awk -v on=$device '
            { print $4, $3 == "inet6" ? "ipv6" : "ipv4", on }'
    done | sort -s -u -k1,1)
    [ "$now" != "$state" ] || continue
    echo "$state" | while read -r address family _; do
        [ -z "$address" ] || echo "$now" | grep -q "^$address " || gobgp global rib del "$address" -a "$family"
    done || exit
    echo "$now" | while read -r address family device; do
        case $device in
            pylvs-up) gobgp global rib add "$address" med 100 -a "$family" || exit ;;
            pylvs-leaving) gobgp global rib add "$address" med 200 community 65535:0 -a "$family" || exit ;;
        esac
    done || exit
    state=$now
done
"""


def directors_of(plan: AddressPlan, count: int) -> list[AnyInterface]:
    """Return the addresses of directors, from the plan's DIP on."""
    return [type(plan.dip)((int(plan.dip.ip) + number, plan.dip.network.prefixlen)) for number in range(count)]


def _router_id(address: AnyInterface) -> str:
    """Return an IPv4 address, which BGP needs of IPv6 routers, too."""
    return str(address.ip) if address.version == 4 else str(ip_address(0x0A000000 | int(address.ip) & 0xFF))


def router_program(program: str) -> str:
    """Return the routing daemon of the router: GoBGP does not put several best paths into the kernel."""
    return BIRD if program == GOBGP else program


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


def _gobgp_conf(plan: AddressPlan, dip: AnyInterface) -> str:
    """Return the configuration of GoBGP; `GOBGP_ADDRESSES` adds the addresses."""
    assert plan.gateway is not None
    return f"""\
[global.config]
  as = {DIRECTORS_AS}
  router-id = "{_router_id(dip)}"
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{plan.gateway.ip}"
    peer-as = {ROUTER_AS}
  [neighbors.timers.config]
    connect-retry = 1
    hold-time = {HOLD_S}
    keepalive-interval = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv{plan.version}-unicast"
"""


def director_conf(program: str, plan: AddressPlan, dip: AnyInterface) -> str:
    """Return the configuration of a director: announce the addresses that pylvs puts on its devices."""
    assert plan.gateway is not None
    if program == GOBGP:
        return _gobgp_conf(plan, dip)
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
