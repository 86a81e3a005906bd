"""HeldResources on a real device: added, replaced, removed, and removed by other programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from pylvs.model.routing import HeldAddress, NextHop, Route, RoutingRule
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.netlink.changes import Outcome
from pylvs.vrrp import vip_manager
from pylvs.vrrp.netlink_monitor import AddressAdded, LinkUp, NetlinkMonitor
from pylvs.vrrp.vmac import VmacPlan
from tests.interop.namespaces import ip, on_a_link

VIP = ip_address("192.0.2.100")


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """A network namespace with eth0, which holds 192.0.2.1/24."""
    with on_a_link("master"):
        yield


def route(to: str, **given: Any) -> Route:
    """A route with the virtual address as source, which must exist before."""
    hop = NextHop(via=ip_address("192.0.2.9"), device="eth0")
    return Route(destination=ip_network(to), next_hops=(hop,), source=VIP, **given)


def rule(preference: int, **given: Any) -> RoutingRule:
    return RoutingRule(family=4, table=7, preference=preference, source=ip_network(f"{VIP}/32"), **given)


def router(*routes: Route, rules: tuple[RoutingRule, ...] = (), more: tuple[str, ...] = ()) -> VrrpInstance:
    held = tuple(HeldAddress(interface=ip_interface(each)) for each in (str(VIP), *more))
    return VrrpInstance(name="A", interface="eth0", vrid=51, addresses=held, routes=routes, rules=rules)


def resources(instance: VrrpInstance) -> vip_manager.HeldResources:
    return vip_manager.resources_of(instance, VmacPlan())


def shown() -> tuple[int, int, int]:
    """Return the numbers of virtual addresses, routes and rules."""
    addresses = ip("-4 addr show dev eth0").count("192.0.2.1") - 1
    return addresses, len(ip("route show proto keepalived").splitlines()), ip("rule").count("lookup 7")


def is_automatic(change: object) -> bool:
    """Return whether this is the kernel's link-local address, which it adds when it has checked it for duplicates."""
    return isinstance(change, AddressAdded) and change.interface.ip.is_link_local


def test_adding_and_removing_twice_is_no_error() -> None:
    wanted = resources(router(route("10.0.0.0/8"), rules=(rule(100),)))
    for _ in range(2):
        assert vip_manager.add_resources(wanted) == []
        assert shown() == (1, 1, 1)
    for _ in range(2):
        assert vip_manager.remove_resources(wanted) == []
        assert shown() == (0, 0, 0)


def replace(before: vip_manager.HeldResources, after: vip_manager.HeldResources) -> list[Outcome]:
    return vip_manager.remove_resources(before.without(after)) + vip_manager.add_resources(after.without(before))


def test_a_replacement_touches_only_what_differs() -> None:
    before = resources(router(route("10.0.0.0/8"), route("10.1.0.0/16"), rules=(rule(100), rule(101))))
    after = resources(router(route("10.0.0.0/8"), route("10.2.0.0/16"), rules=(rule(101),), more=("192.0.2.101",)))
    assert vip_manager.add_resources(before) == []
    with closing(NetlinkMonitor()) as monitor:
        assert replace(before, after) == []
        own = [each for each in monitor.read() if not isinstance(each, LinkUp) and not is_automatic(each)]
        assert len(own) == 3  # a route and a rule removed, an address added
    assert shown() == (2, 2, 1)
    assert replace(after, vip_manager.HeldResources()) == []
    assert shown() == (0, 0, 0)


def test_errors_are_messages_and_prevent_nothing_else() -> None:
    lost = Route(destination=ip_network("10.3.0.0/16"), next_hops=(NextHop(device="eth9"),))
    failed = vip_manager.add_resources(resources(router(lost, route("10.0.0.0/8"), rules=(rule(100),))))
    assert failed == [Outcome(False, "route 10.3.0.0/16 could not be added: no device eth9")]
    assert shown() == (1, 1, 1)


def test_tracked_routes_and_rules_that_were_removed_are_lost() -> None:
    tracked, untracked, restored = route("10.0.0.0/8"), route("10.1.0.0/16", tracked=False), route("10.2.0.0/16")
    wanted = resources(router(tracked, untracked, restored, rules=(rule(100), rule(101, tracked=False))))
    assert vip_manager.add_resources(wanted) == []
    with closing(NetlinkMonitor()) as monitor:
        for each in ("10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"):
            ip(f"route del {each}")
        ip("rule del preference 100")
        ip("rule del preference 101")
        ip("route add 10.2.0.0/16 via 192.0.2.9 proto keepalived")
        changes = monitor.read()
        assert vip_manager.lost_resources(wanted, changes, monitor.keys) == {
            "route 10.0.0.0/8",
            "rule 100",
        }
        assert vip_manager.lost_resources(vip_manager.HeldResources(), changes, monitor.keys) == set()


def test_static_resources() -> None:
    address = HeldAddress(interface=ip_interface("192.0.2.100/32"), device="eth0")
    configuration = VrrpConfiguration(addresses=(address,), routes=(route("10.0.0.0/8"),), rules=(rule(100),))
    assert vip_manager.add_resources(vip_manager.static_resources(configuration)) == []
    assert shown() == (1, 1, 1)
    assert vip_manager.remove_resources(vip_manager.static_resources(configuration)) == []
    assert shown() == (0, 0, 0)
