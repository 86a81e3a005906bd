"""Virtual addresses that no device has, and checks that take another path than the packets of clients."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from pylvs.daemon.paths import path_problems
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, HttpCheck, MiscCheck, Script, Target, TcpCheck, Url
from pylvs.model.routing import HeldAddress
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey
from pylvs.model.vrrp import Notify, VrrpConfiguration, VrrpInstance
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.netlink.links import LOCAL_ROUTE, Route, Routes

VIP, OTHER, RIP = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("10.0.0.9")
GATEWAY = ip_address("10.0.0.254")
DEVICES = {1: "lo", 2: "eth0", 3: "eth1"}


class Known(Routes):
    """Routes that a test knows."""

    def __init__(self, **routes: Route | None) -> None:
        super().__init__()
        self.routes = {name.replace("_", "."): route for name, route in routes.items()}

    def to(self, address: Address) -> Route | None:
        return self.routes.get(f"to.{address}", on_link(2))


def on_link(index: int) -> Route:
    return Route(index, None, None, 1, 0)


def through(gateway: Address) -> Route:
    return Route(2, gateway, None, 1, 0)


LOCAL = Route(1, None, None, LOCAL_ROUTE, 0)


@pytest.fixture(autouse=True)
def _devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_indextoname", DEVICES.__getitem__)


def service(*checks: Check, vip: Address = VIP, method: Method = Method.ROUTE, **more: Any) -> WantedService:
    key = ServiceKey(Protocol.TCP, vip, 80)
    server = WantedServer(Destination(DestinationKey(RIP, 80), method), checks)
    return WantedService(str(key), (key,), servers=(server,), **more)


def tcp(**target: Any) -> TcpCheck:
    return TcpCheck(target=replace(Target(RIP, 80), **target))


def found(
    *services: WantedService, here: tuple[Address, ...] = (VIP,), **routes: Route | None
) -> list[tuple[str, str]]:
    problems = path_problems(Configuration(services), here, Known(**routes))
    return [(each.kind, each.text) for each in problems]


def test_an_address_that_no_device_has() -> None:
    missing = "no device has it, and no virtual router adds it"
    name = "TCP 192.0.2.1:80"
    silent = f"{missing}; ARP and ND requests for it get no reply ({name})"
    assert found(service()) == []
    assert found(service(), here=()) == [("vip", silent)]
    routed: Any = {"to_192_0_2_1": through(GATEWAY)}
    assert found(service(), here=(), **routed) == [("vip", f"{missing} ({name})")]
    assert found(service(), here=(), to_192_0_2_1=LOCAL) == [], "ip route add local"
    assert found(service(ha_suspend=True), here=()) == []
    many = [service(), *(replace(service(), name=f"group {number}") for number in range(3))]
    assert found(*many, here=()) == [("vip", silent.replace(f"({name})", f"({name}, group 0, group 1, ...)"))]


def test_an_address_that_a_virtual_router_adds() -> None:
    held = (HeldAddress(interface=ip_interface(f"{VIP}/24")),)
    router = VrrpInstance(name="VI_1", interface="eth0", vrid=1, addresses=held)
    services = (service(), service(vip=OTHER))
    for routers in (
        VrrpConfiguration(instances=(router,)),
        VrrpConfiguration(instances=(replace(router, addresses=(), excluded=held),)),
        VrrpConfiguration(addresses=held),
    ):
        problems = path_problems(Configuration(services, vrrp=routers), (), Known())
        assert [each.object for each in problems] == [str(OTHER)]


def test_an_address_that_a_script_adds() -> None:
    """The script may also remove it, as quorum_down does."""
    add = Script(("/bin/sh", "-c", f"ip addr add {VIP}/32 dev lo"))
    assert found(service(quorum_up=add), here=()) == []
    assert [kind for kind, _ in found(service(quorum_up=Script(("add", "192.0.2.11/32"))), here=())] == ["vip"]
    router = VrrpInstance(name="VI_1", interface="eth0", vrid=1, notify=Notify(master=add))
    for routers in (VrrpConfiguration(instances=(router,)), VrrpConfiguration()):
        problems = path_problems(Configuration((service(),), vrrp=routers), (), Known())
        assert bool(problems) is not bool(routers.instances)


def test_a_check_of_the_server_by_its_own_route_is_no_problem() -> None:
    assert found(service(tcp(), tcp(device="eth0"), MiscCheck(script=Script(("true",))))) == []
    assert found(service(tcp(address=VIP, via_vip=True), method=Method.ROUTE), to_10_0_0_9=through(GATEWAY)) == []
    assert found(service(tcp(device="eth1")), to_10_0_0_9=LOCAL) == [], "the director is the real server"
    assert found(service(tcp(device="eth1")), to_10_0_0_9=None) == [], "no route: the check itself fails"


def test_a_check_of_another_address_or_by_another_device() -> None:
    other = "TCP_CHECK connects to 192.0.2.2 instead"
    device = "TCP_CHECK is bound to eth1, but packets of clients leave by eth0"
    assert found(service(tcp(address=OTHER))) == [("check_path", other)]
    assert found(service(tcp(address=OTHER), tcp(address=OTHER), tcp(device="eth1"))) == [
        ("check_path", f"{other}; {device}")
    ]


def test_a_check_has_the_keyword_of_the_configuration() -> None:
    targets = Target(OTHER, 443), Target(RIP, 443, device="eth1")
    checks = [HttpCheck(target=each, urls=(Url("/"),), tls=True) for each in targets]
    other, device = found(service(*checks))[0][1].split("; ")
    assert other == "SSL_GET connects to 192.0.2.2 instead"
    assert device == "SSL_GET is bound to eth1, but packets of clients leave by eth0"


def test_direct_routing_through_a_gateway() -> None:
    text = "direct routing needs a server on the link, but the route leads to the gateway 10.0.0.254"
    behind: Any = {"to_10_0_0_9": through(GATEWAY)}
    assert found(service(tcp()), **behind) == [("check_path", text)]
    assert found(service(), **behind) == [], "no check says that it is up"
    assert found(service(tcp(), method=Method.TUNNEL), **behind) == []
