"""VMACs' names and who is on them; what is expected is what keepalived 2.2.7 made of the same lines."""

from __future__ import annotations

import sys
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

import pytest

from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import Ipvlan, IpvlanMode, Vmac, VrrpInstance, VrrpSettings
from pylvs.netlink import codec
from pylvs.netlink.codec import attributes
from pylvs.vrrp.netlink_monitor import Link, vrf_of
from pylvs.vrrp.vmac import VmacDevice, VmacPlan, creation, free_name, mac_of, plan_vmacs

SETTINGS = VrrpSettings()


def existing_link(index: int, mac: bytes = b"", below: int = 0, kind: str = "") -> Link:
    return Link(index, "", mac, below=below, kind=kind)


def router(name: str, vrid: int, *addresses: str, family: int = 4, **given: Any) -> VrrpInstance:
    """Addresses are written `ADDRESS [dev DEVICE] [use_vmac]`; those of the other family are excluded ones."""
    held = [_held(text) for text in addresses]
    return VrrpInstance(
        name=name,
        interface=given.pop("interface", "eth0"),
        vrid=vrid,
        family=family,
        addresses=tuple(each for each in held if each.interface.version == family),
        excluded=tuple(each for each in held if each.interface.version != family),
        **given,
    )


def _held(text: str) -> HeldAddress:
    words = text.split()
    device = words[words.index("dev") + 1] if "dev" in words else ""
    return HeldAddress(interface=ip_interface(words[0]), device=device, own_vmac="use_vmac" in words)


def devices_of(found: VmacPlan, instance: VrrpInstance) -> dict[str, str]:
    return {str(held.interface.ip): device for held, device in found.placed(instance)}


def test_a_router_holds_the_addresses_of_its_family_on_its_vmac_and_the_rest_on_their_devices() -> None:
    one = router("A", 51, "10.0.0.5", "10.0.0.6 dev eth0", "10.0.1.5 dev eth1", "fd00::7", vmac=Vmac())
    found = plan_vmacs([one], SETTINGS)
    assert found.devices == [VmacDevice("vrrp.51", "eth0", bytes.fromhex("00005e000133"), 4)]
    assert devices_of(found, one) == {
        "10.0.0.5": "vrrp.51",
        "10.0.0.6": "vrrp.51",
        "10.0.1.5": "eth1",
        "fd00::7": "eth0",
    }
    assert found.device_of(one) == "vrrp.51"


def test_without_a_vmac_all_are_on_the_devices_themselves() -> None:
    one = router("A", 51, "10.0.0.5", "10.0.1.5 dev eth1")
    found = plan_vmacs([one], SETTINGS)
    assert found.devices == []
    assert (devices_of(found, one), found.device_of(one)) == ({"10.0.0.5": "eth0", "10.0.1.5": "eth1"}, "eth0")


def test_an_address_may_have_a_vmac_of_its_own() -> None:
    one = router("C", 52, "10.0.0.115 use_vmac", "10.0.0.116", "10.0.1.116 dev eth1 use_vmac", "fd00::115 use_vmac")
    found = plan_vmacs([one], SETTINGS)
    assert [(each.name, each.base, each.mac.hex(":")) for each in found.devices] == [
        ("vrrp.52", "eth0", "00:00:5e:00:01:34"),
        ("vrrp1.52", "eth1", "00:00:5e:00:01:34"),
        ("vrrp6.52", "eth0", "00:00:5e:00:02:34"),
    ]
    assert list(devices_of(found, one).values()) == ["vrrp.52", "eth0", "vrrp1.52", "vrrp6.52"]
    assert found.device_of(one) == "eth0"


def test_use_vmac_addr_gives_one_to_what_is_not_on_the_router_s_own_device_or_not_of_its_family() -> None:
    lines = "10.0.0.117", "10.0.0.118 dev eth0", "fd00::118", "fd00::119 dev eth1"
    one = router("D", 53, *lines, vmac=Vmac(here=False, for_addresses=True))
    assert list(devices_of(plan_vmacs([one], SETTINGS), one).values()) == ["eth0", "eth0", "vrrp.53", "vrrp6.53"]
    both = router("E", 54, "10.0.0.127", "10.0.0.128 dev eth0", "fd00::128", vmac=Vmac(for_addresses=True))
    assert list(devices_of(plan_vmacs([both], SETTINGS), both).values()) == ["vrrp.54", "vrrp.54", "vrrp6.54"]


def test_a_name_that_is_taken_gets_a_number() -> None:
    six, four = router("B", 51, "fe80::51", family=6, vmac=Vmac()), router("A", 51, "10.0.0.5", vmac=Vmac())
    assert [each.name for each in plan_vmacs([six, four], SETTINGS).devices] == ["vrrp.51", "vrrp1.51"]
    assert [each.name for each in plan_vmacs([four, six], SETTINGS).devices] == ["vrrp.51", "vrrp6.51"]
    assert free_name("va", 52, 6, {"va.52", "va1.52", "va6.52"}) == "va2.52"
    assert [each.name for each in plan_vmacs([four], SETTINGS, {"vrrp.51": existing_link(9)}).devices] == ["vrrp1.51"]


