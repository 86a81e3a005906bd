"""Which virtual addresses this host lacks: those of its virtual routers, and local routes, are not among them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.dataplane import vip_roles
from pylvs.dataplane.devices import host
from pylvs.dataplane.vip_roles import VipRoles
from pylvs.netlink.links import LOCAL_ROUTE, Route, Routes

HERE, ROUTER, STANDBY, ROUTED, AWAY, NOWHERE = (ip_address(f"192.0.2.{number}") for number in range(1, 7))


def test_only_an_address_by_which_no_packet_comes_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = {ROUTED: Route(1, None, None, LOCAL_ROUTE, 0), AWAY: Route(1, None, None, 1, 0), NOWHERE: None}
    roles = VipRoles(standby=frozenset({STANDBY}), held=frozenset({ROUTER}))
    monkeypatch.setattr(host, "local_addresses", lambda: {HERE})
    monkeypatch.setattr(vip_roles, "stored", lambda cookie: roles)
    monkeypatch.setattr(Routes, "to", lambda self, address: routes[address])
    found = host.absent([HERE, ROUTER, STANDBY, ROUTED, AWAY, NOWHERE])
    assert found == {AWAY: "lo", NOWHERE: "DEVICE"}
