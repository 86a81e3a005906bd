"""Whether a device answers ARP for an address, by arp_ignore (arp_ignore in net/ipv4/arp.c)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.doctor.probes.real_server.address import answers_by_settings
from pylvs.netlink.links import AssignedAddress, Device

VIP = ip_address("10.0.0.100")
ETH0 = Device(2, "eth0", bytes(6), "", True, False, 1500, 0, 0, ())


def _held(index: int, prefix: int = 32, scope: int = 0) -> AssignedAddress:
    return AssignedAddress(index, VIP, VIP, prefix, "", scope=scope)


@pytest.mark.parametrize(
    ("ignore", "held", "answers"),
    [
        (0, _held(1), True),
        (1, _held(1), False),
        (1, _held(2), True),
        (2, _held(2), False),  # no sender is in the network of one address
        (2, _held(2, 24), True),
        (3, _held(1), True),
        (3, _held(1, scope=254), False),
        (4, _held(1), True),  # as the kernel treats values that it does not know
        (8, _held(2), False),
    ],
)
def test_the_values_of_arp_ignore(ignore: int, held: AssignedAddress, answers: bool) -> None:
    """An address on lo (1) or on the device itself (2)."""
    assert answers_by_settings(ignore, [held], ETH0) is answers
