"""Two directors and one VIP: VRRP chooses the master, which forwards by direct routing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pylvs.lab.files import CONFIGURATION
from pylvs.lab.network import DIRECTOR, Host, Network, Switch
from pylvs.lab.plan import AddressPlan, AnyInterface, built_in
from pylvs.lab.topologies import parts

MASTER, BACKUP = ("MASTER", 100), ("BACKUP", 90)
VRID = 51
CHECKED_EVERY_S = 2
LINK_LOCAL = "fe80::100/64"  # VRRP version 3 over IPv6 requires a link-local address as the first (RFC 9568, 5.2.9)


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses."""
    return built_in(servers, version, dip2=("lan", 11))


def network(plan: AddressPlan) -> Network:
    """Return the network. director1 starts as the master; director2 runs the plan's `peer`."""
    assert plan.dip2 is not None
    vip = str(plan.vip.ip)
    # The lab is up when the VIP serves and director1 holds it.
    serves = f"curl -s --max-time 1 http://{f'[{vip}]' if plan.version == 6 else vip}/"
    return parts.network(
        plan,
        "ha",
        "two directors, one VIP, all hosts on one switch",
        "client → the director that is MASTER → real server → client; the other director waits",
        [Switch("lan", str(plan.dip.network))],
        [
            replace(parts.client(plan, "lan", plan.gateway), awaits=serves),
            _director(plan, 1, plan.dip, MASTER, "pylvs"),
            _director(plan, 2, plan.dip2, BACKUP, plan.peer),
            *parts.servers(plan, "lan", plan.gateway, vip),
        ],
    )


def _director(plan: AddressPlan, number: int, dip: AnyInterface, role: tuple[str, int], program: str) -> Host:
    """Return a director. The backup starts when the VIP answers, so director1 is always the first master."""
    return Host(
        f"{DIRECTOR}{number}",
        DIRECTOR,
        (parts.card(DIRECTOR, "lan", [(dip, "DIP")], plan.device, number=number - 1),),
        gateway=str(plan.gateway.ip) if plan.gateway else "",
        shared_vip_device=plan.device,
        commands=(f"service {program} start",),
        files={CONFIGURATION: configuration(plan, *role)},
        awaits=f"ip -o addr show to {plan.vip.ip} | grep -q ." if role is MASTER else "",
        follows="" if role is MASTER else f"ping -c 1 -W 1 {plan.vip.ip}",
    )


def configuration(plan: AddressPlan, state: str, priority: int) -> str:
    """Return the keepalived.conf of a director."""
    return "".join(f"{line}\n" for line in (*_router(plan, state, priority), *_service(plan)))


def _router(plan: AddressPlan, state: str, priority: int) -> Iterator[str]:
    yield "vrrp_instance VI_1 {"
    yield f"    state {state}"
    yield f"    interface {plan.device}"
    yield f"    virtual_router_id {VRID}"
    yield f"    priority {priority}"
    yield "    advert_int 1"
    if plan.version == 4:
        yield "    authentication {"
        yield "        auth_type PASS"
        yield "        auth_pass lab"
        yield "    }"
    yield "    virtual_ipaddress {"
    if plan.version == 6:
        yield f"        {LINK_LOCAL}"
    yield f"        {plan.vip}"
    yield "    }"
    yield "}"


def _service(plan: AddressPlan) -> Iterator[str]:
    yield f"virtual_server {plan.vip.ip} {plan.port} {{"
    yield f"    delay_loop {CHECKED_EVERY_S}"
    yield f"    lb_algo {plan.scheduler}"
    yield "    lb_kind DR"
    yield "    protocol TCP"
    for server in plan.servers:
        yield f"    real_server {server.ip} {plan.port} {{"
        yield "        TCP_CHECK {"
        yield f"            connect_timeout {CHECKED_EVERY_S}"
        yield "        }"
        yield "    }"
    yield "}"