def test_names_prefixes_and_mac_addresses_are_as_written() -> None:
    settings = VrrpSettings(vmac_prefix="vm", vmac_address_prefix="va")
    own = Vmac("name52", bytes.fromhex("0200001122"), for_addresses=True)
    one = router("C", 52, "10.0.0.115", "10.0.1.115/24 dev eth1", vmac=own)
    mac = bytes.fromhex("020000112234")
    expected = [VmacDevice("name52", "eth0", mac, 4), VmacDevice("va.52", "eth1", mac, 4)]
    assert plan_vmacs([one], settings).devices == expected
    assert plan_vmacs([router("A", 1, vmac=Vmac())], settings).devices[0].name == "vm.1"


@pytest.mark.parametrize(
    ("given", "family", "mac"),
    [
        (None, 4, "00:00:5e:00:01:07"),
        (None, 6, "00:00:5e:00:02:07"),
        (bytes(5), 4, "00:00:00:00:00:07"),
        (bytes(6), 6, "00:00:00:00:00:00"),
    ],
)
def test_the_mac_address_is_the_standard_s_or_the_given_one(given: bytes | None, family: int, mac: str) -> None:
    assert mac_of(router("A", 7, vmac=Vmac(mac=given)), family).hex(":") == mac


def test_what_a_former_process_left_keeps_its_name() -> None:
    one = router("A", 51, "10.0.0.5", vmac=Vmac())
    mac = bytes.fromhex("00005e000133")
    existing = {
        "eth0": existing_link(2),
        "eth1": existing_link(3),
        "other": existing_link(8, mac, 3, "macvlan"),
        "vip": existing_link(9, mac, 2, "macvlan"),
    }
    assert plan_vmacs([one], SETTINGS, existing).devices == [VmacDevice("vip", "eth0", mac, 4)]
    existing["vip"] = existing_link(9, mac, 2, "ipvlan")
    assert plan_vmacs([one], SETTINGS, existing).devices[0].name == "vrrp.51"


IPVLAN = Ipvlan(IpvlanMode.PRIVATE, ip_interface("10.0.0.9/24"))


def test_an_ipvlan_has_a_name_of_its_own_and_no_address_of_the_virtual_router() -> None:
    one = router("A", 51, "10.0.0.5", "10.0.1.5 dev eth1 use_vmac", vmac=Vmac(ipvlan=IPVLAN))
    found = plan_vmacs([one], SETTINGS)
    mac = bytes.fromhex("00005e000133")
    first, second = found.devices
    assert first == VmacDevice("vrrp.51", "eth0", mac, 4, IPVLAN)
    assert (second.name, second.base, second.ipvlan) == ("vrrp1.51", "eth1", None)
    assert devices_of(found, one) == {"10.0.0.5": "vrrp.51", "10.0.1.5": "vrrp1.51"}


def test_an_ipvlan_that_a_former_process_left_is_adopted_by_name() -> None:
    one = router("A", 51, "10.0.0.5", vmac=Vmac(ipvlan=IPVLAN))
    other = router("B", 52, "10.0.0.6", vmac=Vmac(ipvlan=IPVLAN))
    existing = {"eth0": existing_link(2), "vrrp.52": existing_link(7, below=2, kind="ipvlan")}
    assert [each.name for each in plan_vmacs([one, other], SETTINGS, existing).devices] == ["vrrp.51", "vrrp.52"]


def test_the_message_that_creates_an_ipvlan() -> None:
    device = VmacDevice("iv0", "eth0", b"", 4, IPVLAN)
    found = attributes(creation(device, base=2, vrf=9), codec.IFINFOMSG.size)
    assert (found[3], found[5], found[10]) == (b"iv0\0", u32_of(2), u32_of(9))
    info = attributes(found[18])
    assert info[1] == b"ipvlan\0"
    assert attributes(info[2]) == {1: (0).to_bytes(2, sys.byteorder), 2: (1).to_bytes(2, sys.byteorder)}
    assert 1 not in found, "an ipvlan has the base device's link address"


def u32_of(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def test_the_vrf_of_a_device() -> None:
    links = {
        "eth0": replace(existing_link(2), name="eth0", master=9),
        "eth1": replace(existing_link(3), name="eth1", master=8),
        "red": replace(existing_link(9, kind="vrf"), name="red"),
        "br0": replace(existing_link(8, kind="bridge"), name="br0"),
    }
    found = vrf_of(links, "eth0")
    assert found is not None
    assert found.name == "red"
    assert (vrf_of(links, "eth1"), vrf_of(links, "red"), vrf_of(links, "eth9")) == (None, None, None)
