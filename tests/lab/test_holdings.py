"""A master's addresses, routes and rules on a real device: added, changed, removed, and removed by another program."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from pylvs.model.routing import HeldAddress, NextHop, Route, RoutingRule
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.vrrp import holdings
from pylvs.vrrp.vmac_plan import Plan
from pylvs.vrrp.watching import Watch
from tests.interop.namespaces import ip, on_a_link

VIP = ip_address("192.0.2.100")


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Make a network namespace with eth0, which has 192.0.2.1/24."""
    with on_a_link("master"):
        yield


def way(to: str, **given: Any) -> Route:
    """Return a route from the virtual address, which can only be added after it."""
    hop = NextHop(via=ip_address("192.0.2.9"), device="eth0")
    return Route(destination=ip_network(to), next_hops=(hop,), source=VIP, **given)


def rule(preference: int, **given: Any) -> RoutingRule:
    return RoutingRule(family=4, table=7, preference=preference, source=ip_network(f"{VIP}/32"), **given)


def router(*routes: Route, rules: tuple[RoutingRule, ...] = (), more: tuple[str, ...] = ()) -> VrrpInstance:
    held = tuple(HeldAddress(interface=ip_interface(each)) for each in (str(VIP), *more))
    return VrrpInstance(name="A", interface="eth0", vrid=51, addresses=held, routes=routes, rules=rules)


def having(instance: VrrpInstance) -> holdings.Holdings:
    return holdings.of_instance(instance, Plan())


def shown() -> tuple[int, int, int]:
    """Return the numbers of virtual addresses, routes and rules."""
    addresses = ip("-4 addr show dev eth0").count("192.0.2.1") - 1
    return addresses, len(ip("route show proto keepalived").splitlines()), ip("rule").count("lookup 7")


def test_a_master_has_all_of_it_and_a_backup_none() -> None:
    wanted = having(router(way("10.0.0.0/8"), rules=(rule(100),)))
    for _ in range(2):
        assert holdings.take(wanted) == []
        assert shown() == (1, 1, 1)
    for _ in range(2):
        assert holdings.give_up(wanted) == []
        assert shown() == (0, 0, 0)


def test_a_change_touches_only_what_changed() -> None:
    before = having(router(way("10.0.0.0/8"), way("10.1.0.0/16"), rules=(rule(100), rule(101))))
    after = having(router(way("10.0.0.0/8"), way("10.2.0.0/16"), rules=(rule(101),), more=("192.0.2.101",)))
    assert holdings.take(before) == []
    with Watch(routes=True) as watch:
        assert holdings.change(before, after) == []
        assert len(watch.read()) == 3  # without a route and a rule, with a new address
    assert shown() == (2, 2, 1)
    assert holdings.change(after, holdings.Holdings()) == []
    assert shown() == (0, 0, 0)


def test_errors_are_reported_and_the_rest_is_done() -> None:
    lost = Route(destination=ip_network("10.3.0.0/16"), next_hops=(NextHop(device="eth9"),))
    assert holdings.take(having(router(lost, way("10.0.0.0/8"), rules=(rule(100),)))) == [
        "route 10.3.0.0/16 could not be added: no device eth9"
    ]
    assert shown() == (1, 1, 1)


def test_what_another_program_removed_is_missing_unless_it_is_back_or_optional() -> None:
    minded, not_minded, back = way("10.0.0.0/8"), way("10.1.0.0/16", tracked=False), way("10.2.0.0/16")
    wanted = having(router(minded, not_minded, back, rules=(rule(100), rule(101, tracked=False))))
    assert holdings.take(wanted) == []
    with Watch(routes=True) as watch:
        for each in ("10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"):
            ip(f"route del {each}")
        ip("rule del preference 100")
        ip("rule del preference 101")
        ip("route add 10.2.0.0/16 via 192.0.2.9 proto keepalived")
        changes = watch.read()
        assert holdings.missing(wanted, changes, watch.routes, watch.rules) == {"route 10.0.0.0/8", "rule 100"}
        assert holdings.missing(holdings.Holdings(), changes, watch.routes, watch.rules) == set()


def test_static_ones_are_added_likewise() -> None:
    address = HeldAddress(interface=ip_interface("192.0.2.100/32"), device="eth0")
    configuration = VrrpConfiguration(addresses=(address,), routes=(way("10.0.0.0/8"),), rules=(rule(100),))
    assert holdings.take(holdings.fixed(configuration)) == []
    assert shown() == (1, 1, 1)
    assert holdings.give_up(holdings.fixed(configuration)) == []
    assert shown() == (0, 0, 0)
