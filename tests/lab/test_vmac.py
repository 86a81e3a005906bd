"""VMACs on real devices of a network namespace: made, adopted, removed without a trace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.netlink.addresses import hold
from pylvs.system import proc
from pylvs.system.undo_log import Memory, load
from pylvs.vrrp import vmac
from pylvs.vrrp.netlink_monitor import NetlinkMonitor
from pylvs.vrrp.vmac import VmacDevice
from tests.interop.namespaces import inside

FOUR = VmacDevice("vrrp.51", "eth0", bytes.fromhex("00005e000133"), 4)
SIX = VmacDevice("vrrp6.51", "eth0", bytes.fromhex("00005e000233"), 6)


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """A network namespace with eth0, whose other end is peer0."""
    with inside("vmac"):
        for words in ("link add eth0 type veth peer name peer0", "link set peer0 up", "link set eth0 up"):
            subprocess.run(["ip", *words.split()], check=True)
        yield


def made(device: VmacDevice) -> str:
    with closing(NetlinkMonitor()) as watch:
        return vmac.create_vmac(device, watch.links)


def shown(name: str) -> dict[str, Any]:
    done = subprocess.run(["ip", "-d", "-j", "addr", "show", "dev", name], capture_output=True, text=True)
    found = json.loads(done.stdout or "[]")
    return dict(found[0]) if found else {}


def setting(device: str, name: str) -> int:
    return proc.read_number(f"net/ipv4/conf/{device}/{name}")


def test_an_ipv4_vmac_is_a_private_macvlan_that_answers_only_for_its_own_addresses() -> None:
    assert made(FOUR) == ""
    found = shown("vrrp.51")
    assert (found["link"], found["address"], found["linkinfo"]["info_data"]["mode"]) == (
        "eth0",
        "00:00:5e:00:01:33",
        "private",
    )
    assert "UP" in found["flags"]
    assert found["addr_info"] == []
    assert [setting("vrrp.51", name) for name in ("arp_ignore", "accept_local", "rp_filter")] == [1, 1, 0]
    assert proc.read_number("net/ipv6/conf/vrrp.51/disable_ipv6") == 1


def test_an_ipv6_vmac_has_only_the_addresses_that_pylvs_adds() -> None:
    assert made(SIX) == ""
    assert shown("vrrp6.51")["addr_info"] == []
    held = vmac.link_local_source(SIX, ip_address("fe80::7"))
    assert hold([(held, held.device)])[0].done
    (found,) = shown("vrrp6.51")["addr_info"]
    assert (found["local"], found["prefixlen"], found["scope"]) == ("fe80::7", 64, "link")
    assert (found["preferred_life_time"], found["nodad"]) == (0, True)


def test_an_existing_vmac_is_adopted_with_its_addresses() -> None:
    made(FOUR)
    index = shown("vrrp.51")["ifindex"]
    subprocess.run(["ip", "addr", "add", "192.0.2.1/32", "dev", "vrrp.51"], check=True)
    subprocess.run(["ip", "link", "set", "vrrp.51", "down"], check=True)
    assert made(FOUR) == ""
    assert shown("vrrp.51")["ifindex"] == index
    assert "UP" in shown("vrrp.51")["flags"]
    assert [each["local"] for each in shown("vrrp.51")["addr_info"]] == ["192.0.2.1"]


def test_the_name_of_another_device_is_an_error() -> None:
    subprocess.run(["ip", "link", "add", "vrrp.51", "type", "bridge"], check=True)
    assert made(FOUR) == "VMAC vrrp.51: there is another device of that name; rename it, or the VMAC"
    assert made(VmacDevice("v", "eth9", FOUR.mac, 4)) == "VMAC v: there is no device eth9"


def test_removing_one_twice_is_fine() -> None:
    made(FOUR)
    assert not vmac.remove_vmac(FOUR)
    assert shown("vrrp.51") == {}
    assert not vmac.remove_vmac(FOUR)


def test_settings_of_other_devices_are_as_before_at_the_end(tmp_path: Path) -> None:
    proc.write("net/ipv4/conf/all/rp_filter", "1")
    proc.write("net/ipv4/conf/peer0/rp_filter", "2")
    memory = Memory(tmp_path / "settings")
    assert vmac.set_sysctls(memory, [FOUR]) == []
    made(FOUR)
    names = "arp_ignore", "arp_filter", "arp_announce", "rp_filter"
    assert [setting("eth0", name) for name in names] == [1, 1, 2, 1]
    assert [setting(device, "rp_filter") for device in ("all", "default", "peer0", "vrrp.51")] == [0, 1, 2, 0]
    assert vmac.set_sysctls(memory, [FOUR]) == []
    assert vmac.set_sysctls(memory, [], [("net/ipv4/conf/eth0/promote_secondaries", "1")]) == []
    assert setting("eth0", "promote_secondaries") == 1
    vmac.remove_vmac(FOUR)
    restored = load(tmp_path / "settings")
    assert restored.restore_sysctls() == []
    restored.save()
    assert [setting("eth0", name) for name in (*names, "promote_secondaries")] == [0, 0, 0, 0, 0]
    assert [setting(device, "rp_filter") for device in ("all", "default", "peer0")] == [1, 0, 2]
    assert not (tmp_path / "settings").exists()


def test_a_sysctl_that_another_program_changed_stays(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "settings")
    vmac.set_sysctls(memory, [FOUR])
    proc.write("net/ipv4/conf/eth0/arp_ignore", "2")
    assert memory.restore_sysctls() == ["net/ipv4/conf/eth0/arp_ignore"]
    assert (setting("eth0", "arp_ignore"), setting("eth0", "arp_filter")) == (2, 0)


def test_an_ipv6_vmac_changes_no_other_device(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "settings")
    assert vmac.set_sysctls(memory, [SIX]) == []
    assert memory.sysctls == {}
