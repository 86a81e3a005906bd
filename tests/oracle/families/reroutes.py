"""Replies of NAT where routing from the virtual address differs from routing by the real server's (snat_reroute)."""

from __future__ import annotations

from families.common import Steps, payload, service
from plan import Plan
from wire import Wire

TABLE = "100"
ROUTES = ("another gateway", "a smaller MTU", "a larger MTU", "unreachable", "blackhole", "prohibit", "no route")


def run(wire: Wire, plan: Plan, *, family: int = 4, port: int = 80, far: int = 40, mtu: int = 1400) -> Steps:
    """A client behind the gateway, and each kind of route from the virtual address."""
    steps = Steps(wire)
    a = plan.of(family)
    six = () if family == 4 else ("-6",)
    client, vip, real = (a.far(far), 2800), (a.vip(1), port), (a.real(1), port)
    head = 40 if family == 4 else 60
    for kind in ROUTES:
        for reroute in 1, 0:
            steps.under(f"v{family} {kind} snat_reroute {reroute}")
            wire.fresh(plan=plan, ip_forward=1)
            wire.sysctl(snat_reroute=reroute)
            usual = ("default", "via", a.gateway, "dev", "d0")
            routes = {
                "another gateway": ("default", "via", a.real(2), "dev", "d0"),
                "a smaller MTU": (*usual, "mtu", "lock", str(mtu)),
                "a larger MTU": usual,
                "no route": (f"{a.far(far + 1)}/{32 if family == 4 else 128}", "via", a.gateway, "dev", "d0"),
            }
            wire.command("ip", *six, "route", "add", *routes.get(kind, (kind, "default")), "table", TABLE)
            if kind == "a larger MTU":
                wire.command("ip", *six, "route", "replace", *usual, "mtu", "lock", str(mtu))
            wire.command("ip", *six, "rule", "add", "from", a.vip(1), "lookup", TABLE, "pref", "90")
            if kind == "no route":  # nor by the main table
                wire.command("ip", *six, "rule", "add", "from", a.vip(1), "unreachable", "pref", "91")
            for letter in "-t", "-u":
                service(wire, f"{letter} {a.at(*vip)}", "nat", [a.at(*real)])
            steps.send("SYN", wire.tcp(client, vip, "S", ip={"ident": 5}))
            steps.send("its answer", wire.tcp(real, client, "SA", ip={"ident": 6}))
            for size in mtu, mtu + 1, 1500:
                data = payload(size - head)
                steps.send(f"TCP of {size} bytes", wire.tcp(real, client, "PA", data=data, ip={"ident": 7, "df": True}))
            steps.send("TCP with TTL 1", wire.tcp(real, client, "A", ip={"ident": 7, "ttl": 1}))
            steps.send("UDP", wire.udp(client, vip, ip={"ident": 8}))
            data = payload(1500 - head + 12)
            steps.send("UDP of 1500 bytes", wire.udp(real, client, data=data, ip={"ident": 9}))
            steps.both("tables")
    return steps
