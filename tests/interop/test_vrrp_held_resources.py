"""A master's devices have the same addresses, routes and rules with pylvs as with keepalived, as `ip` shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.netlink import addresses
from pylvs.netlink.changes import Outcome
from pylvs.system.undo_log import Memory
from pylvs.vrrp import vip_manager, vmac
from pylvs.vrrp.netlink_monitor import NetlinkMonitor
from pylvs.vrrp.vmac import plan_vmacs
from tests.interop import keepalived
from tests.interop.namespaces import inside, ip
from tests.waiting import until_up

REASON = keepalived.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

PATIENCE_S = 60
SECURE = "global_defs {\n enable_script_security\n script_user root\n}\n"
PASSING = ("ifindex", "link_index", "cstamp", "tstamp", "expires", "stats64", "altnames")

ADDRESSES = """
static_ipaddress {
 192.0.2.7/24 dev eth1
 fd11::2/64 dev eth0 -nodad
}
vrrp_instance A {
 interface eth0
 virtual_router_id 51
 priority 255
 version 3
 promote_secondaries
 virtual_ipaddress {
  10.0.0.100
  10.0.0.101/24 brd + label eth0:vip
  10.0.0.102/25 scope link brd -
  10.0.0.103 dev eth1
  10.0.0.104 peer 10.9.9.9
  10.0.0.105 home noprefixroute
  10.0.0.106/24 preferred_lft 0
 }
 virtual_ipaddress_excluded {
  fe80::99/64 preferred_lft forever
  fd00::100
  fd00::101/64 preferred_lft forever
  fd00::102 preferred_lft forever
  fd00::103/64 -nodad preferred_lft forever
  fd00::104 noprefixroute home
  fd00::105/64 mngtmpaddr dev eth1 preferred_lft forever
  fd00::106 peer fd00::206
 }
}
"""
VMACS = """
vrrp_instance A {
 interface eth0
 virtual_router_id 51
 priority 255
 version 3
 use_vmac
 virtual_ipaddress {
  10.0.0.105
  10.0.0.106/24 dev eth0
  10.0.1.105 dev eth1
  10.0.1.107 dev eth1 use_vmac
 }
 virtual_ipaddress_excluded {
  fd00::77
 }
}
vrrp_instance B {
 interface eth0
 virtual_router_id 51
 priority 255
 version 3
 use_vmac
 virtual_ipaddress {
  fe80::51
  fd00::51/64 preferred_lft forever
 }
}
vrrp_instance C {
 interface eth0
 virtual_router_id 52
 priority 255
 version 3
 use_vmac name52 02:00:00:11:22
 use_vmac_addr
 virtual_ipaddress {
  10.0.0.115
  10.0.1.115/24 dev eth1
 }
}
vrrp_instance D {
 interface eth0
 virtual_router_id 53
 priority 255
 version 3
 use_vmac_addr
 virtual_ipaddress {
  10.0.0.117
  10.0.0.118 dev eth0
 }
 virtual_ipaddress_excluded {
  fd00::118
  fd00::119 dev eth1
 }
}
"""
ROUTES = """
static_routes {
 10.40.0.0/16 via 10.0.0.9 dev eth0
}
static_rules {
 from 10.41.0.0/16 table 41 preference 900
}
vrrp_instance A {
 interface eth0
 virtual_router_id 51
 priority 255
 version 3
 virtual_ipaddress {
  10.0.0.105/24
 }
 virtual_routes {
  10.50.0.0/16 via 10.0.0.9
  10.51.0.0/16 dev eth0 src 10.0.0.105 scope link
  10.51.1.0/24 dev eth0
  default via 10.0.0.8 dev eth0 table 100 metric 7 tos 0x10
  blackhole 10.52.0.0/16
  unreachable 10.53.0.0/16 table 5000
  prohibit 10.54.0.0/16 metric 9
  throw 10.55.0.0/16 table 7
  multicast 224.7.0.0/16 dev eth0
  10.57.0.0/16 nexthop via 10.0.0.9 dev eth0 weight 3 nexthop via 10.0.1.9 dev eth1 weight 256
  10.58.0.0/16 via 10.0.0.9 dev eth0 mtu 1400 advmss lock 1300 rtt 300ms rttvar 1s window 5000 hoplimit 9 quickack 1
  10.59.0.0/16 via 10.99.9.9 dev eth0 onlink realms 5/6
  10.60.0.0/16 via 10.0.0.9 dev eth0 protocol static no_track features ecn rto_min 300ms fastopen_no_cookie 1
  10.61.0.0/16 dev eth0 ttl-propagate enabled congctl cubic initcwnd 20
  10.62.0.0/16 dev eth0 cwnd lock 10 ssthresh 7 reordering 5 initrwnd 6
  fd50::/64 dev eth0
  fd51::/64 via fe80::9 dev eth0 metric 50 pref high
  fd52::/64 via fd00::9 dev eth0 expires 500 mtu lock 1400
  blackhole fd53::/64
  fd54::/64 nexthop via fd00::9 dev eth0 nexthop via fd00::8 dev eth0 weight 2
  default via fe80::8 dev eth0 table 101
 }
 virtual_rules {
  from 10.0.0.0/24 table 100 preference 1000
  to 10.7.0.0/24 lookup 101 preference 1001
  not from 10.3.0.0/16 iif eth0 oif eth1 fwmark 0x5/0xff tos 0x10 table 99 preference 1002
  from 10.8.0.0/16 blackhole preference 1003
  from 10.1.0.0/16 goto 2000 preference 1004
  from 10.1.0.0/16 unreachable preference 1005
  iif eth0 prohibit preference 1006
  l3mdev preference 1007
  from 10.5.0.0/16 table 5000 uidrange 10-20 preference 1008 protocol 77 no_track
  from 10.5.0.0/16 table 5 ipproto tcp sport 10-20 dport 80-80 preference 1009
  from 10.6.0.0/16 table 5 realms 3/4 suppress_prefixlength 8 suppress_ifgroup 3 preference 1010
  from fd50::/64 table 9 preference 1011
  from all nop preference 2000
 }
}
"""


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """A network namespace with eth0 and eth1, each with addresses of its own."""
    with inside("holdings"):
        for number in (0, 1):
            ip(f"link add eth{number} type veth peer name peer{number}")
            ip(f"link set peer{number} addrgenmode none up")
            ip(f"link set eth{number} addrgenmode none up")
            ip(f"addr add 10.0.{number}.1/24 dev eth{number}")
            ip(f"addr add fe80::{number + 1}/64 dev eth{number} nodad")
        ip("addr add fd00::1/64 dev eth0 nodad")
        until_up("eth0", "eth1")  # the kernel adds IPv6 routes then
        yield


def settled(found: Any) -> Any:
    """Remove numbers that differ each time."""
    if isinstance(found, dict):
        kept = {name: settled(value) for name, value in found.items() if name not in PASSING}
        if kept.get("preferred_life_time", 0xFFFFFFFF) not in (0, 0xFFFFFFFF):
            kept["preferred_life_time"] = "some"
        return kept
    return [settled(each) for each in found] if isinstance(found, list) else found


def seen() -> dict[str, list[str]]:
    """Return devices, addresses, routes and rules as `ip` prints them."""
    asked = {
        name: f"-d -j {name}" for name in ("-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all")
    }
    found = {name: sorted(map(json.dumps, settled(json.loads(ip(words) or "[]")))) for name, words in asked.items()}
    devices = settled(json.loads(ip("-d -j addr")))
    for device in devices:
        for each in device["addr_info"]:
            found.setdefault(f"address on {device['ifname']}", []).append(json.dumps(each))
        device["addr_info"] = []
        found[f"device {device['ifname']}"] = [json.dumps(device)]
    # keepalived leaves IPv6 on in the VMAC of an IPv4 router that holds IPv6 addresses elsewhere; pylvs does not.
    return {name: sorted(line for line in lines if '"ff00::/8"' not in line) for name, lines in found.items()}


@contextmanager
def by_pylvs(vrrp: VrrpConfiguration, folder: Path) -> Iterator[None]:
    """Add what pylvs adds for a master, and remove it."""
    memory = Memory(folder / "settings")
    with closing(NetlinkMonitor()) as monitor:
        vmacs = plan_vmacs(vrrp.instances, vrrp.settings, monitor.links)
        for device in vmacs.devices:
            assert vmac.set_sysctls(memory, [device]) == []
            assert not vmac.create_vmac(device, monitor.links)
        sources = [
            vmac.link_local_source(device, source)
            for device in vmacs.devices
            if device.family == 6 and (source := monitor.primary_address(device.base, 6)) is not None
        ]
    fine(*addresses.hold([(each, each.device) for each in sources]))
    parts = [
        vip_manager.static_resources(vrrp),
        *(vip_manager.resources_of(instance, vmacs) for instance in vrrp.instances),
    ]
    try:
        for _ in range(2):
            assert [error for part in parts for error in vip_manager.add_resources(part)] == []
        yield
    finally:
        for _ in range(2):
            assert [error for part in parts for error in vip_manager.remove_resources(part)] == []
            assert not any(map(vmac.remove_vmac, vmacs.devices))
        assert memory.restore_sysctls() == []


def fine(*outcomes: Outcome) -> None:
    assert [each.error for each in outcomes if not each.done] == []


@contextmanager
def by_keepalived(file: Path) -> Iterator[None]:
    """Run keepalived as master."""
    routers = file.read_text().count("vrrp_instance")
    with keepalived.running(file, "-D", lambda log: log.count("Entering MASTER STATE") >= routers, PATIENCE_S):
        yield


def without_doubt() -> dict[str, list[str]]:
    """Return the result once duplicate address detection has ended (RFC 4862 5.4)."""
    deadline = time.monotonic() + PATIENCE_S
    while "tentative" in str(found := seen()) or _addresses_without_route(found):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def _addresses_without_route(found: dict[str, list[str]]) -> set[str]:
    """Return IPv6 addresses without a route in the table `local`: the kernel adds it after it clears `tentative`."""
    addresses = [json.loads(line) for name, lines in found.items() if name.startswith("address on ") for line in lines]
    routes = {json.loads(line)["dst"] for line in found.get("-6 route show table all", ())}
    return {each["local"] for each in addresses if each["family"] == "inet6"} - routes


def differences(ours: dict[str, list[str]], theirs: dict[str, list[str]]) -> list[str]:
    """Return what only one of them has."""
    found: list[str] = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(name, []), theirs.get(name, [])
        found += [f"{name}: only pylvs: {each}" for each in mine if each not in other]
        found += [f"{name}: only keepalived: {each}" for each in other if each not in mine]
    return found


@pytest.mark.parametrize("text", [ADDRESSES, VMACS, ROUTES], ids=["addresses", "vmacs", "routes and rules"])
def test_a_master_has_what_keepalived_has_and_removes_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(SECURE + text)
    document, unread = read(str(file))
    assert unread == ()
    vrrp = compile_document(document).configuration.vrrp
    before = without_doubt()
    with by_pylvs(vrrp, tmp_path):
        ours = without_doubt()
    assert differences(seen(), before) == []
    assert ours != before
    with by_keepalived(file):
        deadline = time.monotonic() + PATIENCE_S
        while (found := differences(ours, seen())) and time.monotonic() < deadline:
            time.sleep(0.2)
    assert found == []
