"""Whether a director answers ARP for a virtual address."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.doctor.facts import Facts
from pylvs.doctor.probes.address import _card, _suppressed, answers_arp
from pylvs.netlink.links import AssignedAddress, Device

VIP, DIP = ip_address("10.0.0.100"), ip_address("10.0.0.10")
MAC = b"\x02\x00\x00\x00\x0d\x00"
LO = Device(1, "lo", bytes(6), "", True, True, 65536, 0, 0, (VIP,))
ETH0 = Device(2, "eth0", MAC, "veth", True, False, 1500, 0, 0, (DIP,))
VMAC = Device(3, "vrrp.51", b"\x00\x00\x5e\x00\x01\x33", "macvlan", True, False, 1500, 0, 2, (VIP,))


@pytest.mark.parametrize(
    ("ignore", "here", "is_alone", "answers"),
    [
        (0, False, True, True),
        (1, True, True, True),
        (1, False, True, False),
        (2, True, False, True),
        (2, True, True, False),
        (3, False, True, True),
        (8, True, False, False),
    ],
)
def test_arp_ignore(ignore: int, here: bool, is_alone: bool, answers: bool) -> None:
    """As ip-sysctl.rst of the kernel has it."""
    assert answers_arp(ignore, here, is_alone) is answers


@pytest.mark.parametrize(("holder", "found"), [(LO, ["vip_without_arp"]), (VMAC, [])], ids=["lo", "VMAC"])
def test_a_vmac_answers_beside_the_device_below_it(
    monkeypatch: pytest.MonkeyPatch, holder: Device, found: list[str]
) -> None:
    """arp_ignore 1 on the device below is what a VMAC needs; with the address on lo it silences the director."""
    vip = AssignedAddress(holder.index, VIP, VIP, 32, "")
    facts = Facts()
    facts.once("devices", lambda: [LO, ETH0, VMAC])
    facts.once("addresses", lambda: [AssignedAddress(2, DIP, DIP, 24, ""), vip])
    facts.once("services", list)
    facts.once("has_tables", lambda: True)
    monkeypatch.setattr(Facts, "number", lambda self, path: 1)
    assert [finding.id for finding in _suppressed(facts, vip, holder)] == found


def test_a_command_names_a_device_although_none_has_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only card, or the one without IPv6; with several it is for the operator to say."""
    six, second = ip_address("fd00::1"), Device(4, "eth1", MAC, "veth", True, False, 1500, 0, 0, ())
    facts = Facts()
    devices = [LO, ETH0]
    facts.once("devices", lambda: devices)
    monkeypatch.setattr(Facts, "number", lambda self, path: int("eth0" in path))
    assert [_card(facts, six, name) for name in ("DEVICE", "lo")] == ["eth0", "lo"]
    devices.append(second)
    assert [_card(facts, address, "DEVICE") for address in (six, VIP)] == ["eth0", "DEVICE"]
