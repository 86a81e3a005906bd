"""Which device that loses its carrier is a fault: the same ones for pylvs as for keepalived."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read
from pylvs.vrrp import router_service
from pylvs.vrrp.control import requests
from pylvs.vrrp.loop import RealtimeStatus
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.router_service import RouterService
from tests.interop import keepalived
from tests.interop.namespaces import ip, on_four_devices
from tests.waiting import until, until_up

REASON = keepalived.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

PATIENCE_S = 60

# `witness` shows when a program has noticed the change.
CONFIGURATION = """
vrrp_instance A {{
 interface eth0
 virtual_router_id 51
 priority 255
 {words}
 virtual_ipaddress {{
  192.168.200.100/24
  {address}
 }}
 {blocks}
}}
vrrp_instance witness {{
 interface eth3
 virtual_router_id 52
 priority 255
 track_interface {{
  eth0
  eth1
 }}
 virtual_ipaddress {{
  192.168.203.100/24
 }}
}}
"""
ON_ETH1 = "192.168.201.100/24 dev eth1"
HOP = "via 192.168.201.9 dev eth1"
CASES = {  # device, words, address, blocks
    "address": ("eth1", "", ON_ETH1, ""),
    "address without tracking": ("eth1", "", f"{ON_ETH1} no_track", ""),
    "excluded address": ("eth1", "", "", f"virtual_ipaddress_excluded {{\n{ON_ETH1}\n}}"),
    "address on an address VMAC": ("eth1", "use_vmac_addr", ON_ETH1, ""),
    "route": ("eth1", "", "", f"virtual_routes {{\n10.9.0.0/16 {HOP}\n}}"),
    "route without tracking": ("eth1", "", "", f"virtual_routes {{\n10.9.0.0/16 {HOP} no_track\n}}"),
    "multipath route": (
        *("eth1", "", ""),
        f"virtual_routes {{\n10.9.0.0/16 nexthop {HOP} nexthop via 192.168.202.9 dev eth2\n}}",
    ),
    "rule's iif": ("eth1", "", "", "virtual_rules {\niif eth1 lookup 100 priority 100\n}"),
    "rule's oif": ("eth1", "", "", "virtual_rules {\noif eth1 lookup 100 priority 100\n}"),
    "rule without tracking": ("eth1", "", "", "virtual_rules {\niif eth1 lookup 100 priority 100 no_track\n}"),
    "interface": ("eth0", "", "", ""),
    "untracked interface": ("eth0", "dont_track_primary", "192.168.200.101/24 dev eth0", ""),
    "untracked interface with a VMAC": ("eth0", "dont_track_primary\nuse_vmac", "", ""),
    "untracked interface, address elsewhere": ("eth1", "dont_track_primary", ON_ETH1, ""),
    "untracked interface, route": (
        *("eth0", "dont_track_primary", ""),
        "virtual_routes {\n10.9.0.0/16 via 192.168.200.9 dev eth0\n}",
    ),
    "untracked interface, rule": (
        *("eth0", "dont_track_primary", ""),
        "virtual_rules {\niif eth0 lookup 100 priority 100\n}",
    ),
}
NO_FAULT = {each for each in CASES if "without" in each} | {
    *("multipath route", "untracked interface", "untracked interface with a VMAC"),
}


class NoHelper:
    """Replaces the helper process: nothing here needs scripts."""

    def __init__(self, *_: Any) -> None:
        pass

    def send(self, message: Any) -> None:
        pass


class NoRoles:
    """There is no packet path."""

    def set_standby(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(router_service, "HelperLink", NoHelper)
    monkeypatch.setattr(router_service, "enable_realtime", lambda settings: RealtimeStatus(0, False))
    monkeypatch.setattr(router_service, "freeze_gc", lambda: None)
    with on_four_devices():
        yield


def fault_of_pylvs(file: Path, pull: Callable[[], None]) -> bool:
    """Return whether A enters FAULT."""
    document, unread = read(str(file))
    assert unread == ()
    service = RouterService("text", NoRoles())
    service._configure(requests.Configure(compile_document(document).configuration.vrrp))
    a, witness = service.routers["A"], service.routers["witness"]

    def run_until(holds: Callable[[], bool]) -> None:
        def check() -> None:
            if holds():
                service.loop.stop()
            else:
                service.loop.at(service.now + 0.01, check)

        service.loop._running = True
        service.loop.at(service.now, check)
        deadline = service.loop.at(service.now + PATIENCE_S, service.loop.stop)
        service.loop.run()
        deadline.cancel()
        assert holds()

    try:
        run_until(lambda: a.state is witness.state is State.MASTER)
        pull()
        run_until(lambda: witness.state is State.FAULT)
        return a.state is State.FAULT
    finally:
        for router in service.routers.values():
            router.stop()
        service._receivers.close()
        service.host.reset()
        service.host.close()
        service._control.close()


def fault_of_keepalived(file: Path, pull: Callable[[], None], plug: Callable[[], None]) -> bool:
    """Return whether A enters FAULT."""
    master = "(witness) Entering MASTER STATE"
    with keepalived.running(file, "-D", lambda log: "(A) Entering MASTER" in log and master in log, PATIENCE_S) as log:
        pull()
        until(lambda: "(witness) Entering FAULT STATE" in log.read_text(), "keepalived has noticed it", PATIENCE_S)
        plug()
        until(lambda: log.read_text().count(master) > 1, "keepalived has noticed the carrier", PATIENCE_S)
        return "(A) Entering FAULT STATE" in log.read_text()


@pytest.mark.parametrize("case", CASES)
def test_a_device_without_carrier_is_a_fault_where_it_is_one_for_keepalived(case: str, tmp_path: Path) -> None:
    device, words, address, blocks = CASES[case]
    file = tmp_path / "keepalived.conf"
    file.write_text(CONFIGURATION.format(words=words, address=address, blocks=blocks))

    def pull() -> None:
        ip(f"link set peer{device} down")

    def plug() -> None:
        ip(f"link set peer{device} up")
        until_up(device)

    expected = case not in NO_FAULT
    assert fault_of_keepalived(file, pull, plug) is expected
    assert fault_of_pylvs(file, pull) is expected
