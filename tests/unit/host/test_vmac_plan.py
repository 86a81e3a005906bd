"""VMACs' names and who is on them; what is expected is what keepalived 2.2.7 made of the same lines."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

import pytest

from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import Vmac, VrrpInstance, VrrpSettings
from pylvs.vrrp.vmac_plan import Plan, VmacDevice, free, mac_of, plan

SETTINGS = VrrpSettings()


@dataclass(frozen=True)
class There:
    index: int
    mac: bytes = b""
    below: int = 0
    kind: str = ""


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


def places(found: Plan, instance: VrrpInstance) -> dict[str, str]:
    return {str(held.interface.ip): device for held, device in found.placed(instance)}


def test_a_router_holds_the_addresses_of_its_family_on_its_vmac_and_the_rest_where_they_say() -> None:
    one = router("A", 51, "10.0.0.5", "10.0.0.6 dev eth0", "10.0.1.5 dev eth1", "fd00::7", vmac=Vmac())
    found = plan([one], SETTINGS)
    assert found.devices == [VmacDevice("vrrp.51", "eth0", bytes.fromhex("00005e000133"), 4)]
    assert places(found, one) == {"10.0.0.5": "vrrp.51", "10.0.0.6": "vrrp.51", "10.0.1.5": "eth1", "fd00::7": "eth0"}
    assert found.device_of(one) == "vrrp.51"


def test_without_a_vmac_all_are_on_the_devices_themselves() -> None:
    one = router("A", 51, "10.0.0.5", "10.0.1.5 dev eth1")
    found = plan([one], SETTINGS)
    assert found.devices == []
    assert (places(found, one), found.device_of(one)) == ({"10.0.0.5": "eth0", "10.0.1.5": "eth1"}, "eth0")


def test_an_address_may_have_a_vmac_of_its_own() -> None:
    one = router("C", 52, "10.0.0.115 use_vmac", "10.0.0.116", "10.0.1.116 dev eth1 use_vmac", "fd00::115 use_vmac")
    found = plan([one], SETTINGS)
    assert [(each.name, each.base, each.mac.hex(":")) for each in found.devices] == [
        ("vrrp.52", "eth0", "00:00:5e:00:01:34"),
        ("vrrp1.52", "eth1", "00:00:5e:00:01:34"),
        ("vrrp6.52", "eth0", "00:00:5e:00:02:34"),
    ]
    assert list(places(found, one).values()) == ["vrrp.52", "eth0", "vrrp1.52", "vrrp6.52"]
    assert found.device_of(one) == "eth0"


def test_use_vmac_addr_gives_one_to_what_is_not_on_the_router_s_own_device_or_not_of_its_family() -> None:
    lines = "10.0.0.117", "10.0.0.118 dev eth0", "fd00::118", "fd00::119 dev eth1"
    one = router("D", 53, *lines, vmac=Vmac(here=False, for_addresses=True))
    assert list(places(plan([one], SETTINGS), one).values()) == ["eth0", "eth0", "vrrp.53", "vrrp6.53"]
    both = router("E", 54, "10.0.0.127", "10.0.0.128 dev eth0", "fd00::128", vmac=Vmac(for_addresses=True))
    assert list(places(plan([both], SETTINGS), both).values()) == ["vrrp.54", "vrrp.54", "vrrp6.54"]


def test_a_name_that_is_taken_gets_a_number() -> None:
    six, four = router("B", 51, "fe80::51", family=6, vmac=Vmac()), router("A", 51, "10.0.0.5", vmac=Vmac())
    assert [each.name for each in plan([six, four], SETTINGS).devices] == ["vrrp.51", "vrrp1.51"]
    assert [each.name for each in plan([four, six], SETTINGS).devices] == ["vrrp.51", "vrrp6.51"]
    assert free("va", 52, 6, {"va.52", "va1.52", "va6.52"}) == "va2.52"
    assert [each.name for each in plan([four], SETTINGS, {"vrrp.51": There(9)}).devices] == ["vrrp1.51"]


def test_names_prefixes_and_mac_addresses_are_as_written() -> None:
    settings = VrrpSettings(vmac_prefix="vm", vmac_address_prefix="va")
    own = Vmac("name52", bytes.fromhex("0200001122"), for_addresses=True)
    one = router("C", 52, "10.0.0.115", "10.0.1.115/24 dev eth1", vmac=own)
    mac = bytes.fromhex("020000112234")
    expected = [VmacDevice("name52", "eth0", mac, 4), VmacDevice("va.52", "eth1", mac, 4)]
    assert plan([one], settings).devices == expected
    assert plan([router("A", 1, vmac=Vmac())], settings).devices[0].name == "vm.1"


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
        "eth0": There(2),
        "eth1": There(3),
        "other": There(8, mac, 3, "macvlan"),
        "vip": There(9, mac, 2, "macvlan"),
    }
    assert plan([one], SETTINGS, existing).devices == [VmacDevice("vip", "eth0", mac, 4)]
    existing["vip"] = There(9, mac, 2, "ipvlan")
    assert plan([one], SETTINGS, existing).devices[0].name == "vrrp.51"
