"""Routes and rules of a real kernel in a network namespace: added, removed, refused."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pylvs.model.routing import NextHop, Route, RoutingRule
from pylvs.netlink import routes
from tests.interop.namespaces import ip, on_a_link


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Make a network namespace with eth0, which has 192.0.2.1/24."""
    with on_a_link("routes"):
        yield


def shown(family: int = 4) -> list[str]:
    return ip(f"-{family} route show table all proto keepalived").splitlines()


def route(to: str, via: str = "192.0.2.9", device: str = "eth0", **given: Any) -> Route:
    hop = NextHop(via=ip_address(via) if via else None, device=device)
    return Route(destination=ip_network(to), next_hops=(hop,), **given)


def test_routes_and_rules_are_added_and_removed_repeatedly() -> None:
    ways = [route("10.0.0.0/8"), route("fd00::/64", ""), Route(destination=ip_network("10.1.0.0/16"), kind="prohibit")]
    rules = [RoutingRule(family=each, table=7, preference=100, iif="eth0") for each in (4, 6)]
    for _ in range(2):
        assert all(each.done for each in (*routes.add(ways), *routes.add_rules(rules)))
        assert [each.split()[:2] for each in shown()] == [["10.0.0.0/8", "via"], ["prohibit", "10.1.0.0/16"]]
        assert len(shown(6)) == 1
        assert ip("rule").count("iif eth0 lookup 7") == ip("-6 rule").count("iif eth0 lookup 7") == 1
    for _ in range(2):
        assert all(each.done for each in (*routes.remove(ways), *routes.remove_rules(rules)))
        assert (shown(), shown(6)) == ([], [])
        assert "eth0" not in ip("rule") + ip("-6 rule")


def test_only_our_route_is_removed() -> None:
    ip("route add 10.0.0.0/8 via 192.0.2.8 proto static metric 5")
    ip("route add 10.0.0.0/8 via 192.0.2.7 proto keepalived metric 6")
    assert all(each.done for each in routes.remove([route("10.0.0.0/8"), route("10.0.0.0/8", metric=5)]))
    assert len(ip("route show 10.0.0.0/8").splitlines()) == 2


def test_an_appended_route_is_behind_the_existing_one() -> None:
    ip("route add 10.0.0.0/8 via 192.0.2.8")
    assert routes.add([route("10.0.0.0/8", append=True)])[0].done
    assert [line.split()[2] for line in ip("route show 10.0.0.0/8").splitlines()] == ["192.0.2.8", "192.0.2.9"]


def test_a_refused_route_is_reported_and_the_others_are_added() -> None:
    ways = [route("10.0.0.0/8", "203.0.113.1"), route("10.1.0.0/16", device="eth9"), route("10.2.0.0/16")]
    outcomes = routes.add(ways)
    assert [each.done for each in outcomes] == [False, False, True]
    assert outcomes[0].error == (
        "route 10.0.0.0/8 could not be added: Network is unreachable (Nexthop has invalid gateway)"
    )
    assert outcomes[1].error == "route 10.1.0.0/16 could not be added: no device eth9"
    assert all(each.done for each in routes.remove(ways))
    wrong = RoutingRule(family=4, action="goto", goto=5, preference=9)
    assert routes.add_rules([wrong])[0].error.startswith("rule 9 could not be added: Invalid argument")
